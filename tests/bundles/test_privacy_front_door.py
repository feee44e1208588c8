"""A source whose every text is an identifier: none is in the results, log, preview or report of a run, or its refusal.

The case's name is the name of its file or folder, which is the user's to choose.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import front_door
import numpy as np
import pytest
import torch
from identifiers import SEED, seeded_headers
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the sources are made by pydicom")

DX = {
    "Modality": "DX", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "RescaleSlope": None, "RescaleIntercept": None,
}  # fmt: skip


def traces(folder: Path, *texts: str) -> list[str]:
    """Where a seed, or a folder above the source, is found; files are unpacked, pictures' texts too."""
    found = [text[:200] for text in texts if SEED in text]
    for file in folder.rglob("*"):
        raw = file.read_bytes() if file.is_file() else b""
        raw += gzip.decompress(raw) if file.suffix == ".gz" else b""
        if file.suffix == ".png":
            with Image.open(file) as picture:
                raw += repr(picture.info).encode()
        if SEED.encode() in raw or SEED in str(file.relative_to(folder)):
            found.append(file.name)
    return found


@pytest.mark.parametrize("output_format", ["dicom", "nii.gz", "ome-zarr"])
def test_a_ct_series_full_of_identifiers_leaves_none(tmp_path, output_format):
    torch.save(front_door.generator(3).state_dict(), tmp_path / "tiny.pt")
    door = front_door.FrontDoor("msgan_ct3d", tile_size=16, base_size=16)
    source = seeded_headers(tmp_path / f"{SEED}_folder" / "case")
    knobs = door.settings(tmp_path / "tiny.pt", tmp_path / "out", image=source, output_format=output_format)
    done = front_door.subprocess_run(door.command(knobs | {"size": "[24,24,24]"}))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["warnings"], "the body part and the field of view are warned of"
    # MONAI shows the knobs as they were typed, the source's path among them
    assert not traces(tmp_path / "out", done.stderr, done.stdout.replace(str(source), ""))


def test_a_radiograph_full_of_identifiers_leaves_none(tmp_path):
    torch.save(front_door.generator(2).state_dict(), tmp_path / "tiny.pt")
    door = front_door.FrontDoor("msgan_xray2d", tile_size=64, base_size=16)
    folder = seeded_headers(tmp_path / "case", count=1, **DX, ImagePositionPatient=None)
    header = pydicom.dcmread(folder / "0.dcm")
    header.PixelData = np.arange(1000, 1030, dtype="<u2").tobytes()
    header.save_as(folder / "0.dcm")
    knobs = door.settings(tmp_path / "tiny.pt", tmp_path / "out", image=folder / "0.dcm")
    done = front_door.subprocess_run(door.command(knobs | {"size": "[48,48]"}))
    assert done.returncode == 0, done.stderr
    assert not traces(tmp_path / "out", done.stderr, done.stdout)


def test_a_refusal_quotes_no_identifier(tmp_path):
    door = front_door.FrontDoor("msgan_ct3d", tile_size=16, base_size=16)
    torch.save(front_door.generator(3).state_dict(), tmp_path / "tiny.pt")
    source = seeded_headers(tmp_path / "case", Modality="MR")
    done = front_door.subprocess_run(door.command(door.settings(tmp_path / "tiny.pt", tmp_path / "out", image=source)))
    front_door.assert_plain(done, "must be a CT, got modality MR")
    assert not traces(tmp_path / "out", done.stderr, done.stdout)
