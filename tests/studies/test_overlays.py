"""The overlays of the studies lie over their bundle's training without a name that nothing reads."""

from __future__ import annotations

import pathlib
import runpy

import pytest
from hiresmed.cli.door import check_ids, config_contents
from monai.bundle import ConfigParser

STUDIES = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "studies"
config_files = runpy.run_path(str(STUDIES / "study.py"))["config_files"]
BUNDLES = STUDIES.parents[1] / "bundles"
OVERLAYS = sorted(STUDIES.glob("*/*.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_front_door_takes_it(overlay):
    bundle = BUNDLES / overlay.parent.name
    common = ["studies/study.yaml"] if (overlay.parent / "study.yaml").is_file() else []
    parser = ConfigParser()
    parser.read_config(config_files(bundle, ["train.yaml", *common, f"studies/{overlay.name}"]))
    check_ids(parser.get(), config_contents(bundle / "configs", parser))


def test_a_bundles_own_configs_are_named_as_before_and_absolute_paths_stay(tmp_path):
    bundle = BUNDLES / "msgan_ct3d"
    files = config_files(bundle, ["train.yaml", "studies/base_first.yaml", tmp_path / "cases.json"])
    assert files == [
        str(bundle / "configs/train.yaml"), str(STUDIES / "msgan_ct3d/base_first.yaml"), str(tmp_path / "cases.json"),
    ]  # fmt: skip
