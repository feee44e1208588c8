"""What lies at a path, and what a header leads to: pipes, devices, headers that name other files, prepared links.

Each kind is read as what it is, or refused at once in one sentence.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, NiftiVolume
from hiresmed.core.weight_files import weights_sha256
from hiresmed.datasets.brats import brats_case, brats_cases
from hiresmed.io import CaseOutput, LoadImageStreamd, ZarrStores, save_volume
from hiresmed.io.readers import cases, open_volume, source_stamps
from hiresmed.training.checkpoint import load_safely, save_weights
from image_files import random_array, save_itk, save_nifti
from PIL import Image

VALUES = random_array(shape=(4, 5, 6))


def everything(volume):
    return volume.read([0] * len(volume.shape), volume.shape)


def assert_sentence(error, words):
    assert words in str(error) and "\n" not in str(error) and str(error).endswith("."), error


# ---- what is no file


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


OPENERS = {
    "a volume": open_volume,
    "a case": lambda path, work: cases(image=path),
    "a NIfTI": lambda path, work: NiftiVolume(path),
    "a brain": lambda path, work: brats_case(path),
    "a server's request": lambda path, work: LoadImageStreamd("image", CaseOutput(str(work)))({"image": str(path)}),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["a.nii", "a_t1.nii.gz", "a.png", "a.tif", "a.mhd", "a.nrrd", "a.dcm", "a.zarr"])
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("make", "kind"), [(pipe, "a named pipe"), (unix_socket, "a socket"), (link_to_a_device, "a device")]
)
def test_what_would_be_waited_for_without_end_is_refused_at_once(tmp_path, monkeypatch, make, kind, opener, name):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path(name))
    with pytest.raises(InputError) as caught:
        OPENERS[opener](Path(name), tmp_path / "work")
    assert_sentence(caught.value, f"{name} must be a file or a folder, got {kind}")


@pytest.mark.timeout(60)
def test_a_pipe_in_a_folder_of_images_is_named_and_left_out(tmp_path, caplog):
    save_nifti(tmp_path / "a.nii", VALUES)
    pipe(tmp_path / "b.nii")
    pipe(tmp_path / "c.dcm")
    assert [case["name"] for case in cases(dataset_dir=tmp_path)] == ["a"]
    assert "b.nii, c.dcm" in caplog.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["zarr.json", "0/zarr.json", "0/c/0/0"])
def test_a_pipe_inside_a_store_is_not_waited_for(tmp_path, place):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=(4, 5), dtype="int16")[...] = 1
    scale = [{"type": "scale", "scale": [1, 1]}]
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "yx"]
    group.attrs["ome"] = {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    }
    (tmp_path / "a.zarr" / place).unlink()
    pipe(tmp_path / "a.zarr" / place)
    with pytest.raises(InputError, match="got a named pipe"):
        open_volume(tmp_path / "a.zarr", tmp_path)


# ---- headers that name the file of their voxels


def metaimage(path, *lines, name="a.raw"):
    text = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 6 5 4\n"
    path.write_text(
        text + "".join(f"{line}\n" for line in lines) + f"ElementType = MET_SHORT\nElementDataFile = {name}\n"
    )
    return path


def nrrd(path, *lines, name="a.raw", field="data file"):
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
    path.write_text(text + "".join(f"{line}\n" for line in lines) + f"{field}: {name}\n")
    return path


def folder_with_voxels(tmp_path):
    """A folder `in` for headers, with voxels in it, below it and beside it."""
    inside = tmp_path / "in"
    for folder in (tmp_path, inside, inside / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "a.raw").write_bytes(VALUES.tobytes())
    return inside


@pytest.mark.parametrize("name", ["a.raw", "sub/a.raw", "./a.raw"])
@pytest.mark.parametrize(("write", "suffix"), [(metaimage, "mhd"), (metaimage, "mha"), (nrrd, "nhdr"), (nrrd, "nrrd")])
def test_voxels_beside_or_below_their_header_are_read(tmp_path, write, suffix, name):
    path = write(folder_with_voxels(tmp_path) / f"h.{suffix}", name=name)
    np.testing.assert_array_equal(everything(open_volume(path, tmp_path / "work")), VALUES.T)


OUTSIDE = "must have its voxels in itself or in one file of its own folder, got a file outside its folder"
SEVERAL = "got a list of files"
HEADERS = {
    "another folder": ({"name": "../a.raw"}, OUTSIDE),
    "another folder, on a way round": ({"name": "sub/../../a.raw"}, OUTSIDE),
    "an absolute path": ({"name": "{folder}/a.raw"}, OUTSIDE),
    "a drive of Windows": ({"name": "C:\\a.raw"}, OUTSIDE),
    "nothing": ({"name": ""}, OUTSIDE),
    "a list": ({"name": "LIST\n../a.raw"}, SEVERAL),
    "a pattern": ({"name": "a%03d.raw 1 4 1"}, SEVERAL),
    "a file that is not there": ({"name": "b.raw"}, "must have its voxels in b.raw beside it, got no such file"),
    "a pipe": ({"name": "pipe.raw"}, "pipe.raw must be a file or a folder, got a named pipe"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize(("write", "suffix"), [(metaimage, "mhd"), (metaimage, "mha"), (nrrd, "nhdr"), (nrrd, "nrrd")])
def test_a_header_may_name_no_file_outside_its_folder(tmp_path, write, suffix, kind):
    options, sentence = HEADERS[kind]
    inside = folder_with_voxels(tmp_path)
    pipe(inside / "pipe.raw")
    path = write(inside / f"h.{suffix}", name=options["name"].format(folder=tmp_path))
    request = LoadImageStreamd("image", CaseOutput(str(tmp_path / "out")))
    for opener in (lambda: open_volume(path, tmp_path / "work"), lambda: request({"image": str(path)})):
        with pytest.raises(InputError) as caught:
            opener()
        assert_sentence(caught.value, sentence)


@pytest.mark.parametrize("first", ["Comment =\nElementDataFile = LOCAL", "elementdatafile: a.raw"])
def test_no_line_hides_another_that_names_a_file(tmp_path, first):
    path = metaimage(folder_with_voxels(tmp_path) / "h.mhd", first, name="../a.raw")
    with pytest.raises(InputError, match="got a file outside its folder"):
        open_volume(path, tmp_path / "work")


def test_another_spelling_of_the_field_names_a_file_all_the_same(tmp_path):
    path = nrrd(folder_with_voxels(tmp_path) / "h.nhdr", name="../a.raw", field="DataFile")
    with pytest.raises(InputError, match="got a file outside its folder"):
        open_volume(path, tmp_path / "work")


@pytest.mark.parametrize("count", ["99999999999ta", "20", "11", "1", "-3", "0x3", ""])
def test_a_number_of_axes_that_would_end_the_process_is_refused_before_itk_reads_it(tmp_path, count):
    save_itk(tmp_path / "a.mha", VALUES)
    sound = (tmp_path / "a.mha").read_bytes()
    assert sorted(open_volume(tmp_path / "a.mha", tmp_path).shape) == [4, 5, 6]
    (tmp_path / "a.mha").write_bytes(sound.replace(b"NDims = 3", f"NDims = {count}".encode()))
    with pytest.raises(InputError, match=r"a\.mha must have 2 to 4 axes, got NDims"):
        open_volume(tmp_path / "a.mha", tmp_path)


@pytest.mark.parametrize("field", ["Name", "Comment"])
def test_a_text_that_is_too_long_for_itk_is_refused(tmp_path, field):
    save_itk(tmp_path / "a.mha", VALUES)
    sound = (tmp_path / "a.mha").read_bytes()
    for length in (254, 255, 300, 5000):
        line = f"{field} = {'x' * length}\nElementDataFile".encode()
        (tmp_path / "a.mha").write_bytes(sound.replace(b"ElementDataFile", line))
        with pytest.raises(InputError, match=f"got one of {length}") if length > 254 else nullcontext():
            open_volume(tmp_path / "a.mha", tmp_path)


@pytest.mark.parametrize(("suffix", "other"), [("mha", "nrrd"), ("nrrd", "mha")])
def test_the_suffix_decides_which_reader_opens_a_file(tmp_path, suffix, other):
    """ITK would go by the content, and it has readers of many kinds."""
    save_itk(tmp_path / f"a.{other}", VALUES).rename(tmp_path / f"b.{suffix}")
    with pytest.raises(InputError, match="must be a NRRD or MetaImage file"):
        open_volume(tmp_path / f"b.{suffix}", tmp_path / "work")


def test_a_changed_file_of_voxels_makes_another_image(tmp_path):
    path = metaimage(folder_with_voxels(tmp_path) / "h.mhd")
    before = source_stamps(path)
    open_volume(path, tmp_path / "work")
    path.with_name("a.raw").write_bytes((VALUES + 1).tobytes())
    os.utime(path.with_name("a.raw"), (1, 1))
    np.testing.assert_array_equal(everything(open_volume(path, tmp_path / "work")), VALUES.T + 1)
    assert source_stamps(path) != before


# ---- what somebody has laid where we write aside, and what a former run has left there


@pytest.fixture
def victim(tmp_path):
    """A file that no run may touch, by which way ever; a folder beside it likewise."""
    file = tmp_path / "elsewhere" / "letter.txt"
    file.parent.mkdir()
    file.write_text("of somebody else")
    yield file
    assert file.read_text() == "of somebody else" and [*file.parent.iterdir()] == [file]


def lay(path, victim, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a link to a file":
        path.symlink_to(victim)
    elif kind == "a link to a folder":
        path.symlink_to(victim.parent)
    elif kind == "a link to nothing":
        path.symlink_to(victim.parent / "new")
    elif kind == "a folder":
        path.mkdir()
        (path / "old").write_text("of a former run")
    else:
        path.write_text("of a former run")


LEFT = ["a link to a file", "a link to a folder", "a link to nothing", "a folder", "a file"]


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize(
    ("output_format", "asides"),
    [
        ("nii", ["a.nii.partial"]),
        ("nii.gz", ["a.nii.gz.partial", "a.nii.gz.uncompressed", "a.nii.gz.uncompressed.partial"]),
        ("png", ["a.png.partial"]),
        ("tiff", ["a.tiff.partial"]),
        ("dicom", ["a_dicom.partial"]),
        ("dcm", ["a.dcm.partial"]),
    ],
)
def test_a_result_is_written_beside_whatever_lies_in_its_way(tmp_path, victim, output_format, asides, kind):
    if output_format in ("dicom", "dcm"):
        pytest.importorskip("pydicom", reason="DICOM is written by pydicom")
    values = np.arange(60, dtype=np.uint8).reshape(
        (4, 5, 3) if output_format in ("nii", "nii.gz", "dicom") else (12, 5)
    )
    for aside in asides:
        if kind != "a folder" or not aside.endswith(".uncompressed"):
            lay(tmp_path / "out" / aside, victim, kind)
    (written,) = save_volume(ArrayVolume(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "out" / "a", output_format)
    again = open_volume(written, tmp_path / "work")
    assert again.shape == values.shape and np.ptp(everything(again)) == 59
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".uncompressed")] == [
        written.name
    ]


@pytest.mark.parametrize("kind", LEFT)
def test_a_checkpoint_is_written_beside_whatever_lies_in_its_way(tmp_path, victim, kind):
    lay(tmp_path / "out" / "model.pt.partial", victim, kind)
    lay(tmp_path / "out" / "model.pt.sha256.partial", victim, kind)
    save_weights({"weight": torch.ones(3)}, tmp_path / "out" / "model.pt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.pt", "model.pt.sha256"]
    assert torch.equal(load_safely(tmp_path / "out" / "model.pt")["weight"], torch.ones(3))


@pytest.mark.parametrize("kind", LEFT)
def test_a_cases_working_folder_is_no_way_out_of_the_output_folder(tmp_path, victim, kind):
    save_nifti(tmp_path / "a.nii.gz", VALUES)
    lay(tmp_path / "out" / "a.partial", victim, kind)
    output = CaseOutput(str(tmp_path / "out"), resume=True)
    (case,) = output.cases(image=tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(everything(output.open(case["image"], case["name"])), VALUES)
    output.stores(case, {}).pyramid("result", [(4, 5, 6)], [1], np.eye(4), "int16", 1.0, [(4, 5, 6)])
    assert not (tmp_path / "out" / "a.partial").is_symlink()
    assert {"result.ome.zarr"} <= {path.name for path in (tmp_path / "out" / "a.partial").iterdir()}


@pytest.mark.parametrize("kind", LEFT)
def test_an_unpacked_copy_goes_through_no_link(tmp_path, victim, kind):
    source = save_nifti(tmp_path / "a.nii.gz", VALUES)
    copy = open_volume(source, tmp_path / "work").path
    copy.unlink()
    lay(copy.with_name(f"{copy.name}.{os.getpid()}.nii"), victim, kind)
    np.testing.assert_array_equal(everything(open_volume(source, tmp_path / "work")), VALUES)


@pytest.mark.parametrize("kind", ["a link to a file", "a link to nothing", "cut off", "empty"])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_an_unpacked_copy_that_is_none_is_made_anew(tmp_path, victim, kind, name):
    source = (save_nifti if name.endswith("gz") else save_itk)(tmp_path / name, VALUES)
    right = everything(open_volume(source, tmp_path / "work"))
    (copy,) = (tmp_path / "work").iterdir()
    whole = copy.read_bytes()
    copy.unlink()
    if kind.startswith("a link"):
        lay(copy, victim, kind)
    else:
        copy.write_bytes(whole[:400] if kind == "cut off" else b"")
    np.testing.assert_array_equal(everything(open_volume(source, tmp_path / "work")), right)


def pyramid(folder, resume):
    shapes = [(8, 8), (4, 4)]
    return ZarrStores(folder, resume=resume).pyramid("result", shapes, [1, 2], np.eye(4), "int16", 1.0, [(4, 4)] * 2)


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("name", ["result.ome.zarr", "result.ome.begun", "result.0.tiles"])
def test_a_new_store_goes_through_no_link(tmp_path, victim, name, kind):
    lay(tmp_path / "work" / name, victim, kind)
    level = pyramid(tmp_path / "work", resume=False)[0]
    level.write((0, 0), np.full((8, 8), 3))
    level.mark(2)
    assert [level.done(n) for n in range(4)] == [False, False, True, False] and (everything(level) == 3).all()


@pytest.mark.parametrize(
    "damage",
    ["zarr.json", "0/zarr.json", "no level", "another shape", "a journal that is a link", "a journal, a folder"],
)
def test_a_damaged_store_is_not_resumed(tmp_path, victim, damage):
    work = tmp_path / "work"
    pyramid(work, resume=False)[0].mark(0)
    store = work / "result.ome.zarr"
    journal = work / "result.0.tiles"
    if damage.endswith("json"):
        (store / damage).write_text("{")
    elif damage == "no level":
        shutil.rmtree(store / "1")
    elif damage == "another shape":
        zarr.open_group(store).create_array("1", shape=(3, 4), dtype="int16", overwrite=True)
    else:
        journal.unlink()
        lay(journal, victim, "a link to a file" if damage.endswith("link") else "a folder")
    with pytest.raises(InputError) as caught:
        pyramid(work, resume=True)
    assert_sentence(caught.value, "resume must find result.ome.zarr as it was left, got a damaged one")


# ---- names


LATIN = os.fsdecode(b"caf\xe9")  # not UTF-8
LONG = "n" * 240


@pytest.mark.parametrize("stem", [LATIN, "two\nlines", "\x1b[31mred", "\u00dcbung 1", LONG])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "png", "tiff", "zarr"])
def test_a_file_of_any_name_is_read_and_its_result_has_one_that_can_be_shown(tmp_path, stem, suffix):
    path = tmp_path / "in" / f"{stem}.{suffix}"
    path.parent.mkdir()
    values = VALUES if suffix != "png" and suffix != "tiff" else VALUES[0].astype(np.uint8)
    if suffix == "zarr":
        pyramid(tmp_path / "store", resume=False)[0].write((0, 0), np.ones((8, 8)))
        (tmp_path / "store" / "result.ome.zarr").rename(path)
    elif suffix in ("png", "tiff"):
        Image.fromarray(values).save(path)
    else:
        save_nifti(path, values)
    output = CaseOutput(str(tmp_path / "out"))
    (case,) = output.cases(image=path)
    volume = output.open(case["image"], case["name"])
    output.check(case, volume.shape)
    written = output.save(case, volume, True)
    assert written.parent == tmp_path / "out" and written.is_file()
    assert case["name"].isprintable() and len(os.fsencode(written.name)) <= 200
    assert case["name"] == {LATIN: "caf_", "two\nlines": "two_lines", "\x1b[31mred": "_[31mred"}.get(stem, case["name"])
    output.finish(case)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [written.name]


@pytest.mark.parametrize("name", [f"{LATIN}.mha", f"{LATIN}.nrrd", f"{LATIN}.dcm", f"{LATIN}/a.mha"])
def test_what_itk_reads_must_lie_at_a_path_in_utf_8(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".dcm":
        path.write_bytes(bytes(128) + b"DICM" + bytes(64))
    else:
        save_itk(tmp_path / f"a{path.suffix}", VALUES).rename(path)
    with pytest.raises(InputError) as caught:
        open_volume(path, tmp_path / "work")
    assert_sentence(caught.value, "must lie at a path in UTF-8 to be read by ITK, got one with other bytes; rename it")


def test_cases_that_would_be_called_alike_are_numbered_and_that_is_said(tmp_path, caplog):
    for name in (b"caf\xe8.png", b"caf\xe9.png", b"caf_.png"):
        (tmp_path / os.fsdecode(name)).touch()
    assert sorted(case["name"] for case in cases(dataset_dir=tmp_path)) == ["caf_", "caf__2", "caf__3"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and all("are called caf__" in text and text.isprintable() for text in told)


def test_two_long_names_of_one_beginning_stay_apart(tmp_path):
    for end in "ab":
        (tmp_path / f"{LONG}{end}.png").touch()
    first, second = (case["name"] for case in cases(dataset_dir=tmp_path))
    assert first != second and len(first) == len(second) == 160


def test_a_sentence_is_one_line_whatever_a_file_is_called(tmp_path):
    for name in (f"{LATIN}.nii", "two\nlines.nii", "\x1b[2Jclear.nii"):
        (tmp_path / name).write_bytes(b"lorem ipsum")
        with pytest.raises(InputError) as caught:
            open_volume(tmp_path / name, tmp_path / "work")
        assert str(caught.value).isprintable() and str(caught.value).encode()


@pytest.mark.parametrize("path", ["n" * 300 + ".nii", "a/" * 3000 + "a.nii"])
def test_a_path_that_no_disk_can_hold_is_one_sentence(tmp_path, path):
    for opener in (lambda: open_volume(tmp_path / path, tmp_path), lambda: cases(dataset_dir=tmp_path / path)):
        with pytest.raises(InputError, match=r"got a path that cannot be looked for \(File name too long\)"):
            opener()
    for opener in (brats_case, brats_cases, weights_sha256):
        with pytest.raises(InputError, match="File name too long"):
            opener(tmp_path / path)
