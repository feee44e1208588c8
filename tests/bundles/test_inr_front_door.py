"""The implicit generator through the front door: images of any size and place, figures with their N.

As for its siblings a tiny network with random weights stands for the shipped one, and what needs no look from outside
the process runs in it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import front_door
import nibabel
import numpy as np
import programs
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.pyramids import Level
from hiresmed.io import open_volume
from hiresmed.methods.inr_gan import ImplicitGenerator
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {"network_def#channels": [8, 6], "network_def#features": 8, "network_def#style_size": 6, "latent_size": 6}
DOOR = front_door.FrontDoor(
    "inr_gan_multistage", NETWORK, image_size=[16, 24], tile_size=10, places=64, trained_spacing=2.0, large_size=None
)
settings, run, digest, left_behind = DOOR.settings, DOOR.run, front_door.digest, front_door.left_behind


def generator(channels: int = 1) -> ImplicitGenerator:
    torch.manual_seed(0)
    made = ImplicitGenerator(2, channels, 6, 6, (8, 6), 4, 8, 60.0)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return front_door.other_file(tmp_path_factory.mktemp("weights"), "tiny.pt", generator().state_dict())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for k in range(7):
        values = np.random.default_rng(k).integers(0, 255, (20, 26, 3))
        Image.fromarray(values.astype(np.uint8)).save(folder / f"photo_{k}.png")
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, weights) -> Path:
    """What an undisturbed run leaves of two samples and a large image."""
    folder = tmp_path_factory.mktemp("gallery")
    run(settings(weights, folder, num_samples=2, large_size=[32, 48]))
    return folder


def values_of(path: Path) -> np.ndarray:
    volume = open_volume(path, path.parent / "work")
    return volume.read([0] * len(volume.shape), volume.shape)


# ---- inference


def test_a_run_leaves_a_gallery_a_large_image_preview_report_and_last_line(tmp_path, weights, gallery):
    knobs = settings(weights, tmp_path / "out", num_samples=2, large_size="[32,48]")
    done = front_door.subprocess_run(DOOR.command(knobs))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "error:" not in done.stderr
    names = ["large_0000_synthetic.png", "sample_0000_synthetic.png", "sample_0001_synthetic.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [names[0], "preview.png", "report.json", *names[1:]]
    assert [digest(tmp_path / "out" / n) for n in names] == [digest(gallery / n) for n in names], "in another process"
    report = json.loads((gallery / "report.json").read_text())
    assert report["bundle"] == "inr_gan_multistage" and report["synthetic"] is True and report["input"] is None
    assert [o["shape"] for o in report["output"]] == [[16, 24], [16, 24], [32, 48]]
    assert len(report["weights_sha256"]) == 64 and report["config"]["seed"] == 0
    with Image.open(gallery / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 10
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("inr_gan_multistage made 3 synthetic images (16 x 24 uint16): sample_0000_synthetic.png, ")


def test_a_sample_is_the_same_alone_and_among_others_and_another_seed_is_another(tmp_path, weights, gallery):
    run(settings(weights, tmp_path / "one", num_samples=1, first_sample=1))
    name = "sample_0001_synthetic.png"
    assert digest(tmp_path / "one" / name) == digest(gallery / name)
    run(settings(weights, tmp_path / "seed", num_samples=2, seed=1))
    assert digest(tmp_path / "seed" / name) != digest(gallery / name)


def test_a_region_is_the_crop_of_the_whole_to_the_byte(tmp_path, weights, gallery):
    region = [[11, 31], [7, 8]]
    run(settings(weights, tmp_path, num_samples=1, size=[32, 48], region=region), "inference_region.yaml")
    whole = values_of(gallery / "large_0000_synthetic.png")
    assert whole.std() > 1000
    assert np.array_equal(values_of(tmp_path / "sample_0000_synthetic.png"), whole[11:31, 7:8])


def test_tiled_equals_untiled(tmp_path, weights):
    made = {}
    for tile in (7, 1000):
        knobs = {"tile_size": tile, "places": 40 if tile == 7 else 10**6, "dtype": "float32", "window": [-1, 1]}
        run(settings(weights, tmp_path / str(tile), num_samples=1, size=[45, 50], **knobs))
        made[tile] = values_of(tmp_path / str(tile) / "sample_0000_synthetic.tiff")
    assert made[7].std() > 0.05
    np.testing.assert_allclose(made[7], made[1000], atol=2e-5)


def test_broken_off_and_resumed_it_ends_with_the_same_bytes(tmp_path, weights, gallery, monkeypatch):
    class Killed(BaseException):
        """Nothing that tidies up after errors may catch it."""

    marked, mark = [], Level.mark

    def mark_until_killed(self, number):
        mark(self, number)
        marked.append(number)
        if len(marked) == 9:  # in the second sample, of 6 tiles each
            raise Killed

    knobs = settings(weights, tmp_path, num_samples=2, large_size=[32, 48])
    with monkeypatch.context() as patch:
        patch.setattr(Level, "mark", mark_until_killed)
        with pytest.raises(Killed):
            run(knobs)
    assert left_behind(tmp_path) == ["sample_0000_synthetic.png"]
    with pytest.raises(InputError, match="got another window"):
        run(knobs | {"resume": True, "window": [0, 1000]})
    marked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Level, "mark", lambda self, number: (mark(self, number), marked.append(number)))
        run(knobs | {"resume": "true"})
    assert len(marked) == 3 + 20, "of the second sample's 6 tiles 3 were done, of the large one's 20 none"
    for name in ("sample_0000", "sample_0001", "large_0000"):
        assert digest(tmp_path / f"{name}_synthetic.png") == digest(gallery / f"{name}_synthetic.png")
    assert len(json.loads((tmp_path / "report.json").read_text())["output"]) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_smaller_pixels_and_a_larger_extent_keep_the_image_where_it_lies_in_mm(tmp_path, weights):
    common = {"num_samples": 1, "output_format": "nii", "dtype": "float32", "window": [-1, 1]}
    run(settings(weights, tmp_path / "a", **common))
    run(settings(weights, tmp_path / "fine", **common, spacing=0.4), "super_resolution.yaml")
    wide = {"size": [24, 28], "spacing": 2.0, "offset": [-8.0, -4.0]}
    run(settings(weights, tmp_path / "wide", **common, **wide), "extrapolation.yaml")
    a, fine, wide = (nibabel.load(tmp_path / n / "sample_0000_synthetic.nii") for n in ("a", "fine", "wide"))
    assert fine.shape == (80, 120) and np.allclose(fine.header.get_zooms(), 0.4)
    assert np.allclose(a.header.get_zooms(), 2.0) and np.allclose(wide.header.get_zooms(), 2.0)
    # the middle pixel of each 5 x 5 is the trained pixel itself; so is the wide image's part
    assert np.allclose(fine.get_fdata()[2::5, 2::5], a.get_fdata(), atol=1e-4)
    assert np.allclose(wide.get_fdata()[4:20, 2:26], a.get_fdata(), atol=1e-4)
    voxel = np.array([3, 5, 0, 1])
    assert np.allclose(a.affine @ voxel, fine.affine @ (5 * voxel + [2, 2, 0, -4]), atol=1e-4)
    assert np.allclose(a.affine @ voxel, wide.affine @ (voxel + [4, 2, 0, 0]), atol=1e-4)


def test_interpolation_begins_and_ends_at_the_samples(tmp_path, weights, gallery):
    run(settings(weights, tmp_path, interpolate=[0, 1], steps=3), "interpolation.yaml")
    steps = [values_of(tmp_path / f"step_{k:04d}_synthetic.png").astype(float) for k in range(4)]
    for step, sample in ((steps[0], "sample_0000"), (steps[3], "sample_0001")):
        assert np.abs(step - values_of(gallery / f"{sample}_synthetic.png")).max() <= 2
    gap = [np.abs(b - a).mean() for a, b in itertools.pairwise(steps)]
    assert max(gap) < np.abs(steps[3] - steps[0]).mean(), "each step is smaller than the whole way"


def test_colours_are_written_as_png_and_tiff_of_the_same_values(tmp_path):
    path = front_door.other_file(tmp_path, "colour.pt", generator(3).state_dict())
    knobs = {"num_samples": 1, "image_channels": 3, "dtype": "uint8", "window": [0, 255]}
    run(settings(path, tmp_path / "png", **knobs))
    run(settings(path, tmp_path / "tiff", **knobs, output_format="tiff"))
    pictures = [tmp_path / kind / f"sample_0000_synthetic.{kind}" for kind in ("png", "tiff")]
    with Image.open(pictures[0]) as a, Image.open(pictures[1]) as b:
        assert a.mode == b.mode == "RGB" and np.array_equal(a, b)
        assert min(np.asarray(a).std((0, 1))) > 5 and np.ptp(np.asarray(a).astype(int), axis=2).max() > 20
        assert np.allclose(a.info["dpi"], 12.7, rtol=1e-3)
    with pytest.raises(InputError, match="colour picture must be png"):
        run(settings(path, tmp_path / "nii", **knobs, output_format="nii"))


def test_evaluation_says_n_and_the_network_of_every_figure_and_is_not_written_over(tmp_path, weights, photographs):
    knobs = settings(weights, tmp_path, dataset_dir=str(photographs), num_samples=5, extractor="random")
    run(knobs, "evaluate.yaml")
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["n_generated"], figures["n_real"]) == (5, 7)
    assert figures["made_by"]["extractor"] == "random"
    assert figures["random_kernel_distance"]["n_real"] == 7 and figures["random_kernel_distance"]["value"] > 0
    others = {"random_frechet_distance", "random_frechet_ratio", "random_prdc", "random_memorisation"}
    assert others | {"ms_ssim_diversity"} <= set(figures)
    assert len(list(tmp_path.glob("sample_*_synthetic.png"))) == 5, "the images that were measured are there to look at"
    with pytest.raises(InputError, match=r"must not yet hold sample_0000_synthetic\.png"):
        run(knobs, "evaluate.yaml")


MISTAKES = {
    "an image": (lambda f: {"image": "x.png"}, r"generates images from noise, got x\.png"),
    "no samples": (lambda f: {"num_samples": 0}, "num_samples must be a whole number from 1 on"),
    "a negative seed": (lambda f: {"seed": -1}, "seed must be a whole number from 0 on"),
    "size of three axes": (lambda f: {"size": [8, 8, 8]}, "size must give a positive number .* each of 2"),
    "no spacing": (lambda f: {"spacing": 0}, "spacing must be a positive length in mm"),
    "offset in words": (lambda f: {"offset": "left"}, r"offset must be a list \(a number each\) or a number, got"),
    "no trained spacing": (lambda f: {"trained_spacing": -1}, "trained_spacing must be a positive length"),
    "region outside": (lambda f: {"region": [[0, 17], [0, 9]]}, r"region must be .* inside \(16, 24\)"),
    "half a region": (lambda f: {"region": [5]}, "region must be"),
    "a number of steps": (lambda f: {"interpolate": 6}, "interpolate must be the numbers of at least two samples"),
    "a lone sample": (lambda f: {"interpolate": [3]}, "interpolate must be the numbers of at least two samples"),
    "no steps": (lambda f: {"interpolate": [3, 4], "steps": 0}, "steps must be a whole number from 1 on"),
    "a window too wide": (lambda f: {"window": [0, 256], "dtype": "uint8"}, "window must be two rising numbers"),
    "an unknown dtype": (lambda f: {"dtype": "uint17"}, "window must be two rising numbers that dtype can hold"),
    "tiles of none": (lambda f: {"tile_size": 0}, "tile_size must be a positive number"),
    "places of none": (lambda f: {"places": 0}, "places must be a whole number from 1 on"),
    "an unknown format": (lambda f: {"output_format": "bmp"}, "output_format must be one of"),
    "a PNG too large": (lambda f: {"size": [9000, 9000], "output_format": "png"}, "set output_format to tiff"),
    "a disk too small": (lambda f: {"size": [10**7, 10**7]}, "TB free for this result"),
    "a folder that is a file": (
        lambda f: {"output_dir": front_door.text_file(f, "file") / "out"},
        "output_dir must be a folder that can be written",
    ),
    "no weights": (lambda f: {"weights_path": f / "none.pt"}, "the weights must be in"),
    "colour weights": (
        lambda f: {"weights_path": front_door.other_file(f, "c.pt", generator(3).state_dict())},
        "c.pt must hold the weights of ImplicitGenerator as configured",
    ),
    "damaged weights": (
        lambda f: {"weights_path": front_door.damaged(f, front_door.other_file(f, "w.pt", generator().state_dict()))},
        "must have the sha256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_under_a_final_name(mistake, tmp_path, weights):
    knobs, sentence = MISTAKES[mistake]
    knobs = settings(weights, tmp_path / "out", num_samples=1) | knobs(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        run({k: str(v) if isinstance(v, Path) else v for k, v in knobs.items()})
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < 700 and text.endswith((".", ")"))
    assert left_behind(tmp_path / "out") == []


def test_results_that_exist_are_not_replaced_unless_asked(weights, gallery):
    before = digest(gallery / "report.json")
    with pytest.raises(InputError, match=r"must not yet hold sample_0000_synthetic\.png"):
        run(settings(weights, gallery, num_samples=1, large_size=[32, 48]))
    assert digest(gallery / "report.json") == before


@pytest.mark.slow
def test_two_processes_draw_the_same_bytes_as_one(tmp_path, weights, gallery):
    knobs = settings(weights, tmp_path, num_samples=2, large_size="[32,48]")
    done = programs.run_group(DOOR.command(knobs)[1:], 2)
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-3000:]
    for name in ("sample_0001", "large_0000"):
        assert digest(tmp_path / f"{name}_synthetic.png") == digest(gallery / f"{name}_synthetic.png")
