"""The diffusion bundle through the front door: four sequences in, labels with their uncertainty out, on the same grid.

A tiny network with random weights stands for the shipped one; what needs no look from outside the process runs in it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import dicom_files
import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.patchddm import DDIM, PatchDDMUNet, SegmentationInferer
from hiresmed.phantoms import BrainPhantom
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {
    "network_def#channels": 4, "network_def#channel_multipliers": [1, 2], "network_def#num_res_blocks": 1,
}  # fmt: skip
DOOR = front_door.FrontDoor(
    "patchddm_brats", NETWORK, spacing=8.0, reference_size=[24, 30, 24], tile_size=16, num_samples=2, steps=2
)
settings, run, command = DOOR.settings, DOOR.run, DOOR.command
digest, left_behind, text_file = front_door.digest, front_door.left_behind, front_door.text_file
SEQUENCES = ("t1", "t1ce", "t2", "flair")
NAMES = ["glioma_labels.nii.gz", "glioma_probability.nii.gz", "glioma_variance.nii.gz"]
REAL = Path(os.environ.get("HIRESMED_DATA", "")) / "brain_mr" / "TCGA-FG-6692"


def network(regions: int = 1, **changes) -> PatchDDMUNet:
    """Tiny, all weights drawn at random, so that every layer shows in the result."""
    torch.manual_seed(0)
    made = PatchDDMUNet(3, 7 + regions, regions, 4, (1, 2), 1, **changes)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.1 if weight.ndim == 1 else 0.8 / weight[0].numel() ** 0.5)
    return made


def weights_file(folder: Path, regions: int = 1) -> Path:
    return front_door.other_file(folder, f"tiny_{regions}.pt", network(regions).state_dict())


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return weights_file(tmp_path_factory.mktemp("weights"))


PHANTOM = BrainPhantom((31, 36, 27), seed=5, look_alike=False)


def save(path: Path, values: np.ndarray, affine: np.ndarray = PHANTOM.affine) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def write_case(folder: Path, image=None, label=None, affine=PHANTOM.affine, name: str = "glioma") -> Path:
    if image is None:
        image, label = PHANTOM.read()
    for channel, sequence in zip(image, SEQUENCES):
        save(folder / f"{name}_{sequence}.nii.gz", channel, affine)
    if label is not None:
        save(folder / f"{name}_seg.nii.gz", label, affine)
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return write_case(tmp_path_factory.mktemp("cases") / "glioma")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights, case) -> Path:
    """What an undisturbed run makes of the case."""
    folder = tmp_path_factory.mktemp("whole")
    run(settings(weights, folder, image=str(case)), "evaluate.yaml")
    return folder


def values(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


# ---- from outside


@pytest.mark.parametrize(("knobs", "threshold"), [({}, 0.4), ({"threshold": 0.5}, 0.5), ({"recipe": "paper"}, None)])
def test_a_voxel_is_labelled_where_its_probability_is_above_the_threshold(tmp_path, weights, case, knobs, threshold):
    run(settings(weights, tmp_path, image=str(case), **knobs))
    label, probability = (values(tmp_path / name) for name in NAMES[:2])
    asked = json.loads((tmp_path / "report.json").read_text())["config"]["threshold"]
    assert 0.1 < asked < 0.9 and (threshold is None or asked == threshold)
    away = abs(probability - asked) > 1e-4  # what is stored is rounded
    np.testing.assert_array_equal(label[away], (probability > asked)[away])
    assert 0 < label.mean() < 1


def test_a_case_is_answered_on_its_own_grid_with_labels_maps_preview_report_and_last_line(
    tmp_path, weights, case, whole
):
    done = front_door.subprocess_run(command(settings(weights, tmp_path / "out", image=case / "glioma_t2.nii.gz")))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "error:" not in done.stderr
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [*NAMES, "preview.png", "report.json"]
    given = nibabel.load(case / "glioma_t1.nii.gz")
    for name, dtype in zip(NAMES, (np.uint8, np.float32, np.float32)):
        made = nibabel.load(out / name)
        assert made.shape == given.shape and made.get_data_dtype() == dtype
        assert np.array_equal(made.affine, given.affine)
        assert digest(out / name) == digest(whole / name), "the same bytes in another process"
    labels, probability, variance = (values(out / name) for name in NAMES)
    assert set(np.unique(labels)) == {0, 1} and np.array_equal(labels, probability > 0.4)
    assert probability.min() >= 0 and probability.max() <= 1 and variance.max() > 1e-4
    with Image.open(out / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 10
    report = json.loads((out / "report.json").read_text())
    assert report["bundle"] == "patchddm_brats" and report["synthetic"] is False
    assert report["weights_sha256"] == digest(weights) and report["config"]["num_samples"] == 2
    assert report["input"]["file"] == "glioma_t1.nii.gz" and report["input"]["shape"] == [31, 36, 27]
    assert report["sequences"] == {s: f"glioma_{s}.nii.gz" for s in SEQUENCES}
    assert "t1ce from glioma_t1ce.nii.gz" in done.stdout
    assert report["output"] == {"files": NAMES, "shape": [31, 36, 27], "dtype": "uint8"}
    assert str(tmp_path) not in (out / "report.json").read_text()
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("patchddm_brats made an image (31 x 36 x 27 uint8): glioma_labels.nii.gz, ")


def test_a_mistake_found_deep_in_the_loader_is_one_line_of_error(tmp_path, weights):
    image, _ = PHANTOM.read()
    image[2, 15, 15, 15] = np.nan
    folder = write_case(tmp_path / "hole", image)
    done = front_door.subprocess_run(command(settings(weights, tmp_path / "out", image=folder)))
    front_door.assert_plain(done, "glioma_t2.nii.gz must hold finite values only")
    assert left_behind(tmp_path / "out") == []


# ---- in this process


def stacked(folder: Path, order=SEQUENCES) -> Path:
    image, _ = PHANTOM.read()
    channels = np.stack([image[SEQUENCES.index(s)] for s in order], axis=-1)
    return save(folder / "glioma.nii.gz", channels)


SOURCES = {
    "four files": lambda f, c: {"image": [str(c / f"glioma_{s}.nii.gz") for s in reversed(SEQUENCES)]},
    "four channels": lambda f, c: {"image": str(stacked(f)), "channel_order": list(SEQUENCES)},
    "the Decathlon's order": lambda f, c: {
        "image": str(stacked(f, ("flair", "t1", "t1ce", "t2"))),
        "channel_order": "msd",
    },
}


@pytest.mark.parametrize("source", SOURCES)
def test_however_a_case_is_named_the_same_labels_come_out(tmp_path, weights, case, whole, source):
    run(settings(weights, tmp_path / "out", **SOURCES[source](tmp_path, case)))
    for name in NAMES:
        assert np.array_equal(values(tmp_path / "out" / name), values(whole / name))


def test_the_order_and_direction_of_the_files_axes_do_not_change_what_is_found(tmp_path, weights, case, whole):
    """The same patient stored as (S, A, R) instead of (L, P, S): coordinates and noise belong to the patient."""
    names = [f"glioma_{s}.nii.gz" for s in SEQUENCES]
    turn = nibabel.orientations.axcodes2ornt("SAR")
    for name in names:
        image = nibabel.load(case / name)
        there = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), turn)
        (tmp_path / "turned").mkdir(exist_ok=True)
        nibabel.save(image.as_reoriented(there), tmp_path / "turned" / name)
    run(settings(weights, tmp_path / "out", image=str(tmp_path / "turned")))
    made = nibabel.load(tmp_path / "out" / NAMES[1])
    assert nibabel.aff2axcodes(made.affine) == ("S", "A", "R")
    back = nibabel.orientations.ornt_transform(turn, nibabel.io_orientation(PHANTOM.affine))
    assert np.allclose(made.as_reoriented(back).get_fdata(), values(whole / NAMES[1]), atol=1e-5)


def test_another_seed_draws_otherwise_and_one_draw_has_no_variance(tmp_path, weights, case, whole):
    run(settings(weights, tmp_path / "seed", image=str(case), seed=1))
    assert not np.array_equal(values(tmp_path / "seed" / NAMES[1]), values(whole / NAMES[1]))
    run(settings(weights, tmp_path / "one", image=str(case), num_samples=1))
    assert values(tmp_path / "one" / NAMES[2]).max() == 0


@pytest.mark.parametrize("solver", ["dpm", pytest.param("heun", marks=pytest.mark.slow)])
def test_each_solver_and_both_ways_of_inference_serve(tmp_path, weights, case, whole, solver):
    run(settings(weights, tmp_path, image=str(case), solver=solver, inference="sliding", amp="true", num_samples=1))
    made = values(tmp_path / NAMES[1])
    assert np.isfinite(made).all() and not np.array_equal(made, values(whole / NAMES[1]))


def test_the_scores_are_those_that_follow_from_the_files(whole, case):
    figures = json.loads((whole / "metrics.json").read_text())
    labels, truth = values(whole / NAMES[0]) > 0, values(case / "glioma_seg.nii.gz") > 0
    dice = 2 * (labels & truth).sum() / (labels.sum() + truth.sum())
    assert figures["n"] == 1 and figures["mean"]["dice_WT"] == pytest.approx(dice, abs=1e-6)
    own = json.loads((whole / "report.json").read_text())["metrics"]
    assert own == figures["cases"]["glioma"] and 0 <= own["auroc_variance_WT"] <= 1 and own["hd95_WT"] > 0
    brain = values(case / "glioma_flair.nii.gz") > 0
    probability = values(whole / NAMES[1])[brain]
    gap = sum(
        abs((probability - truth[brain])[(probability * 15).astype(int).clip(0, 14) == b].sum()) for b in range(15)
    )
    assert own["ece_WT"] == pytest.approx(gap / brain.sum(), abs=1e-4)


@pytest.mark.parametrize("coding, enhancing", [pytest.param("brats2023", 3, marks=pytest.mark.slow), ("brats2020", 4)])
def test_three_regions_come_out_nested_with_a_map_each(tmp_path, case, coding, enhancing):
    knobs = settings(weights_file(tmp_path, 3), tmp_path / "out", image=str(case), label_coding=coding)
    run(knobs, "multiclass.yaml", "evaluate.yaml")
    maps = [values(tmp_path / "out" / f"glioma_probability_{r}.nii.gz") > 0.4 for r in ("WT", "TC", "ET")]
    labels, wanted = values(tmp_path / "out" / NAMES[0]), np.zeros(maps[0].shape, np.uint8)
    wanted[maps[0]] = 2
    wanted[maps[0] & maps[1]] = 1
    wanted[maps[0] & maps[1] & maps[2]] = enhancing
    assert np.array_equal(labels, wanted) and set(np.unique(labels)) == {0, 1, 2, enhancing}
    mean = json.loads((tmp_path / "out" / "metrics.json").read_text())["mean"]
    truth = values(case / "glioma_seg.nii.gz") == 3
    found = labels == enhancing
    assert mean["dice_ET"] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()), abs=1e-6)


def test_a_folder_of_cases_is_worked_through_and_resumed_at_the_first_unfinished(tmp_path, weights, case, capsys):
    for name in ("a", "b"):
        shutil.copytree(case, tmp_path / "cases" / name)
        for file in (tmp_path / "cases" / name).iterdir():
            file.rename(file.with_name(file.name.removeprefix("glioma_")))
    knobs = settings(weights, tmp_path / "out", dataset_dir=str(tmp_path / "cases"), num_samples=1)
    run(knobs)
    assert capsys.readouterr().out.count("patchddm_brats made an image") == 2
    made = {name: tmp_path / "out" / name / f"{name}_labels.nii.gz" for name in ("a", "b")}
    before = {name: (digest(path), path.stat().st_mtime_ns) for name, path in made.items()}
    made["b"].unlink()
    with pytest.raises(InputError, match=r"must not yet hold a_labels\.nii\.gz"):
        run(knobs)
    run(knobs | {"resume": "true"})
    assert (digest(made["a"]), made["a"].stat().st_mtime_ns) == before["a"], "what is finished is left alone"
    assert digest(made["b"]) == before["b"][0]
    assert [p for p in tmp_path.rglob("*.partial")] == []


@pytest.mark.parametrize("changed_what", ["image", "seed"])
def test_a_folder_is_not_resumed_beside_results_of_another_image_or_other_settings(
    tmp_path, weights, case, changed_what
):
    for name in ("a", "b"):
        write_case(tmp_path / "cases" / name, name=name)
    knobs = settings(weights, tmp_path / "out", dataset_dir=str(tmp_path / "cases"), num_samples=1)
    run(knobs)
    (tmp_path / "out" / "b" / "b_labels.nii.gz").unlink()
    if changed_what == "image":  # another patient under the same name, of the same shape
        write_case(tmp_path / "cases" / "a", *BrainPhantom((31, 36, 27), seed=6).read(), name="a")
    else:
        knobs["seed"] = 1
    before = digest(tmp_path / "out" / "a" / "a_labels.nii.gz")
    with pytest.raises(
        InputError, match=f"a_labels.nii.gz must be of the run that is resumed.* another {changed_what}; set overw"
    ):
        run(knobs | {"resume": "true"})
    assert digest(tmp_path / "out" / "a" / "a_labels.nii.gz") == before
    assert left_behind(tmp_path / "out" / "b") == [f"b{n[6:]}" for n in NAMES[1:]] + ["preview.png", "report.json"]


@pytest.mark.parametrize("changed_what", ["image", "seed"])
@pytest.mark.parametrize("given_as", ["image", "dataset_dir"])
def test_an_unfinished_case_is_not_resumed_with_another_image_or_other_settings(
    tmp_path, weights, monkeypatch, given_as, changed_what
):
    """Broken off while the labels are drawn; the same image under the same settings is gone on with."""
    folder = write_case(tmp_path / "cases" / "glioma")
    given = folder if given_as == "image" else folder.parent
    if given_as == "dataset_dir":
        write_case(tmp_path / "cases" / "other", name="other")
    knobs = settings(weights, tmp_path / "out", num_samples=1, **{given_as: str(given)})

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SegmentationInferer, "__call__", stop)
        run(knobs)
    first = PHANTOM.read()
    changed = dict(knobs, resume="true")
    if changed_what == "image":  # another patient under the same name, of the same shape
        write_case(folder, *BrainPhantom((31, 36, 27), seed=6).read())
    else:
        changed["seed"] = 1
    with pytest.raises(
        InputError, match=f"resume must have .* glioma was begun with, got another {changed_what}; set .*overwrite true"
    ):
        run(changed)
    assert list((tmp_path / "out").rglob("*labels*")) == []
    write_case(folder, *first)
    run(knobs | {"resume": "true"})
    assert len(list((tmp_path / "out").rglob("*labels*"))) == (1 if given_as == "image" else 2)
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_phantom_is_the_default_and_its_truth_is_shown(tmp_path, weights):
    run(settings(weights, tmp_path, phantom={"shape": [24, 28, 20], "seed": 3}), "evaluate.yaml")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["input"]["file"] == "brain_phantom_3" and report["metrics"]["dice_WT"] >= 0


# ---- mistakes


def changed(folder: Path, case: Path, **files) -> Path:
    """A copy of the case with some files replaced; None removes one."""
    copy = Path(shutil.copytree(case, folder / "case"))
    for sequence, change in files.items():
        path = copy / f"glioma_{sequence}.nii.gz"
        image = nibabel.load(path)
        data, affine = np.asarray(image.dataobj), image.affine
        path.unlink()
        if change is not None:
            save(path, *change(data, affine))
    return copy


def doubled(folder: Path, case: Path) -> Path:
    copy = changed(folder, case)
    shutil.copy(copy / "glioma_t1ce.nii.gz", copy / "glioma_t1gd.nii.gz")
    return copy


def shifted(data, affine):
    moved = affine.copy()
    moved[0, 3] += 5
    return data, moved


def filled(folder: Path) -> Path:
    (folder / "out").mkdir()
    return text_file(folder / "out", NAMES[0], b"precious").parent


MISTAKES = {
    "missing path": (lambda f, c, w: {"image": f / "none"}, "got .*none', which does not exist"),
    "empty path": (lambda f, c, w: {"image": ""}, "case folder or a file of one"),
    "empty folder": (lambda f, c, w: {"image": (f / "e").mkdir() or f / "e"}, "must hold the NIfTI files or DICOM"),
    "text": (lambda f, c, w: {"image": text_file(f, "notes.nii")}, "notes.nii must be a NIfTI image"),
    "a sequence missing": (lambda f, c, w: {"image": changed(f, c, t2=None)}, "must have t1, t1ce.* got no t2"),
    "a sequence doubled": (lambda f, c, w: {"image": doubled(f, c)}, "must have one t1ce, got .*t1gd"),
    "a sequence twice in the list": (
        lambda f, c, w: {"image": [str(c / f"glioma_{s}.nii.gz") for s in ("t1", "t1", "t2", "flair")]},
        "must be four files .* each once",
    ),
    "another shape": (
        lambda f, c, w: {"image": changed(f, c, t2=lambda d, a: (d[:-1], a))},
        "glioma_t2.nii.gz must have the shape of glioma_t1.nii.gz",
    ),
    "another affine": (
        lambda f, c, w: {"image": changed(f, c, flair=shifted)},
        "glioma_flair.nii.gz must have the affine of .* got a difference of up to 5 mm",
    ),
    "infinity": (
        lambda f, c, w: {"image": changed(f, c, t1=lambda d, a: (np.where(d > 0, np.inf, d), a))},
        "glioma_t1.nii.gz must hold finite values only",
    ),
    "a constant sequence": (
        lambda f, c, w: {"image": changed(f, c, t1ce=lambda d, a: (d * 0, a))},
        "must show something in every sequence, got a t1ce that is 0 everywhere",
    ),
    "a skull": (
        lambda f, c, w: {
            "image": write_case(
                f / "head",
                np.random.default_rng(0).random((4, 20, 20, 20), np.float32) + 1,
                affine=np.diag([-10.0, -10, 10, 1]),
            )
        },
        "strip the skull first",
    ),
    "two cases": (
        lambda f, c, w: {"image": write_case(Path(shutil.copytree(c, f / "two")), name="other")},
        "must hold one case, got 2",
    ),
    "three channels": (
        lambda f, c, w: {"image": save(f / "x.nii", np.zeros((8, 8, 8, 3), np.float32))},
        "a NIfTI of four channels",
    ),
    "four channels in an order that nothing tells": (
        lambda f, c, w: {"image": stacked(f)},
        "must tell the order of its four channels .* set channel_order",
    ),
    "a strange order of channels": (
        lambda f, c, w: {"image": stacked(f), "channel_order": ["t1", "t1", "t2", "flair"]},
        "channel_order must be msd or name",
    ),
    "image and folder": (lambda f, c, w: {"dataset_dir": f}, "Either image or dataset_dir"),
    "folder of nothing": (lambda f, c, w: {"image": None, "dataset_dir": f}, "dataset_dir must hold"),
    "a section of nothing": (
        lambda f, c, w: {"image": None, "dataset_dir": c, "section": "exam"},
        "section must be training",
    ),
    "strange labels": (
        lambda f, c, w: {"image": changed(f, c, seg=lambda d, a: (d * 9, a))},
        "must hold the codes .* got",
    ),
    "no such label": (lambda f, c, w: {"label": "seg_expert"}, "must have one label named seg_expert"),
    "a label elsewhere": (
        lambda f, c, w: {"label": save(f / "l.nii", np.zeros((8, 8, 8), np.uint8))},
        "l.nii must have the shape",
    ),
    "no weights": (lambda f, c, w: {"weights_path": f / "none.pt"}, "weights must be in .*none.pt"),
    "damaged weights": (lambda f, c, w: {"weights_path": front_door.damaged(f, w)}, "model.pt must have the sha256"),
    "weights of another network": (
        lambda f, c, w: {"weights_path": weights_file(f, 3)},
        "must hold the weights of PatchDDMUNet as configured",
    ),
    "an output that exists": (lambda f, c, w: {"output_dir": filled(f)}, "must not yet hold glioma_labels"),
    "a file as output_dir": (lambda f, c, w: {"output_dir": text_file(f, "out")}, "output_dir must be a folder that"),
    "unknown format": (lambda f, c, w: {"output_format": "mha"}, "output_format must be nii"),
    "unknown recipe": (lambda f, c, w: {"recipe": "slow"}, "recipe must be one of fast, paper"),
    "unknown solver": (lambda f, c, w: {"solver": "euler"}, "solver must be one of ddim, dpm, heun"),
    "unknown inference": (lambda f, c, w: {"inference": "half"}, "inference must be one of whole, sliding"),
    "unknown coordinates": (lambda f, c, w: {"coordinates": "polar"}, "coordinates must be one of"),
    "unknown region": (lambda f, c, w: {"regions": ["XX"]}, "regions must be some of WT, TC, ET"),
    "unknown coding": (lambda f, c, w: {"label_coding": "mine"}, "label_coding must be brats2020 or brats2023"),
    "no steps": (lambda f, c, w: {"steps": 0}, "steps must be a whole number from 1 on"),
    "no draws": (lambda f, c, w: {"num_samples": -1}, "num_samples must be a whole number from 1 on"),
    "no spacing": (lambda f, c, w: {"spacing": 0}, "spacing must be a positive number of mm"),
    "a window in words": (
        lambda f, c, w: {"tile_size": "large", "inference": "sliding"},
        "patch_size .*tile_size.* must be a whole number|tile_size must be a whole number|patch_size must be",
    ),
    "an odd window": (lambda f, c, w: {"tile_size": 15, "inference": "sliding"}, "multiple of the network's 2"),
    "perhaps": (lambda f, c, w: {"overwrite": "perhaps"}, "overwrite must be true or false"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_under_a_final_name(mistake, tmp_path, weights, case):
    knobs, sentence = MISTAKES[mistake]
    knobs = settings(weights, tmp_path / "out") | {"image": case} | knobs(tmp_path, case, weights)
    out = tmp_path / "out"
    before = left_behind(out) if out.is_dir() else []
    with pytest.raises(InputError, match=sentence) as caught:
        run({k: str(v) if isinstance(v, Path) else v for k, v in knobs.items()})
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < 700 and text.endswith((".", ")"))
    if out.is_dir():
        assert left_behind(out) == before
    if before:
        assert (out / before[0]).read_bytes() == b"precious"


def test_running_out_of_memory_is_a_sentence_that_names_the_knobs(tmp_path, weights, case, monkeypatch):
    def failing(self, *args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to "
                           "allocate 137438953472 bytes.")  # fmt: skip

    monkeypatch.setattr(DDIM, "__call__", failing)
    with pytest.raises(InputError, match=r"\(tried to allocate 137438953472 bytes\); set inference"):
        run(settings(weights, tmp_path / "out", image=str(case)))
    assert left_behind(tmp_path / "out") == []


@pytest.mark.parametrize("values_of", ["negative", pytest.param("shifted", marks=pytest.mark.slow)])
def test_values_that_were_normalised_otherwise_change_nothing(tmp_path, weights, case, whole, values_of):
    """Each sequence is brought to [-1, 1] by its own percentiles, whatever a scanner or another tool made of it."""
    scale = {"negative": (2.0, -5.0), "shifted": (0.01, 3.0)}[values_of]
    image, _ = PHANTOM.read()
    folder = write_case(tmp_path / "glioma", image * scale[0] + scale[1])
    run(settings(weights, tmp_path / "out", image=str(folder)))
    assert np.allclose(values(tmp_path / "out" / NAMES[1]), values(whole / NAMES[1]), atol=2e-3)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="HIRESMED_DATA names no folder with brain_mr/TCGA-FG-6692")
def test_a_real_glioma_is_answered_on_its_own_grid(tmp_path, weights):
    run(settings(weights, tmp_path, image=str(REAL), label="seg_mav", num_samples=1), "evaluate.yaml")
    made = nibabel.load(tmp_path / "TCGA-FG-6692_labels.nii.gz")
    given = nibabel.load(REAL / "TCGA-FG-6692_t1.nii.gz")
    assert made.shape == (240, 240, 155) and np.array_equal(made.affine, given.affine)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["dice_WT"] >= 0


def test_a_case_of_four_dicom_series_is_answered_with_the_nifti_cases_labels_as_a_seg(tmp_path, weights, case, whole):
    pydicom = pytest.importorskip("pydicom", reason="the series are made by pydicom")
    highdicom = pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    folder = tmp_path / "glioma"
    for sequence in SEQUENCES:
        dicom_files.write_series(folder / sequence, values(case / f"glioma_{sequence}.nii.gz"), PHANTOM.affine)
    run(settings(weights, tmp_path / "out", image=str(folder)))
    names = ["glioma_labels.dcm", "glioma_probability.nii.gz", "glioma_variance.nii.gz", "preview.png", "report.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    labels = values(tmp_path / "out" / names[1]) > 0.4
    # stored as integers, hence not quite the values of the NIfTI files
    assert labels.any() and np.mean(labels != values(whole / "glioma_labels.nii.gz")) < 0.01
    seg = highdicom.seg.segread(tmp_path / "out" / names[0])
    grid = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in (folder / "flair").iterdir()])
    found = seg.get_volume(combine_segments=True).match_geometry(grid.get_geometry())  # it has no empty frames
    assert found.array.sum() == labels.sum()
    lps = np.diag([-1, -1, 1, 1]) @ nibabel.load(tmp_path / "out" / names[1]).affine
    for index in np.argwhere(labels)[::7]:
        at = np.linalg.inv(grid.affine) @ lps @ [*index, 1]
        assert found.array[tuple(at[:3].round().astype(int))] == 1
