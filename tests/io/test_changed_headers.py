"""Files whose bytes were changed at random are read or refused in one sentence, at once and in little memory.

Each change depends on its number alone, so that a failure can be repeated: `changed(kind, number)`.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import time
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hiresmed.core.errors import InputError
from hiresmed.io.image_kind import told_by
from hiresmed.io.pictures import picture_shape
from hiresmed.io.readers import open_volume
from image_files import OBLIQUE, random_array, save_itk
from PIL import Image

GREY = random_array(np.uint8, (40, 30))
VOLUME = random_array(np.int16, (6, 7, 8))
FEW, MANY = 60, 3000
SECONDS, GROWTH = 20.0, 2**19  # of one file; kB in all
JUNK = [
    None,
    0,
    -1,
    1e999,
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    True,
    3.5,
    "../..",
    10**20,
    "scale",
    ["z"],
    "\udce9",
    [[[]]],
]


def nifti(path):
    image = nibabel.Nifti1Image(VOLUME, OBLIQUE)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def pair(path):
    nibabel.save(nibabel.Nifti1Pair(VOLUME, OBLIQUE), path)


def strips(path):
    tifffile.imwrite(path, GREY, rowsperstrip=7, compression="zlib", resolution=(10, 10), metadata=None)


def tiles(path):
    tifffile.imwrite(path, GREY.astype(">u2"), byteorder=">", tile=(16, 16), compression="zlib", metadata=None)


def turned(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(path, exif=exif, dpi=(100, 100))


def lzw(path):
    Image.fromarray(GREY).save(path, compression="tiff_lzw")


def dicom(path):
    pytest.importorskip("pydicom", reason="the file is made by pydicom")
    from dicom_files import make_slice

    make_slice(path, (0, 0, 0))


def itk(path):
    save_itk(path, VOLUME)


def ome_zarr(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("0", shape=(4, 5, 6), chunks=(2, 5, 6), dtype="int16")[...] = 1
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    steps = [{"type": "scale", "scale": [2, 1, 1]}, {"type": "translation", "translation": [1, 2, 3]}]
    dataset = {"path": "0", "coordinateTransformations": steps}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}


KINDS = {
    "NIfTI": ("a.nii", nifti), "compressed NIfTI": ("a.nii.gz", nifti), "NIfTI pair": ("a.hdr", pair),
    "TIFF of strips": ("a.tif", strips), "TIFF of tiles": ("a.tif", tiles), "TIFF by Pillow": ("a.tif", lzw),
    "PNG": ("a.png", turned), "JPEG": ("a.jpg", turned), "MetaImage": ("a.mha", itk), "NRRD": ("a.nrrd", itk),
    "DICOM": ("a.dcm", dicom), "OME-Zarr": ("a.zarr", ome_zarr),
}  # fmt: skip


def with_other_bytes(raw: bytes, draw) -> bytes:
    """One to three places of the first kB, or of the whole file, with other bytes; every tenth cut off as well."""
    data = bytearray(raw)
    most = len(data) if draw.random() < 0.3 else min(len(data), 1024)
    for _ in range(draw.integers(1, 4)):
        width = int(draw.choice([1, 1, 2, 4]))
        at = int(draw.integers(0, most - width))
        how = draw.integers(4)
        if how < 3:
            data[at : at + width] = [draw.bytes(width), b"\xff" * width, bytes(width)][how]
        else:
            data[at] ^= 1 << int(draw.integers(8))
    return bytes(data[: draw.integers(len(data))] if draw.random() < 0.1 else data)


def with_other_values(content, draw):
    """JSON in which one value, somewhere, is another, or is missing."""
    if not isinstance(content, dict | list) or not content or draw.random() < 0.15:
        return JUNK[draw.integers(len(JUNK))]
    content = content.copy()
    key = list(content)[draw.integers(len(content))] if isinstance(content, dict) else int(draw.integers(len(content)))
    if draw.random() < 0.15:
        del content[key]
    else:
        content[key] = with_other_values(content[key], draw)
    return content


def changed(kind: str, number: int, sound: Path, path: Path) -> Path:
    """The sound file, with its n-th change, in the place of `path`."""
    draw = np.random.default_rng([sorted(KINDS).index(kind), number])
    if sound.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        file = path / ("zarr.json", "0/zarr.json")[draw.integers(2)]
        file.write_text(json.dumps(with_other_values(json.loads(file.read_text()), draw)))
    else:
        pack, unpack = (gzip.compress, gzip.decompress) if path.suffix == ".gz" else (bytes, bytes)
        path.write_bytes(pack(with_other_bytes(unpack(sound.read_bytes()), draw)))
    return path


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_read_or_refused_in_one_sentence(tmp_path, kind, count, caplog):
    name, make = KINDS[kind]
    sound = tmp_path / "sound" / name
    sound.parent.mkdir()
    make(sound)
    if name == "a.hdr":
        shutil.copy(sound.with_suffix(".img"), tmp_path / "a.img")
    open_volume(sound, tmp_path / "work")  # what is loaded for the first file is not its own
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(count):
        path = changed(kind, number, sound, tmp_path / name)
        caplog.clear()
        begun = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture_shape(path)
                told_by(path)
                volume = open_volume(path, tmp_path / "work")
                volume.read([0] * len(volume.shape), volume.shape)
        except InputError as mistake:
            refused += 1
            assert str(mistake).isprintable() and str(mistake).endswith(".") and len(str(mistake)) < 1000, (
                number,
                mistake,
            )
        except Exception as error:
            raise AssertionError(f"change {number} of {kind}") from error
        assert time.monotonic() - begun < SECONDS, number
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
    assert refused > count // 20, "some changes matter"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH
