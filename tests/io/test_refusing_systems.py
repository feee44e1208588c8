"""What the system refuses, a permission or room on a disk, ends in one sentence, and nothing half is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import FullDiskError, InputError, first_input_error, system_refusal, system_refusals
from hiresmed.core.output_files import writable_folder
from hiresmed.core.volumes import ArrayVolume, picture_affine
from hiresmed.core.weights import load_weights
from hiresmed.io import open_volume
from hiresmed.io.colours import save_colours
from hiresmed.io.stores import ZarrStores
from hiresmed.io.writers import save_volume
from hiresmed.reports.preview import Panel, write_preview
from hiresmed.reports.report import write_report
from hiresmed.training.checkpoint import save_atomically, save_weights
from hiresmed.training.pictures import PictureFolder

ROOM = 30_000  # bytes; more than a header, less than any result here
NOISE = np.random.default_rng(0).integers(0, 2**16, (64, 64, 16)).astype(np.uint16)
PICTURE = ArrayVolume(NOISE.reshape(256, 256), picture_affine(1, 1))
SCAN = ArrayVolume((NOISE // 40).astype(np.int16), np.diag([-1.0, -1, 1, 1]))
COLOURS = [ArrayVolume(PICTURE.array.astype(np.uint8), PICTURE.affine)] * 3
SAID = {
    errno.EACCES: "/d/a.nii must be open to this user, got Permission denied; change its permissions, or choose",
    errno.EROFS: "/d/a.nii must be open to this user, got Read-only file system; change its permissions, or choose",
    errno.ENOSPC: "The disk must have room for /d/a.nii, got No space left on device; free some space and go on with",
    errno.EDQUOT: "The disk must have room for /d/a.nii, got Disk quota exceeded; free some space and go on with",
    errno.EFBIG: "The disk must have room for /d/a.nii, got File too large; free some space and go on with",
    errno.EISDIR: "/d/a.nii must be free for what this run writes, got Is a directory; move away what lies there",
    errno.EIO: "/d/a.nii must be readable, got Input/output error; check its disk or network.",
    errno.ENAMETOOLONG: "A file's name must be short enough for its disk (255 bytes on most), got 8 bytes of path",
    errno.EMFILE: "This process must be allowed more open files, got Too many open files; raise the limit",
}


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/d/a.nii")


@pytest.mark.parametrize("number", SAID, ids=errno.errorcode.get)
def test_what_the_system_says_becomes_a_sentence_with_the_file_and_a_cure(number):
    """Also inside the exceptions that MONAI and ignite wrap around it."""
    with pytest.raises(RuntimeError) as caught:
        try:
            raise refusal(number)
        except OSError as error:
            raise RuntimeError("Failed to evaluate") from error
    told = first_input_error(caught.value)
    assert str(told).startswith(SAID[number]) and str(told).endswith(".")
    assert isinstance(told, FullDiskError) == ("The disk" in SAID[number])


def test_a_mistake_of_ours_keeps_its_traceback_even_if_a_file_was_refused_before():
    with pytest.raises(TypeError) as caught:
        try:
            raise refusal(errno.EACCES)
        except OSError:
            raise TypeError("ours")  # noqa: B904
    assert first_input_error(caught.value) is None
    assert system_refusal(OSError(errno.ENOTTY, "Inappropriate ioctl")) is None
    with pytest.raises(FileNotFoundError), system_refusals():
        raise FileNotFoundError(errno.ENOENT, "No such file", "/d/ours")


def level(folder: Path) -> None:
    stores = ZarrStores(folder)
    (level,) = stores.pyramid("result", [(64, 64, 16)], [1], np.eye(4), "uint16", 1.0, [(64, 64, 16)])
    level.write((0, 0, 0), NOISE)


def report(folder: Path) -> None:
    fields = {"bundle": "b", "version": "1", "config": {}, "seed": 0, "output": {}, "seconds": 1, "synthetic": True}
    write_report(folder / "report.json", **fields, warnings=["x" * 2 * ROOM])


WRITERS = {
    "nii": lambda folder: save_volume(SCAN, folder / "a", "nii"),
    "nii.gz": lambda folder: save_volume(SCAN, folder / "a", "nii.gz"),
    "dicom": lambda folder: save_volume(ArrayVolume(NOISE.reshape(256, 128, 2) // 40), folder / "a", "dicom"),
    "dcm": lambda folder: save_volume(PICTURE, folder / "a", "dcm"),
    "png": lambda folder: save_volume(PICTURE, folder / "a", "png"),
    "tiff": lambda folder: save_volume(PICTURE, folder / "a", "tiff"),
    "colours.png": lambda folder: save_colours(COLOURS, folder / "a", "png"),
    "colours.tiff": lambda folder: save_colours(COLOURS, folder / "a", "tiff"),
    "preview": lambda folder: write_preview(folder / "preview.png", [Panel("input", PICTURE)]),
    "report": report,
    "weights": lambda folder: save_weights({"w": torch.from_numpy(NOISE.astype(np.float32))}, folder / "model.pt"),
    "checkpoint": lambda folder: save_atomically({"w": torch.rand(2 * ROOM)}, folder / "latest.pt"),
    "samples": lambda folder: PictureFolder(folder).write(PICTURE.array.astype(np.uint8), 1),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_is_full_in_the_middle_is_one_sentence_and_leaves_nothing(tmp_path, full_disk, kind):
    with pytest.raises(Exception) as caught, full_disk(ROOM):
        WRITERS[kind](tmp_path)
    assert isinstance(first_input_error(caught.value), FullDiskError), repr(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_tile_that_finds_no_room_is_not_there_in_part(tmp_path, full_disk):
    with pytest.raises(OSError) as caught, full_disk(10_000):
        level(tmp_path)
    assert isinstance(first_input_error(caught.value), FullDiskError)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"zarr.json"}, "no chunk"


def test_an_input_that_finds_no_room_to_be_unpacked_leaves_nothing(tmp_path, full_disk):
    nibabel.save(nibabel.Nifti1Image(SCAN.array, SCAN.affine), tmp_path / "a.nii.gz")
    with pytest.raises(FullDiskError, match="must have room for"), full_disk(ROOM):
        open_volume(tmp_path / "a.nii.gz", tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.jpg", "a.tiff", "a.dcm", "series", "a.pt", "out"])
def test_what_may_not_be_read_or_written_is_named_with_its_permission(tmp_path, plain_user, name):
    path = tmp_path / name
    if name.startswith("a.nii"):
        nibabel.save(nibabel.Nifti1Image(SCAN.array, SCAN.affine), path)
    elif name == "a.pt":
        torch.save({}, path)
    elif name in ("series", "out"):
        path.mkdir()
    else:
        save_volume(PICTURE, tmp_path / "a", "png")
        (tmp_path / "a.png").rename(path)
    closed(path)
    try:
        with pytest.raises((InputError, OSError)) as caught:
            if name == "a.pt":
                load_weights(torch.nn.Identity(), path)
            elif name == "out":
                writable_folder(path)
            else:
                open_volume(path, tmp_path / "work")
    finally:
        path.chmod(0o700)
    told = str(first_input_error(caught.value))
    assert str(path) in told and "got" in told and "Permission denied" in told and "truncated" not in told
