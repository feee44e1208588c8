"""A folder of cases of which one is broken, one is misnamed and one is of another kind: all others get their results.

Tiny networks with random weights stand for the shipped ones; the runs are seen from outside the process.
"""

from __future__ import annotations

import json
from pathlib import Path

import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import DDIM, PatchDDMUNet
from hiresmed.phantoms import BrainPhantom

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {
    "network_def#channels": 4, "network_def#channel_multipliers": [1, 2], "network_def#num_res_blocks": 1,
}  # fmt: skip
BRAINS = front_door.FrontDoor(
    "patchddm_brats", NETWORK, spacing=8.0, reference_size=[24, 30, 24], tile_size=16, num_samples=1, steps=1
)
SCANS = front_door.FrontDoor("msgan_ct3d", tile_size=32, base_size=16)
SEQUENCES = ("t1", "t1ce", "t2", "flair")
PHANTOM = BrainPhantom((24, 28, 20), seed=5, look_alike=False)
IMAGE = PHANTOM.read()[0]


def save(path: Path, values: np.ndarray, affine: np.ndarray = PHANTOM.affine) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def brain(folder: Path, name: str) -> Path:
    for channel, sequence in zip(IMAGE, SEQUENCES):
        save(folder / f"{name}_{sequence}.nii.gz", channel)
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def brain_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    return front_door.other_file(folder, "brains.pt", PatchDDMUNet(3, 8, 1, 4, (1, 2), 1).state_dict())


def reports(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.rglob("report.json"))


def test_brains_that_cannot_be_segmented_do_not_stop_the_others(tmp_path):
    data, store = tmp_path / "data", tmp_path / "store"
    for name in ("a", "broken", "misnamed", "z"):
        brain(data / name, name)
    brain(store / "linked", "linked")
    (data / "linked").symlink_to(store / "linked")
    for path in brain(data / "upper", "upper").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    (data / "a" / "._a_t1.nii.gz").write_bytes(b"\0\5\x16\7" * 40)
    truncate(data / "broken" / "broken_t2.nii.gz")
    (data / "misnamed" / "misnamed_t1ce.nii.gz").rename(data / "misnamed" / "misnamed_x.nii.gz")
    save(data / "ct" / "ct.nii.gz", IMAGE[0])
    knobs = BRAINS.settings(brain_weights(tmp_path), tmp_path / "out", dataset_dir=data)
    done = front_door.subprocess_run(BRAINS.command(knobs))
    front_door.assert_plain(done, "All 7 cases must have a result, got none for 3 (broken, ct, misnamed; ")
    assert reports(tmp_path / "out") == ["a", "linked", "upper", "z"]
    assert "4 of 7 cases have a result; 3 have none:" in done.stdout
    for name, sentence in {
        "broken": "broken_t2.nii.gz must be",
        "misnamed": "misnamed must have t1, t1ce, t2 and flair, got no t1ce",
        "ct": "no name in it tells a sequence (ct.nii.gz)",
    }.items():
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"{name} has no result: ")]
        assert sentence in line and f"  {name}: {line.partition(': ')[2]}" in done.stdout.splitlines()


def test_scans_that_cannot_be_read_do_not_stop_the_others_and_what_is_no_image_is_named(tmp_path):
    data = tmp_path / "data"
    scan = front_door.bricks((40, 36, 32), -1000, 600, np.int16)
    for name in ("a", "broken", "z"):
        save(data / f"{name}.nii.gz", scan, np.eye(4))
    truncate(data / "broken.nii.gz")
    save(data / "colours.nii.gz", np.zeros((8, 8, 8, 3), np.int16), np.eye(4))
    front_door.text_file(data, "text.nii")
    front_door.text_file(data, "lost.nii.gz.bak")
    weights = front_door.other_file(tmp_path, "scans.pt", front_door.generator(3).state_dict())
    done = front_door.subprocess_run(SCANS.command(SCANS.settings(weights, tmp_path / "out", dataset_dir=data)))
    front_door.assert_plain(done, "All 5 cases must have a result, got none for 3 (broken, colours, text; ")
    assert reports(tmp_path / "out") == ["a", "z"]
    told = json.loads((tmp_path / "out" / "z" / "report.json").read_text())["warnings"]
    assert any("lost.nii.gz.bak" in sentence for sentence in told)


def test_what_stops_every_case_alike_is_said_once(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        brain(tmp_path / "data" / name, name)
    tries = []

    def failing(self, *args, **kwargs):
        tries.append(1)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to "
                           "allocate 137438953472 bytes.")  # fmt: skip

    monkeypatch.setattr(DDIM, "__call__", failing)
    knobs = BRAINS.settings(brain_weights(tmp_path), tmp_path / "out", dataset_dir=str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"\(tried to allocate 137438953472 bytes\); set inference"):
        BRAINS.run(knobs)
    assert len(tries) == 2, "the third case is not tried"
