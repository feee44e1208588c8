"""On a device that is not the CPU every bundle makes what it makes on the CPU, by every way in and out.

Where no card is, a stand-in is one (tests/stand_in_card): its kernels are the CPU's, so results may differ by rounding
alone, but a tensor that was left behind, or brought too late, is refused as a card refuses it.
"""

from __future__ import annotations

import json
from pathlib import Path

import card_process
import dicom_files
import front_door
import nibabel
import numpy as np
import pytest
import stand_in_card
import torch
import zarr
from hiresmed.phantoms import BrainPhantom
from PIL import Image

CASCADE = {"network_def#base": front_door.SMALL, "network_def#stage": front_door.SMALL}
NETWORKS = {
    "msgan_ct3d": CASCADE,
    "msgan_xray2d": CASCADE,
    "patchddm_brats": {
        "network_def#channels": 4,
        "network_def#channel_multipliers": [1, 2],
        "network_def#num_res_blocks": 1,
    },
    "inr_gan_multistage": {
        "network_def#channels": [8, 6],
        "network_def#features": 8,
        "network_def#style_size": 6,
        "latent_size": 6,
    },
    "dcgan_mri": {"size": 16, "width": 8, "last_width": 4, "latent_size": 4},
}
TINY = {
    "msgan_ct3d": {"tile_size": 16, "base_size": 16},
    "msgan_xray2d": {"tile_size": 32, "base_size": 24},
    "patchddm_brats": {
        "spacing": 8.0,
        "reference_size": [24, 30, 24],
        "tile_size": 16,
        "num_samples": 2,
        "steps": 1,
        "phantom": {"shape": [29, 34, 25], "seed": 5, "look_alike": False},
    },
    "inr_gan_multistage": {"image_size": [16, 24], "tile_size": 10, "places": 64, "trained_spacing": 2.0,
                           "large_size": None, "num_samples": 2},
    "dcgan_mri": {"num_samples": 3},
}  # fmt: skip
OBLIQUE = np.array([[-0.7, 0.3, 0.1, 51.3], [0.25, 0.9, -0.4, -80.1], [0.1, 0.35, 2.1, 7.7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def card():
    """The process that has the card."""
    try:
        stand_in_card.build()
    except stand_in_card.CardUnavailableError as error:
        pytest.skip(str(error))
    process = card_process.CardProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def weights(card, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    for bundle, network in NETWORKS.items():
        card.call(card_process.random_weights, bundle, network, str(folder / f"{bundle}.pt"))
    return {bundle: str(folder / f"{bundle}.pt") for bundle in NETWORKS}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """What there is to draw from, by name."""
    folder = tmp_path_factory.mktemp("files")
    ct = front_door.bricks((26, 21, 19), -1000, 1000, np.int16)
    nibabel.save(nibabel.Nifti1Image(ct, OBLIQUE), folder / "ct.nii.gz")
    xray = front_door.bricks((50, 41), 10, 240, np.uint8)
    Image.fromarray(xray).save(folder / "xray.png")
    hole = np.zeros(xray.shape, np.uint8)
    hole[15:35, 10:30] = 255
    Image.fromarray(hole).save(folder / "hole.png")
    (folder / "pictures").mkdir()
    for k in range(7):
        noise = np.random.default_rng(k).integers(0, 255, (20, 26))
        Image.fromarray(noise.astype(np.uint8)).save(folder / "pictures" / f"{k}.png")
    phantom = BrainPhantom((29, 34, 25), seed=5, look_alike=False)
    (folder / "brain").mkdir()
    for name, channel in zip(("t1", "t1ce", "t2", "flair"), phantom.read()[0]):
        nibabel.save(nibabel.Nifti1Image(channel, phantom.affine), folder / "brain" / f"glioma_{name}.nii.gz")
    return {path.name.split(".")[0]: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def dicom_sources(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("dicom")
    ct = front_door.bricks((18, 20, 17), 0, 4000, np.int16)
    phantom = BrainPhantom((29, 34, 25), seed=5, look_alike=False)
    for name, channel in zip(("t1", "t1ce", "t2", "flair"), phantom.read()[0]):
        dicom_files.write_series(folder / "brain" / name, channel, phantom.affine)
    return {
        "ct": str(dicom_files.write_series(folder / "ct", ct, np.diag([-1.0, -1, 2, 1]))),
        "xray": str(
            dicom_files.write_radiograph(folder / "xray.dcm", front_door.bricks((50, 41), 10, 4000, np.uint16))
        ),
        "brain": str(folder / "brain"),
    }


def settings(bundle: str, weights: dict[str, str], **knobs) -> dict:
    own = {"bundle_root": str(front_door.BUNDLES / bundle), "weights_path": weights[bundle]}
    return own | NETWORKS[bundle] | TINY[bundle] | knobs


# ---- what was made


def values(path: Path) -> np.ndarray:
    """The numbers of a file of whatever kind."""
    if path.name.endswith((".nii", ".nii.gz")):
        return nibabel.load(path).get_fdata()
    if path.suffix == ".dcm":
        return pytest.importorskip("pydicom").dcmread(path).pixel_array.astype(float)
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_group(path, mode="r")["0"]).astype(float)
    with Image.open(path) as picture:
        return np.asarray(picture).astype(float)


def results(folder: Path) -> dict[str, Path]:
    """Name -> file or store, but for the texts."""
    stores = [path for path in folder.rglob("*.zarr") if path.is_dir()]
    plain = [path for path in folder.rglob("*") if path.is_file() and not any(s in path.parents for s in stores)]
    return {str(p.relative_to(folder)): p for p in [*stores, *plain] if p.suffix != ".json"}


def figures(folder: Path) -> dict[str, float]:
    """All numbers of metrics.json by their path in it; none where there is no such file."""

    def leaves(entry, name: str):
        if isinstance(entry, dict):
            entry = entry.items()
        elif isinstance(entry, list):
            entry = enumerate(entry)
        elif isinstance(entry, (int, float)) and not isinstance(entry, bool):
            yield name, entry
            return
        else:
            return
        for key, part in entry:
            yield from leaves(part, f"{name}/{key}")

    path = folder / "metrics.json"
    found = dict(leaves(json.loads(path.read_text()), "")) if path.exists() else {}
    return {name: value for name, value in found.items() if "seconds" not in name}


def assert_alike(made: Path, wanted: Path, rounding: float) -> None:
    """The same files with the same values, whose mean difference is a share `rounding` of their deviation at most."""
    assert results(made).keys() == results(wanted).keys() and results(made)
    for name, path in results(made).items():
        ours, theirs = values(path), values(results(wanted)[name])
        assert ours.shape == theirs.shape and theirs.std() > 0, name
        if name != "preview.png" or rounding < 0.01:  # rounding may choose other planes
            assert np.abs(ours - theirs).mean() <= rounding * theirs.std(), name
    assert figures(made) == pytest.approx(figures(wanted), rel=max(0.02, 10 * rounding), abs=1e-3)


# ---- inference and evaluation

FEATURES = {"extractor": "random", "pairs": 2}
SLICES = {"phantoms": 4, "phantom": {"shape": [16, 16, 24]}}
WAYS = {
    "a CT, measured": ("msgan_ct3d", ["evaluate.yaml"], {"image": "ct", "extractor": "none"}),
    "a CT as OME-Zarr": ("msgan_ct3d", [], {"image": "ct", "output_format": "ome-zarr"}),
    "a region": ("msgan_xray2d", ["inference_region.yaml"], {"image": "xray", "region": [[3, 40], [0, 19]]}),
    "an X-ray, measured": ("msgan_xray2d", ["evaluate.yaml"], {"image": "xray", "extractor": "none"}),
    "inpainting": ("msgan_xray2d", ["inpaint.yaml"], {"image": "xray", "mask": "hole"}),
    "super-resolution": ("msgan_xray2d", ["super_resolution.yaml"], {"image": "xray", "size": [64, 50]}),
    "a cascade in bfloat16": ("msgan_xray2d", [], {"image": "xray", "amp": True}),
    "a tumour, measured": ("patchddm_brats", ["evaluate.yaml"], {}),
    "sliding windows": ("patchddm_brats", [], {"inference": "sliding"}),
    "skips that wait on the host, in bfloat16": (
        "patchddm_brats",
        [],
        {"image": "brain", "offload": "cpu", "amp": True},
    ),
    "a gallery": ("inr_gan_multistage", [], {"large_size": [32, 20]}),
    "a gallery, measured": (
        "inr_gan_multistage",
        ["evaluate.yaml"],
        {"dataset_dir": "pictures", "num_samples": 4, "image_size": [16, 16], **FEATURES},
    ),
    "smaller pixels": ("inr_gan_multistage", ["super_resolution.yaml"], {"spacing": 1.0, "num_samples": 1}),
    "slices, measured": ("dcgan_mri", ["evaluate.yaml"], {"num_samples": 6, **SLICES, **FEATURES}),
}
BFLOAT16 = 0.05  # of the deviation: what casts round, and a card casts other operations than a CPU


def both(card, folder: Path, bundle: str, overlays: list[str], knobs: dict) -> tuple[Path, Path]:
    """Folders of what the card made, and the CPU."""
    for device in ("card", "cpu"):
        own = {"device": device, "output_dir": str(folder / device)}
        peak = card.call(card_process.run, bundle, knobs | own, overlays)
        assert (peak > 0) == (device == "card"), "the network ran elsewhere"
    return folder / "card", folder / "cpu"


SLOW = {"a cascade in bfloat16", "smaller pixels"}


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.slow if w in SLOW else ()) for w in WAYS])
def test_a_card_makes_what_the_cpu_makes(card, weights, files, tmp_path, way):
    bundle, overlays, knobs = WAYS[way]
    knobs = {k: files[v] if k in ("image", "mask", "dataset_dir") else v for k, v in knobs.items()}
    made, wanted = both(card, tmp_path, bundle, overlays, settings(bundle, weights, **knobs))
    assert_alike(made, wanted, BFLOAT16 if "bfloat16" in way else 1e-3)
    assert "evaluate.yaml" not in overlays or len(figures(made)) > 3


@pytest.mark.parametrize(
    "bundle, image",
    [
        pytest.param("msgan_ct3d", "ct", marks=pytest.mark.slow),
        ("msgan_xray2d", "xray"),
        ("patchddm_brats", "brain"),
    ],
)
def test_dicom_is_answered_from_a_card_as_from_the_cpu(card, weights, dicom_sources, tmp_path, bundle, image):
    pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    knobs = settings(bundle, weights, image=dicom_sources[image])
    made, wanted = both(card, tmp_path, bundle, [], knobs)
    assert any(name.endswith(".dcm") for name in results(made))
    assert_alike(made, wanted, 1e-3)


REQUESTS = {
    "msgan_ct3d": "ct",
    "msgan_xray2d": "xray",
    "patchddm_brats": "glioma_t1",
    "inr_gan_multistage": "xray",
    "dcgan_mri": "xray",
}


@pytest.mark.parametrize("bundle", REQUESTS)
def test_a_server_gets_from_a_card_what_it_gets_from_the_cpu(card, weights, files, tmp_path, bundle):
    name = REQUESTS[bundle]
    path = str(Path(files["brain"]) / f"{name}.nii.gz") if name.startswith("glioma") else files[name]
    knobs = settings(bundle, weights, output_dir=str(tmp_path), overwrite=True)
    ours, theirs = (
        card.call(card_process.serve, bundle, knobs | {"device": device}, {"image": path}) for device in ("card", "cpu")
    )
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and theirs.std() > 0
    assert np.abs(ours.astype(float) - theirs).mean() <= 1e-3 * theirs.std()


def enlarged(bundle: str, folder: Path, length: int) -> dict:
    """Knobs for a result that is `length` long, whose full tiles are alike for every length."""
    if bundle == "inr_gan_multistage":
        return {"size": [32, length], "num_samples": 1, "places": 10**6}
    if bundle == "msgan_xray2d":
        Image.fromarray(front_door.bricks((64, length), 10, 240, np.uint8)).save(folder / "image.png")
        return {"image": str(folder / "image.png"), "num_scales": 1}
    values = front_door.bricks((32, 32, length), -1000, 1000, np.int16)
    nibabel.save(nibabel.Nifti1Image(values, OBLIQUE), folder / "image.nii")
    return {"image": str(folder / "image.nii"), "num_scales": 1}


@pytest.mark.parametrize(
    "bundle", ["msgan_xray2d", "inr_gan_multistage", pytest.param("msgan_ct3d", marks=pytest.mark.slow)]
)
def test_twice_the_length_needs_the_same_memory_of_the_card_tiled_and_more_untiled(card, weights, tmp_path, bundle):
    peaks = []
    for length, tile in ((64, 32), (128, 32), (128, 128)):
        folder = tmp_path / f"{length}_{tile}"
        folder.mkdir()
        knobs = settings(bundle, weights, **enlarged(bundle, folder, length))
        knobs |= {"tile_size": tile, "device": "card", "output_dir": str(folder / "out")}
        card.call(card_process.run, bundle, knobs)
        peaks.append(json.loads((folder / "out" / "report.json").read_text())["peak_device_bytes"])
    assert 0 < peaks[0] == peaks[1] < peaks[2] / 1.5


TOO_SMALL = {
    "msgan_ct3d": ({"image": "ct"}, "lower tile_size"),
    "patchddm_brats": ({"image": "brain"}, "set inference to sliding and lower tile_size"),
    "inr_gan_multistage": ({}, "lower places or tile_size"),
    "dcgan_mri": ({}, "lower batch_size"),
}


@pytest.mark.parametrize("bundle", TOO_SMALL)
def test_a_card_without_enough_memory_is_one_sentence_that_names_the_knob(card, weights, files, tmp_path, bundle):
    knobs, cure = TOO_SMALL[bundle]
    knobs = settings(bundle, weights, device="card", **{k: files[v] for k, v in knobs.items()})
    enough = card.call(card_process.run, bundle, knobs | {"output_dir": str(tmp_path / "enough")})
    small = tmp_path / "small"
    said = card.call(card_process.mistake_on_a_small_card, bundle, knobs | {"output_dir": str(small)}, enough - 1)
    assert "ran out of it" in said and cure in said, said
    assert not [path for path in small.glob("*") if path.suffix in (".png", ".nii", ".gz")]


# ---- training

CASCADES = {
    "base_size": 16, "base_patch": 16, "patch_size": 8, "batch_size": 2, "iterations": 1, "rollout": 0.5,
    "base_share": 0.5, "val_interval": 2, "discriminator_def#channels": 4, "discriminator_def#num_layers": 1,
}  # fmt: skip
TRAININGS = {
    "msgan_ct3d": {"image": "ct", **CASCADES},
    "msgan_xray2d": {"image": "xray", **CASCADES, "amp": True},
    "patchddm_brats": {
        "phantoms": 4, "phantom": {"shape": [18, 20, 16], "look_alike": True}, "patch_size": 12, "val_interval": 2,
        "val_steps": 1, "iterations": 1, "spacing": 10.0, "reference_size": [20, 24, 18], "amp": True,
    },
    "inr_gan_multistage": {
        "dataset_dir": "pictures", "image_size": [16, 16], "stage_epochs": [1, 1, 1], "iterations": 1, "batch_size": 4,
        "val_interval": 2, "val_samples": 3, "r1_every": 1, "discriminator_def#width": 4,
        "discriminator_def#max_width": 8, "amp": True,
    },
    "dcgan_mri": {**SLICES, "batch_size": 16, "val_samples": 6},
}  # fmt: skip


def differing(a, b, name: str = "") -> list[str]:
    """Names of the tensors in two nested dicts that are not the same to the bit."""
    if torch.is_tensor(a):
        return [] if torch.is_tensor(b) and torch.equal(a, b) else [name]
    if isinstance(a, dict):
        others = b if isinstance(b, dict) else {}
        return [path for key in a for path in differing(a[key], others.get(key), f"{name}/{key}")]
    return []


@pytest.mark.parametrize("bundle", TRAININGS)
def test_a_training_on_a_card_that_is_broken_off_and_resumed_ends_at_the_same_bits(card, files, tmp_path, bundle):
    knobs = {"bundle_root": str(front_door.BUNDLES / bundle), "device": "card"} | NETWORKS[bundle] | TRAININGS[bundle]
    if "image" in knobs:
        image = files[knobs.pop("image")]
        knobs["cases_list"] = [{"image": image}, {"image": image, "section": "validation"}]
    if "dataset_dir" in knobs:
        knobs["dataset_dir"] = files[knobs["dataset_dir"]]
    last = "train#trainer#max_epochs" if bundle == "inr_gan_multistage" else "max_epochs"  # or the epochs of its stages

    def train(folder: str, epochs: int, **more) -> dict:
        own = {"output_dir": str(tmp_path / folder), last: epochs}
        card.call(card_process.run, bundle, knobs | own | more, (), "train")
        return torch.load(tmp_path / folder / "checkpoints" / "latest.pt", map_location="cpu", weights_only=True)

    whole = train("whole", 2)
    first = train("broken", 1)
    resumed = train("broken", 2, resume=True)
    assert whole["epoch"] == resumed["epoch"] == 2 and first["epoch"] == 1
    assert differing(whole["objects"], resumed["objects"]) == []
    assert differing(whole["objects"], first["objects"]), "the second epoch changed something"
    model = torch.load(tmp_path / "broken" / "model.pt", map_location="cpu", weights_only=True)
    assert all(torch.isfinite(value).all() for value in model.values())


# ---- the stand-in itself


def test_the_stand_in_refuses_what_a_card_refuses_and_counts_its_bytes(card):
    to_numpy, to_array, *mixed = card.call(card_process.refusals)
    assert "can't convert card:0 device type tensor to numpy" in to_numpy and to_array == to_numpy
    assert all("same device" in sentence for sentence in mixed), mixed
    assert card.call(card_process.counted_bytes) == (2000, 6000)
