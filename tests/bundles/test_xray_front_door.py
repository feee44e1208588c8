"""The X-ray bundle through the front door: pictures in, 16-bit pictures out, on the same grid; tiles do not show.

As for its 3-D sibling a tiny cascade with random weights stands for the shipped one, but what needs no look from
outside the process runs in it. What the two bundles share is tested there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import dicom_files
import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.pyramids import Level, MemoryStores
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.windows import robust_window
from hiresmed.io import open_volume
from hiresmed.methods.msgan import CascadeInferer
from monai.bundle import ConfigParser
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

DOOR = front_door.FrontDoor("msgan_xray2d", tile_size=32, base_size=24)
settings, run = DOOR.settings, DOOR.run
generator, bricks, digest, left_behind = (
    front_door.generator,
    front_door.bricks,
    front_door.digest,
    front_door.left_behind,
)
SHAPE = (83, 70)
SPACING = dicom_files.SPACING
TRAINING = {
    "cases_list": [{"phantom": 0, "shape": [48, 40]}, {"phantom": 0, "shape": [32, 32], "section": "validation"}],
    "base_size": 16, "base_patch": 16, "patch_size": 8, "batch_size": 2, "iterations": 2, "rollout": 0.5,
    "discriminator_def::channels": 4, "discriminator_def::num_layers": 1, "network_def::base": front_door.SMALL,
    "network_def::stage": front_door.SMALL, "bundle_root": str(DOOR.bundle), "base_share": 0.5, "val_interval": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(generator(2).state_dict(), path)
    return path


def grey(shape=SHAPE) -> np.ndarray:
    """8 bit, every value between 10 and 240 possible, so that the robust window is not the full one."""
    noise = np.random.default_rng(1).integers(0, 10, shape)
    return (bricks(shape, 10, 230, np.int64) + noise).astype(np.uint8)


def png(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path, dpi=(25.4 / SPACING[1], 25.4 / SPACING[0]))
    return path


def tiff(path: Path, values: np.ndarray) -> Path:
    resolution = {"x_resolution": 10 / SPACING[1], "y_resolution": 10 / SPACING[0], "resolution_unit": 3}
    Image.fromarray(values).save(path, **resolution)
    return path


def test_names_of_any_bytes_and_any_length_are_those_of_cases(tmp_path, weights):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"caf\xe8.png", b"two\nlines.png", b"n" * 251 + b".png"):
        png(tmp_path / "a.png", grey()).rename(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    run(settings(weights, tmp_path / "out", dataset_dir=str(folder)))
    cut = next(p.name for p in (tmp_path / "out").iterdir() if p.name.startswith("n"))
    assert left_behind(tmp_path / "out") == sorted(["caf_", "caf__2", "two_lines", cut])
    assert len(cut) == 160
    for case in (tmp_path / "out").iterdir():
        assert left_behind(case) == sorted([f"{case.name}_synthetic.png", "preview.png", "report.json"])
    told = json.loads((tmp_path / "out" / "caf_" / "report.json").read_text(encoding="utf-8"))
    assert told["input"]["file"] == r"caf\udce8.png", "which of the two it was"


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return png(tmp_path_factory.mktemp("images") / "chest.png", grey())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, weights, image) -> Path:
    """What an undisturbed run makes of the image."""
    folder = tmp_path_factory.mktemp("whole")
    run(settings(weights, folder, image=str(image)))
    return folder / "chest_synthetic.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---- from outside


def test_an_image_is_answered_with_a_16_bit_picture_preview_report_and_last_line(tmp_path, weights, image, whole):
    done = front_door.subprocess_run(DOOR.command(settings(weights, tmp_path / "out", image=image)))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "error:" not in done.stderr
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["chest_synthetic.png", "preview.png", "report.json"]
    assert digest(out / "chest_synthetic.png") == digest(whole), "the same bytes in another process"
    with Image.open(out / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 10
    report = json.loads((out / "report.json").read_text())
    assert report["bundle"] == "msgan_xray2d" and report["synthetic"] is True
    assert len(report["input"].pop("sha256")) == 64
    assert report["input"] == {"file": "chest.png", "shape": list(SHAPE), "spacing": report["input"]["spacing"]}
    assert np.allclose(report["input"]["spacing"], SPACING, rtol=2e-4)
    assert report["output"] == {"files": ["chest_synthetic.png"], "shape": list(SHAPE), "dtype": "uint16"}
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("msgan_xray2d made a synthetic image (83 x 70 uint16): chest_synthetic.png in ")


# ---- in this process


def formats(folder: Path) -> dict[str, Path]:
    """One picture in four dresses; the values of each are those of the first times a number, plus another."""
    return {
        "png": png(folder / "png.png", grey()),
        "tiff": tiff(folder / "tiff.tiff", grey().astype(np.uint16) * 200 + 1000),
        "dcm": dicom_files.write_radiograph(folder / "dcm.dcm", grey().astype(np.uint16) * 16 + 5),
        "colour": png(folder / "colour.png", np.repeat(grey()[..., None], 3, axis=2)),
    }


def test_whatever_the_file_and_its_grey_scale_the_same_16_bit_image_comes_out_with_its_spacing(tmp_path, weights):
    """X-rays have no unit: between its robust percentiles an image is the same whatever its bits, offset and slope."""
    made = {}
    for name, path in formats(tmp_path).items():
        run(settings(weights, tmp_path / "out" / name, image=str(path)))
        suffix = name if name in ("tiff", "dcm") else "png"
        made[name] = open_volume(tmp_path / "out" / name / f"{name}_synthetic.{suffix}", tmp_path)
    values = {name: volume.read((0, 0), SHAPE) for name, volume in made.items()}
    assert all(volume.shape == SHAPE and volume.dtype == np.uint16 for volume in made.values())
    assert all(np.allclose(volume.spacing, SPACING, rtol=2e-4) for volume in made.values())
    assert values["png"].std() > 500 and len(np.unique(values["png"])) > 256, "more than 8 bit holds"
    assert np.array_equal(values["png"], values["colour"])
    for name in ("tiff", "dcm"):  # the window's ends are rounded otherwise
        assert np.abs(values[name].astype(int) - values["png"]).max() <= 2


def test_a_region_is_the_crop_of_the_whole_to_the_byte(tmp_path, weights, image, whole):
    run(settings(weights, tmp_path, image=str(image), region=[[11, 60], [33, 34]]))
    assert np.array_equal(pixels(tmp_path / "chest_synthetic.png"), pixels(whole)[11:60, 33:34])


def one_slice(path: Path, values: np.ndarray) -> Path:
    """A picture as SimpleITK and MONAI write it: (columns, rows, 1)."""
    affine = np.diag([-SPACING[1], -SPACING[0], 1, 1])
    nibabel.save(nibabel.Nifti1Image(values.T[..., None], affine), path)
    return path


@pytest.mark.parametrize("region", [None, [[11, 60], [33, 44]]])
def test_a_nifti_of_one_slice_is_the_picture_that_it_holds_and_is_answered_on_its_own_grid(
    tmp_path, weights, whole, region
):
    """The network sees rows and columns; a region names rows, then columns; the result lies as the file does."""
    given = one_slice(tmp_path / "chest.nii.gz", grey())
    run(settings(weights, tmp_path / "out", image=str(given), region=region))
    made = nibabel.load(tmp_path / "out/chest_synthetic.nii.gz")
    rows, columns = region or [[0, SHAPE[0]], [0, SHAPE[1]]]
    picture = pixels(whole)[slice(*rows), slice(*columns)]
    assert np.array_equal(np.asarray(made.dataobj), picture.T[..., None])
    corner = nibabel.load(given).affine @ [columns[0], rows[0], 0, 1]
    assert np.allclose(made.affine @ [0, 0, 0, 1], corner, atol=1e-4)
    assert np.allclose(made.affine[:3, :3], nibabel.load(given).affine[:3, :3], atol=1e-6)


class Killed(BaseException):
    """Nothing that tidies up after errors may catch it."""


def test_broken_off_in_the_middle_and_resumed_it_ends_with_the_same_bytes(tmp_path, weights, image, whole, monkeypatch):
    marked, mark = [], Level.mark

    def mark_until_killed(self, number):
        mark(self, number)
        marked.append(self.name)
        if marked.count("result") == 5:
            raise Killed

    knobs = settings(weights, tmp_path, image=str(image))
    with monkeypatch.context() as patch:
        patch.setattr(Level, "mark", mark_until_killed)
        with pytest.raises(Killed):
            run(knobs)
    assert left_behind(tmp_path) == []
    with pytest.raises(InputError, match="was begun with, got another seed"):
        run(knobs | {"resume": True, "seed": 1})
    marked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Level, "mark", lambda self, number: (mark(self, number), marked.append(self.name)))
        run(knobs | {"resume": "true"})
    assert marked.count("result") == 4 + 9 + 1 - 5, "three levels of 1, 4 and 9 tiles, of which 5 were done"
    assert digest(tmp_path / "chest_synthetic.png") == digest(whole)


def test_a_large_result_is_a_tiled_tiff_of_the_same_values_when_asked_for(tmp_path, weights, image, whole):
    run(settings(weights, tmp_path, image=str(image), output_format="tiff"))
    made = open_volume(tmp_path / "chest_synthetic.tiff", tmp_path)
    assert np.array_equal(made.read((0, 0), SHAPE), pixels(whole))
    assert np.allclose(made.spacing, SPACING, rtol=2e-4)


def test_the_default_case_is_a_radiograph_of_the_phantom(tmp_path, weights):
    run(settings(weights, tmp_path, phantom_size=[60, 48]))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["input"]["file"] == "chest_xray_phantom_0" and report["output"]["dtype"] == "uint16"
    assert pixels(tmp_path / report["output"]["files"][0]).shape == (60, 48)


def test_super_resolution_has_the_image_itself_as_its_means(tmp_path, weights, image):
    size = [2 * n for n in SHAPE]
    run(settings(weights, tmp_path / "out", image=str(image), size=size), "super_resolution.yaml")
    given = open_volume(image, tmp_path)
    a, b = robust_window(given)
    seen = ((grey().astype(np.float64) - a) / (b - a) * 65535).round().clip(0, 65535)
    made = pixels(tmp_path / "out/chest_synthetic.png").astype(np.float64)
    assert np.array_equal(made.reshape(SHAPE[0], 2, SHAPE[1], 2).mean((1, 3)), seen)
    assert made.reshape(SHAPE[0], 2, SHAPE[1], 2).std((1, 3)).mean() > 100, "detail was added"


def test_inpainting_leaves_all_outside_the_mask_as_it_was(tmp_path, weights, image):
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:50, 15:40] = 255
    knobs = settings(weights, tmp_path / "out", image=str(image), mask=str(png(tmp_path / "mask.png", mask)))
    run(knobs, "inpaint.yaml")
    a, b = robust_window(open_volume(image, tmp_path))
    seen = ((grey().astype(np.float64) - a) / (b - a) * 65535).round().clip(0, 65535)
    made = pixels(tmp_path / "out/chest_synthetic.png")
    assert np.array_equal(made[mask == 0], seen[mask == 0])
    assert np.mean(made[mask > 0] != seen[mask > 0]) > 0.99


def test_a_sketch_alone_is_enough(tmp_path, weights):
    lines = png(tmp_path / "lines.png", np.where(grey() > 180, 255, 128).astype(np.uint8))
    run(settings(weights, tmp_path / "out", sketch=str(lines)))
    made = open_volume(tmp_path / "out/lines_synthetic.png", tmp_path)
    assert made.shape == SHAPE and made.dtype == np.uint16 and np.allclose(made.spacing, SPACING, rtol=2e-4)


MISTAKES = {
    "a volume": (
        lambda f: {"image": volume(f / "ct.nii")},
        r"ct.nii must be a 2-D image, or one slice, got shape \(20, 18, 16\)",
    ),
    "pages": (lambda f: {"image": pages(f / "pages.tiff")}, "pages.tiff must be one 2-D image, got 2 pages"),
    "one grey": (lambda f: {"image": png(f / "flat.png", np.full(SHAPE, 7, np.uint8))}, "flat.png must hold at least"),
    "text": (lambda f: {"image": front_door.text_file(f, "notes.png")}, "notes.png must be a PNG, JPEG or TIFF"),
    "half a file": (lambda f: {"image": half(png(f / "half.png", grey()))}, "half.png must be a PNG, JPEG or TIFF"),
    "NaN": (lambda f: {"image": tiff(f / "nan.tiff", hole())}, "nan.tiff must hold finite values only"),
    "size of three axes": (lambda f: {"size": [16, 16, 16]}, "size must give a positive number .* each of 2"),
    "region of three axes": (lambda f: {"region": [[0, 5]] * 3}, r"region must be .* for each axis \(rows, columns\)"),
    "region outside": (lambda f: {"region": [[0, 84], [0, 9]]}, r"region must be .* inside \(83, 70\)"),
    "a PNG too large": (lambda f: {"size": [9000, 9000], "output_format": "png"}, "set output_format to tiff"),
    "tiles of three axes": (lambda f: {"tile_size": [16, 16, 16]}, "tile_size must give 2 numbers"),
    "unknown intensity": (lambda f: {"intensity": "bright"}, "intensity must be robust or null, got 'bright'"),
    "mask elsewhere": (
        lambda f: {"mask": png(f / "m.png", np.ones((8, 8), np.uint8))},
        r"mask must have the image's \(83, 70\)",
    ),
    "an X-ray as sketch": (
        lambda f: {"image": None, "sketch": png(f / "x.png", grey().astype(np.uint16) * 250)},
        "must be a signed sketch",
    ),
    "weights of the 3-D bundle": (
        lambda f: {"weights_path": front_door.other_file(f, "ct.pt", generator(3).state_dict())},
        "ct.pt must hold the weights of MultiScaleGenerator as configured",
    ),
}  # fmt: skip


def volume(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(bricks((20, 18, 16), -1000, 1000, np.int16), np.eye(4)), path)
    return path


def pages(path: Path) -> Path:
    Image.fromarray(grey()).save(path, save_all=True, append_images=[Image.fromarray(grey())])
    return path


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def hole() -> np.ndarray:
    values = grey().astype(np.float32)
    values[40, 40] = np.nan
    return values


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_under_a_final_name(mistake, tmp_path, weights, image):
    knobs, sentence = MISTAKES[mistake]
    knobs = settings(weights, tmp_path / "out") | {"image": image} | knobs(tmp_path)
    knobs = {k: str(v) if isinstance(v, Path) else v for k, v in knobs.items()}
    with pytest.raises(InputError, match=sentence) as caught:
        run(knobs)
    text = str(caught.value)
    assert "\n" not in text and 40 < len(text) < 700 and text.endswith((".", ")"))
    assert left_behind(tmp_path / "out") == []


# ---- the bundle's own network, exact; its training


def configured(workflow: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(DOOR.bundle / f"configs/{workflow}.yaml"))
    return parser


def test_training_and_inference_see_an_image_alike():
    """A sketch drawn otherwise, or another window, would feed the network what it never learned from."""
    train, inference = configured("train"), configured("inference")
    for name in ("sketcher", "window", "intensity", "base_size", "noise"):
        assert train[name] == inference[name], name


def test_in_float64_the_bundles_network_gives_the_same_image_tiled_untiled_and_as_a_module():
    parser = configured("inference")
    network, sketcher = (parser.get_parsed_content(name) for name in ("network_def", "sketcher"))
    network = network.double().eval()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            deviation = 0.1 if weight.ndim == 1 else (0.4 if ".out." in name else 1.0) / weight[0].numel() ** 0.5
            weight.copy_(deviation * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))
    shape = (160, 96)

    def drawn(tile_size: int, case: dict, noise: float) -> np.ndarray:
        options = {"noise": noise, "window": (-1, 1), "base_size": 8, "progress": False}
        inferer = CascadeInferer(sketcher, MemoryStores("float64"), tile_size, **options)
        return inferer(case, network).image.read((0, 0), shape)

    picture = ArrayVolume(grey(shape) / 120.0 - 1)
    tiled, untiled = drawn(40, {"image": picture}, 0.1), drawn(512, {"image": picture}, 0.1)
    assert untiled.std() > 0.05 and np.mean(np.abs(untiled) == 1) < 0.05, "neither flat nor clipped"
    assert np.abs(tiled - untiled).max() <= 1e-12
    random = np.random.default_rng(2)
    lines = np.where(random.random(shape) < 0.1, random.random(shape), sketcher.empty)
    with torch.no_grad():
        module = network(torch.from_numpy(lines)[None, None])[0, 0].numpy()
    assert module.std() > 0.03
    assert np.abs(drawn(40, {"sketch": ArrayVolume(lines)}, 0.0) - module).max() <= 1e-12


@pytest.mark.slow  # quick: the 3-D training (test_msgan_training.py) and this one on the stand-in card
def test_two_epochs_on_phantoms_end_at_the_same_weights_with_a_break_between_them(tmp_path):
    def trained(name: str, **knobs) -> dict:
        run(TRAINING | {"output_dir": str(tmp_path / name)} | knobs, workflow="train")
        return torch.load(tmp_path / name / "checkpoints/latest.pt", weights_only=True)

    first = trained("broken", max_epochs=1)
    resumed = trained("broken", max_epochs=2, resume="true")
    whole = trained("whole", max_epochs=2)
    assert (first["epoch"], resumed["epoch"]) == (1, 2)
    for network in ("generator", "discriminator", "ema"):
        a, b, begun = (state["objects"][network] for state in (resumed, whole, first))
        assert all(torch.equal(a[key], b[key]) for key in a), network
        assert any(not torch.equal(a[key], begun[key]) for key in a), network
    model = torch.load(tmp_path / "whole/model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in model.values())
    assert list((tmp_path / "whole/samples").glob("*.png"))
