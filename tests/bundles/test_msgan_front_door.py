"""Through the front door, as a user comes in: python -m monai.bundle run.

A tiny cascade with random weights stands for the shipped one. What must be seen from outside the process (exit status,
stderr, a kill, two processes) is run as one; the other cases go through the same config in this process.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import front_door
import nibabel
import numpy as np
import programs
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.io.ome_zarr import open_level
from hiresmed.io.readers import open_volume
from hiresmed.io.stores import ZarrStores
from PIL import Image

DOOR = front_door.FrontDoor("msgan_ct3d", tile_size=16, base_size=16)
settings, command, run = DOOR.settings, DOOR.command, DOOR.run
generator, bricks, subprocess_run = front_door.generator, front_door.bricks, front_door.subprocess_run
left_behind, digest, assert_plain = front_door.left_behind, front_door.digest, front_door.assert_plain
text_file, other_file, damaged = front_door.text_file, front_door.other_file, front_door.damaged
OBLIQUE = np.array([[-0.7, 0.3, 0.1, 51.3], [0.25, 0.9, -0.4, -80.1], [0.1, 0.35, 2.1, 7.7], [0, 0, 0, 1]])
SHAPE = (41, 34, 27)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(generator(3).state_dict(), path)
    return path


def hounsfield(shape=SHAPE) -> np.ndarray:
    return bricks(shape, -1000, 1000, np.int16)


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return save_nifti(tmp_path_factory.mktemp("images") / "chest.nii.gz", hounsfield())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights, image) -> Path:
    """What an undisturbed run makes of the image."""
    folder = tmp_path_factory.mktemp("whole")
    run(settings(weights, folder, image=str(image), output_format="nii"))
    return folder / "chest_synthetic.nii"


# ---- from outside


def test_an_oblique_image_is_answered_on_its_own_grid_with_preview_report_and_last_line(tmp_path, weights, image):
    done = subprocess_run(command(settings(weights, tmp_path / "out", image=image, seed=3)))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "error:" not in done.stderr
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["chest_synthetic.nii.gz", "preview.png", "report.json"]
    made, given = nibabel.load(out / "chest_synthetic.nii.gz"), nibabel.load(image)
    assert made.shape == given.shape and made.get_data_dtype() == np.int16
    assert np.array_equal(made.affine, given.affine)
    assert np.asarray(made.dataobj).std() > 10
    with Image.open(out / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 10
    report = json.loads((out / "report.json").read_text())
    assert set(report) == {
        "bundle", "version", "weights_sha256", "config", "seed", "input", "output", "seconds", "peak_rss_bytes",
        "peak_device_bytes", "metrics", "synthetic", "warnings",
    }  # fmt: skip
    assert report["bundle"] == "msgan_ct3d" and report["synthetic"] is True and report["seed"] == 3
    assert report["weights_sha256"] == digest(weights)
    assert report["input"]["file"] == "chest.nii.gz" and report["input"]["shape"] == list(SHAPE)
    assert np.allclose(report["input"]["spacing"], given.header.get_zooms(), atol=1e-5)
    assert report["output"] == {"files": ["chest_synthetic.nii.gz"], "shape": list(SHAPE), "dtype": "int16"}
    assert report["config"]["tile_size"] == 16
    assert 100e6 < report["peak_rss_bytes"] < 4e9 and report["seconds"] > 0
    assert str(tmp_path) not in (out / "report.json").read_text()
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("msgan_ct3d made a synthetic image (41 x 34 x 27 int16): chest_synthetic.nii.gz in ")
    assert str(out) in last and re.search(r" [\d.]+ [MG]B of memory", last)


def test_killed_in_the_middle_and_resumed_it_ends_with_the_same_bytes(tmp_path, weights, image, whole):
    knobs = settings(weights, tmp_path, image=str(image), output_format="nii")
    process = programs.Program(command(knobs)[1:])
    journal, tiles, until = tmp_path / "chest.partial/result.0.tiles", 3 * 3 * 2, time.monotonic() + 200
    while not (journal.exists() and journal.read_bytes().count(1) >= 2):
        assert process.poll() is None and time.monotonic() < until, "it ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = journal.read_bytes().count(1)
    assert 2 <= finished < tiles and left_behind(tmp_path) == []
    with pytest.raises(InputError, match=r"image\.ome\.zarr was begun with, got another seed"):
        run(knobs | {"resume": True, "seed": 1})
    assert journal.read_bytes().count(1) == finished
    run(knobs | {"resume": "true"})
    assert digest(tmp_path / "chest_synthetic.nii") == digest(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chest_synthetic.nii", "preview.png", "report.json"]


def test_stopped_by_sigterm_it_says_how_to_go_on_and_leaves_no_copy_of_the_patient(tmp_path, weights, image, whole):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out"
    knobs = settings(weights, out, image=str(image), output_format="nii")
    process = programs.Program(command(knobs)[1:], env={**os.environ, "TMPDIR": str(scratch)})
    journal, until = out / "chest.partial/result.0.tiles", time.monotonic() + 200
    while not (journal.exists() and journal.read_bytes().count(1) >= 1):
        assert process.poll() is None and time.monotonic() < until, "it ended before it could be stopped"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    said = process.finished().stderr
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM; the same command with --resume true goes on." in said and "Traceback" not in said
    assert left_behind(out) == [] and not list(scratch.rglob("*.nii*"))
    run(knobs | {"resume": "true"})
    assert digest(out / "chest_synthetic.nii") == digest(whole)


def test_an_interrupted_run_is_not_resumed_with_another_patient_of_the_same_name_and_shape(tmp_path, weights, image):
    knobs = settings(weights, tmp_path / "out", image=str(image), output_format="nii")
    process = programs.Program(command(knobs)[1:])
    journal = tmp_path / "out/chest.partial/result.0.tiles"
    while not (journal.exists() and journal.read_bytes().count(1) >= 1):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    given = nibabel.load(image)
    values = np.asarray(given.dataobj).copy()
    values[20, 17, 13] += 300  # one voxel of it
    other = tmp_path / "other" / Path(image).name
    other.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(values, given.affine, given.header), other)
    with pytest.raises(InputError, match="was begun with, got another image"):
        run(knobs | {"image": str(other), "resume": True})


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_and_one_of_them_speaks(tmp_path, weights, image, whole):
    knobs = settings(weights, tmp_path, image=str(image), output_format="nii")
    done = programs.run_group(command(knobs)[1:], 2)
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert digest(tmp_path / "chest_synthetic.nii") == digest(whole)
    assert sum(one.stdout.count("made a synthetic image") for one in done) == 1


def test_a_mistyped_knob_is_one_line_of_error_and_no_work(tmp_path, weights, image):
    knobs = settings(weights, tmp_path / "out", image=image, tile_sise=12)
    assert_plain(subprocess_run(command(knobs)), "--tile_sise is no knob of this config; did you mean --tile_size?")
    assert left_behind(tmp_path / "out") == []


def test_a_mistake_found_deep_in_the_engine_is_one_line_of_error_too(tmp_path, weights):
    """NaN is met while tiles are read: inside the evaluator, the loader's exception chain and ignite's logging."""
    values = hounsfield().astype(np.float32)
    values[30, 20, 20] = np.nan
    knobs = settings(weights, tmp_path / "out", image=save_nifti(tmp_path / "hole.nii", values))
    assert_plain(subprocess_run(command(knobs)), "hole.nii must hold finite values only")
    assert left_behind(tmp_path / "out") == []


# ---- in this process


def truncated(folder: Path, image: Path) -> Path:
    return text_file(folder, "half.nii.gz", image.read_bytes()[: image.stat().st_size // 2])


def short(folder: Path) -> Path:
    path = save_nifti(folder / "short.nii", hounsfield())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def singular(folder: Path) -> Path:
    image = nibabel.Nifti1Image(hounsfield(), np.eye(4))
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 1)
    path = folder / "flat.nii"
    path.write_bytes(image.to_bytes())
    raw = bytearray(path.read_bytes())
    raw[280:328] = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], "<f4").tobytes()  # srow_x, srow_y, srow_z
    raw[254:256] = (1).to_bytes(2, "little")  # sform_code
    path.write_bytes(raw)
    return path


def filled(folder: Path) -> Path:
    (folder / "out").mkdir()
    return text_file(folder / "out", "chest_synthetic.nii.gz", b"precious").parent


MISTAKES = {
    "missing file": (lambda f, i, w: {"image": f / "none.nii.gz"}, "got .*none.nii.gz, which does not exist"),
    "empty path": (lambda f, i, w: {"image": ""}, "path of an image, got nothing"),
    "empty file": (lambda f, i, w: {"image": text_file(f, "nil.nii", b"")}, "got an empty file"),
    "truncated gzip": (lambda f, i, w: {"image": truncated(f, i)}, "half.nii.gz must be a whole gzip file"),
    "truncated file": (lambda f, i, w: {"image": short(f)}, "short.nii must be .* bytes long"),
    "text": (lambda f, i, w: {"image": text_file(f, "notes.txt")}, "notes.txt must be an image"),
    "text as NIfTI": (lambda f, i, w: {"image": text_file(f, "notes.nii")}, "notes.nii must be a NIfTI image"),
    "bytes as gzip": (lambda f, i, w: {"image": text_file(f, "x.nii.gz")}, "x.nii.gz must be"),
    "four axes": (
        lambda f, i, w: {"image": save_nifti(f / "t.nii", np.zeros((8, 8, 8, 3), np.int16))},
        r"t.nii must be one 2-D or 3-D image of one channel, got shape \(8, 8, 8, 3\)",
    ),
    "two axes": (
        lambda f, i, w: {"image": save_nifti(f / "p.nii", np.zeros((8, 8), np.int16))},
        r"p.nii must be a 3-D volume of more than one slice, got shape \(8, 8\)",
    ),
    "one slice": (
        lambda f, i, w: {"image": save_nifti(f / "s.nii", np.zeros((8, 9, 1), np.int16))},
        r"s.nii must be a 3-D volume of more than one slice, got shape \(",
    ),
    "singular affine": (lambda f, i, w: {"image": singular(f)}, "flat.nii must have an invertible"),
    "image and folder": (lambda f, i, w: {"dataset_dir": f}, "Either image or dataset_dir must be given"),
    "folder of nothing": (
        lambda f, i, w: {"image": None, "dataset_dir": text_file(f, "note.txt").parent},
        "dataset_dir must hold",
    ),
    "no weights": (lambda f, i, w: {"weights_path": f / "none.pt"}, "weights must be in .*none.pt"),
    "damaged weights": (lambda f, i, w: {"weights_path": damaged(f, w)}, "model.pt must have the sha256"),
    "weights in prose": (lambda f, i, w: {"weights_path": text_file(f, "a.pt")}, "a.pt must hold a state_dict"),
    "a list as weights": (lambda f, i, w: {"weights_path": other_file(f, "b.pt", [1])}, "b.pt must hold the weights"),
    "weights of another network": (
        lambda f, i, w: {"weights_path": other_file(f, "c.pt", generator(3, width=16).state_dict())},
        "c.pt must hold the weights of MultiScaleGenerator as configured",
    ),
    "an output that exists": (lambda f, i, w: {"output_dir": filled(f)}, "must not yet hold chest_synthetic.nii.gz"),
    "nothing to resume": (lambda f, i, w: {"output_dir": filled(f), "resume": True}, "there is nothing to resume"),
    "a file as output_dir": (
        lambda f, i, w: {"output_dir": text_file(f, "out")},
        "out must be free for what this run writes, got Not a dir",
    ),
    "size of nothing": (lambda f, i, w: {"size": [0, 16, 16]}, "size must give a positive number"),
    "negative size": (lambda f, i, w: {"size": [16, 16, -16]}, "size must give a positive number"),
    "size of two axes": (lambda f, i, w: {"size": [16, 16]}, "size must give a positive number"),
    "size of one number": (lambda f, i, w: {"size": 64}, "size must be a list .* or null, got 64"),
    "tile of nothing": (lambda f, i, w: {"tile_size": 0}, "tile_size must be a positive number"),
    "tile in words": (lambda f, i, w: {"tile_size": "large"}, "tile_size must be a whole number or a list"),
    "base of nothing": (lambda f, i, w: {"base_size": -8}, "base_size must be a whole number from 1 on"),
    "region outside": (lambda f, i, w: {"region": [[0, 10], [0, 10], [20, 28]]}, "region must be .* inside"),
    "region of one box edge": (lambda f, i, w: {"region": [0, 10]}, "region must be"),
    "window of one number": (lambda f, i, w: {"window": 400}, "window must be a list .* got 400"),
    "window upside down": (lambda f, i, w: {"window": [400, -1000]}, "window must be two increasing numbers"),
    "unknown format": (lambda f, i, w: {"output_format": "jpeg2000"}, "output_format must be one of"),
    "unknown start": (lambda f, i, w: {"first_image": "dreamt"}, "first_image must be generated or real"),
    "perhaps": (lambda f, i, w: {"overwrite": "perhaps"}, "overwrite"),
    "mask elsewhere": (
        lambda f, i, w: {"mask": save_nifti(f / "m.nii", np.ones((8, 8, 8), np.uint8))},
        "mask must have the image's",
    ),
    "an image as sketch": (lambda f, i, w: {"sketch": i}, "must be a signed sketch"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_under_a_final_name(mistake, tmp_path, weights, image):
    knobs, sentence = MISTAKES[mistake]
    knobs = settings(weights, tmp_path / "out") | {"image": image} | knobs(tmp_path, image, weights)
    before = left_behind(tmp_path / "out") if (tmp_path / "out").is_dir() else []
    knobs = {k: str(v) if isinstance(v, Path) else v for k, v in knobs.items()}
    with pytest.raises(InputError, match=sentence) as caught:
        run(knobs)
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < 700 and text.endswith((".", ")"))
    if (tmp_path / "out").is_dir():
        assert left_behind(tmp_path / "out") == before
    if before:
        assert (tmp_path / "out" / before[0]).read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, weights, image):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot"):
        run(settings(weights, tmp_path / "out", image=str(image)))


def test_an_image_smaller_than_a_patch_is_padded_not_refused(tmp_path, weights):
    values = hounsfield((9, 5, 4))
    for size, name in ((None, "own"), ([14, 7, 9], "finer")):
        image = save_nifti(tmp_path / "crumb.nii", values)
        run(settings(weights, tmp_path / name, image=str(image), tile_size=128, size=size))
        made = nibabel.load(tmp_path / name / "crumb_synthetic.nii")
        assert made.shape == tuple(size or (9, 5, 4))
        corner = [-0.5, -0.5, -0.5, 1]
        assert np.allclose(made.affine @ corner, OBLIQUE @ corner, atol=1e-4), "the same field of view"


def test_an_existing_output_is_replaced_when_asked(tmp_path, weights, image, whole):
    out = filled(tmp_path)
    run(settings(weights, out, image=str(image), overwrite="true"))
    made = nibabel.load(out / "chest_synthetic.nii.gz")
    assert np.array_equal(np.asarray(made.dataobj), np.asarray(nibabel.load(whole).dataobj))


def stored_as(suffix: str, folder: Path, image: Path) -> Path:
    """The same voxels on the same axes in a file of another format."""
    volume = open_volume(image, folder)
    path = folder / f"chest{suffix}"
    if suffix == ".zarr":
        tile = [(16, 16, 16)]
        (level,) = ZarrStores(folder, {}).pyramid("result", [volume.shape], [1], volume.affine, "int16", 1.0, tile)
        level.write((0, 0, 0), volume.read((0, 0, 0), volume.shape))
        (folder / "result.ome.zarr").rename(path)
    return image if suffix == ".nii.gz" else path


@pytest.mark.parametrize("suffix", [".nii.gz", ".zarr"])
def test_a_region_is_the_crop_of_the_whole_along_the_axes_of_the_file(tmp_path, weights, image, whole, suffix):
    """i, j, k in this order, whatever the format, and it lies where it lay."""
    box = [[5, 20], [33, 34], [0, 27]]
    given = stored_as(suffix, tmp_path, image)
    run(settings(weights, tmp_path / "out", image=str(given), region=box))
    every, part = nibabel.load(whole), nibabel.load(tmp_path / "out/chest_synthetic.nii.gz")
    crop = tuple(slice(a, b) for a, b in box)
    assert np.array_equal(np.asarray(part.dataobj), np.asarray(every.dataobj)[crop])
    assert np.allclose(part.affine, every.slicer[crop].affine, atol=1e-4)


def test_a_folder_of_cases_is_worked_through_and_resumed_at_the_first_unfinished(tmp_path, weights, capsys):
    folder = tmp_path / "cases"
    folder.mkdir()
    for name in ("a.nii", "b.nii.gz"):
        save_nifti(folder / name, hounsfield((20, 17, 14)))
    knobs = settings(weights, tmp_path / "out", dataset_dir=str(folder), tile_size=16)
    run(knobs)
    assert capsys.readouterr().out.count("made a synthetic image") == 2
    made = {name: tmp_path / "out" / name / file for name, file in
            (("a", "a_synthetic.nii"), ("b", "b_synthetic.nii.gz"))}  # fmt: skip
    before = {name: (digest(path), path.stat().st_mtime_ns) for name, path in made.items()}
    assert all((path.parent / "report.json").is_file() for path in made.values())
    with gzip.open(made["b"]) as packed:
        assert nibabel.Nifti1Image.from_bytes(packed.read()).shape == (20, 17, 14)

    shutil.rmtree(made["b"].parent)
    with pytest.raises(InputError, match=r"must not yet hold a_synthetic\.nii"):
        run(knobs)
    run(knobs | {"resume": True})
    assert (digest(made["a"]), made["a"].stat().st_mtime_ns) == before["a"], "what is finished is left alone"
    assert digest(made["b"]) == before["b"][0]


def test_an_ome_zarr_gets_its_name_when_it_is_whole(tmp_path, weights, image, whole):
    run(settings(weights, tmp_path, image=str(image), output_format="ome-zarr"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chest_synthetic.ome.zarr", "preview.png", "report.json"]
    level = open_level(tmp_path / "chest_synthetic.ome.zarr")  # its axes are x, y, z, whatever those of the input are
    made = nibabel.Nifti1Image(level.read([0] * 3, level.shape), level.affine)
    wanted = nibabel.as_closest_canonical(nibabel.load(whole))
    assert np.array_equal(made.get_fdata(), wanted.get_fdata()) and np.allclose(made.affine, wanted.affine)


def test_a_sketch_alone_is_enough_and_lies_where_it_lay(tmp_path, weights):
    lines = save_nifti(tmp_path / "lines.nii", np.where(hounsfield() > 700, 255, 128).astype(np.uint8))
    run(settings(weights, tmp_path / "out", sketch=str(lines)))
    made = nibabel.load(tmp_path / "out/lines_synthetic.nii")
    assert made.shape == SHAPE and np.array_equal(made.affine, nibabel.load(lines).affine)
    assert json.loads((tmp_path / "out/report.json").read_text())["input"]["file"] == "lines.nii"


@pytest.mark.realdata
def test_a_real_dicom_series_is_answered_with_one_that_pydicom_and_itk_find_in_its_frame(tmp_path, weights):
    pydicom, itk = pytest.importorskip("pydicom"), pytest.importorskip("itk")
    source = Path(os.environ.get("HIRESMED_DATA", "")) / "ct3d" / "LIDC-IDRI-0001_dicom"
    if "HIRESMED_DATA" not in os.environ or not source.is_dir():
        pytest.skip(f"no {source.name} in HIRESMED_DATA")
    box = [[200, 264], [180, 228], [4, 12]]
    run(settings(weights, tmp_path, image=str(source), region=box, tile_size=64))
    files = sorted((tmp_path / "LIDC-IDRI-0001_dicom_synthetic_dicom").iterdir())
    headers, given = [pydicom.dcmread(f) for f in files], [pydicom.dcmread(f) for f in sorted(source.glob("*.dcm"))]
    assert {h.FrameOfReferenceUID for h in headers} == {g.FrameOfReferenceUID for g in given}
    assert not {h.SOPInstanceUID for h in headers} & {g.SOPInstanceUID for g in given}
    assert {h.PatientID for h in headers} == {"ANONYMOUS"} and len({h.StudyInstanceUID for h in headers}) == 1
    assert all("synthetic" in h.SeriesDescription.lower() and h.ImageType[0] == "DERIVED" for h in headers)
    wanted, made = series_of_itk(itk, source), series_of_itk(itk, files[0].parent)
    assert list(itk.size(made)) == [b - a for a, b in box]
    corner = wanted.TransformIndexToPhysicalPoint([a for a, _ in box])
    assert np.allclose(made.GetOrigin(), corner, atol=1e-3)
    assert np.allclose(made.GetSpacing(), wanted.GetSpacing(), atol=1e-5)
    assert np.allclose(np.asarray(made.GetDirection()), np.asarray(wanted.GetDirection()), atol=1e-6)
    stack = np.stack([h.pixel_array for h in headers])
    assert np.array_equal(itk.array_from_image(made), stack) and stack.std() > 1


def series_of_itk(itk, folder: Path):
    """A series as ITK's own reader places it; it wants the files in their order."""
    names = itk.GDCMSeriesFileNames.New(Directory=str(folder))
    return itk.imread(list(names.GetInputFileNames()), itk.SS)
