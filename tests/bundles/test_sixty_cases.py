"""Sixty volumes of which one is broken, one is misnamed and one is of another modality: 57 results, in flat memory."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import dicom_files
import front_door
import nibabel
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SCANS = front_door.FrontDoor("msgan_ct3d", tile_size=32, base_size=16)
AFFINE = np.diag([-2.0, -2, 2, 1])
SENTENCES = {
    "broken": "broken.nii.gz must be a whole gzip file, got a truncated or damaged one",
    "misnamed": "misnamed.nii.gz must be a NIfTI image, got a file that nibabel cannot read",
    "mr": "check ignore|another modality|must be a CT",
}
FLAT = 24e6  # bytes by which the anonymous memory of the last third of the cases may exceed that of the second


def folder_of(count: int, folder: Path) -> Path:
    """Volumes of 40 x 36 x 32 voxels with different noise, three of them of no use."""
    folder.mkdir()
    scan = front_door.bricks((40, 36, 32), -1000, 600, np.int16)
    for n in range(count - 3):
        noise = np.random.default_rng(n).integers(-20, 20, scan.shape)
        nibabel.save(nibabel.Nifti1Image((scan + noise).astype(np.int16), AFFINE), folder / f"case_{n:02d}.nii.gz")
    whole = (folder / "case_00.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "misnamed.nii.gz").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    dicom_files.write_series(folder / "mr", scan.astype(np.float32), AFFINE)
    return folder


def anonymous_bytes(process: int) -> int:
    """What a process holds that no file stands behind."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


def assert_three_sentences(folder: Path, count: int, output: str, tracebacks: int = 0) -> None:
    results = sorted(path.parent.name for path in folder.rglob("report.json"))
    assert results == [f"case_{n:02d}" for n in range(count - 3)]
    assert all(any((folder / name).glob("*_synthetic.nii.gz")) for name in results)
    assert not list(folder.rglob("*.partial"))
    assert output.count("Traceback") == tracebacks
    assert f"{count - 3} of {count} cases have a result; 3 have none:" in output
    assert f"error: All {count} cases must have a result, got none for 3 (broken, misnamed, mr; " in output
    for name, sentence in SENTENCES.items():
        told = [line for line in output.splitlines() if line.startswith(f"{name} has no result: ")]
        assert len(told) == 1 and re.search(sentence, told[0]), output


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return front_door.other_file(tmp_path_factory.mktemp("weights"), "tiny.pt", front_door.generator(3).state_dict())


def test_57_of_60_have_a_result_three_a_sentence_and_memory_is_flat(tmp_path, weights):
    out = tmp_path / "out"
    knobs = SCANS.settings(weights, out, dataset_dir=folder_of(60, tmp_path / "data"))
    held: dict[str, int] = {}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            SCANS.command(knobs), stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while process.poll() is None:
            for report in out.glob("*/report.json"):
                if report.parent.name not in held and Path(f"/proc/{process.pid}/status").exists():
                    held[report.parent.name] = anonymous_bytes(process.pid)
            time.sleep(0.05)
    assert process.returncode not in (0, None)
    assert_three_sentences(out, 60, (tmp_path / "log").read_text())
    bytes_ = list(held.values())
    assert len(bytes_) > 40
    second, last = max(bytes_[10:30]), max(bytes_[-20:])
    print(f"{len(bytes_)} samples: {bytes_[0] / 1e6:.0f}, second third {second / 1e6:.0f}, last {last / 1e6:.0f} MB")
    assert last < second + FLAT


def test_two_processes_pass_over_the_broken_cases_together(tmp_path, weights):
    """Neither waits for the other without end, and every sentence is said once."""
    knobs = SCANS.settings(weights, tmp_path / "out", dataset_dir=folder_of(9, tmp_path / "data"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    done = front_door.subprocess_run(SCANS.command(knobs, launcher))
    assert done.returncode not in (0, None)
    # torchrun tells with a traceback of its own that a worker ended in an error
    assert_three_sentences(tmp_path / "out", 9, done.stdout + done.stderr, tracebacks=1)
