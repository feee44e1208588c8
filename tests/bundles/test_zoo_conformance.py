"""The Model Zoo's checks on exported folders, alone: outside the repository, from a foreign folder, without network."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from front_door import SMALL_TRAININGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))


def python(*words, cwd) -> subprocess.CompletedProcess:
    """Python that finds nothing through PYTHONPATH, in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_an_exported_bundle_passes_every_check_of_the_zoo(bundle, tmp_path):
    done = python(ROOT / "scripts/export_bundle.py", bundle, "--output_dir", tmp_path / "dist", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    (zipped,) = (tmp_path / "dist").glob("*.zip")
    schema = ROOT / "tests/schemas/meta_schema_20240725.json"
    words = ("--zip", zipped, "--schema", schema, "--train", json.dumps(SMALL_TRAININGS.get(bundle.name, {})))
    done = python(ROOT / "scripts/check_bundle.py", tmp_path / "dist" / bundle.name, *words, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = dict(line.split(": ", 2)[1:] for line in done.stdout.splitlines() if line.count(": ") == 2)
    assert {lines[name] for name in ("net in out", "ckpt export", "load", "download", "keys of inference")} == {"ok"}
    assert lines["metadata"] == lines["keys of training"] == lines["needs nothing of the repository"] == "ok"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.slow
def test_two_releases_in_one_process_each_load_their_own_network(tmp_path):
    """Through monai.bundle.load itself, from a folder that holds neither."""
    newer = pathlib.Path(shutil.copytree(ROOT / "bundles/msgan_xray2d", tmp_path / "b" / "msgan_xray2d"))
    path = newer / "configs/metadata.json"
    path.write_text(path.read_text().replace('"0.1.0"', '"0.2.0"'))
    for source, into in ((ROOT / "bundles/msgan_xray2d", "old"), (newer, "new")):
        done = python(ROOT / "scripts/export_bundle.py", source, "--output_dir", tmp_path / into, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    changed = tmp_path / "new/msgan_xray2d/msgan_xray2d_lib/v0_2_0/methods/msgan/generator.py"
    changed.write_text(changed.read_text() + "\nMultiScaleGenerator.newer = True\n")
    code = (
        "import sys\nfrom monai.bundle import load\n"
        "for folder in ('old', 'new', 'old'):\n"
        f"    sys.path.insert(0, {str(tmp_path)!r} + '/' + folder + '/msgan_xray2d')\n"
        f"    network = load('msgan_xray2d', bundle_dir={str(tmp_path)!r} + '/' + folder, workflow_type='inference')\n"
        "    print(type(network).__module__, hasattr(network, 'newer'))\n"
    )
    (tmp_path / "elsewhere").mkdir()
    done = python("-c", code, cwd=tmp_path / "elsewhere")
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("msgan_xray2d_lib")] == [
        ["msgan_xray2d_lib.v0_1_0.methods.msgan.generator", "False"],
        ["msgan_xray2d_lib.v0_2_0.methods.msgan.generator", "True"],
        ["msgan_xray2d_lib.v0_1_0.methods.msgan.generator", "False"],
    ], done.stderr[-2000:]
