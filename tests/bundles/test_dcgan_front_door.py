"""The DCGAN bundle through the front door: train, sample, compare; the same images for any number of processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import front_door
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core import bfloat16
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latents_of
from hiresmed.methods.dcgan import DcganGenerator
from hiresmed.methods.sampling import SampleFolder
from monai.bundle import ConfigParser
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = {"size": 16, "width": 8, "last_width": 4, "latent_size": 4}
DOOR = front_door.FrontDoor("dcgan_mri", NETWORK)
settings, run = DOOR.settings, DOOR.run
PHANTOMS = {"phantoms": 4, "phantom": {"shape": [16, 16, 24]}}
TRAINING = NETWORK | PHANTOMS | {
    "bundle_root": str(DOOR.bundle), "max_epochs": 2, "batch_size": 4, "val_samples": 6, "device": "cpu",
}  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny generator whose images differ, as random weights' hardly do."""
    torch.manual_seed(0)
    network = DcganGenerator(**NETWORK)
    with torch.no_grad():
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.1 if p.ndim == 1 else 1.5 / p[0].numel() ** 0.5)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory, weights) -> Path:
    """Seven images, as an undisturbed run makes them."""
    folder = tmp_path_factory.mktemp("samples")
    run(settings(weights, folder, num_samples=7))
    return folder


def training(output: Path, *overlays: str, **knobs) -> Path:
    run({**TRAINING, "output_dir": str(output), **knobs}, *overlays, workflow="train")
    return output


def state(output: Path) -> dict:
    return torch.load(output / "checkpoints" / "latest.pt", weights_only=True)["objects"]


def different(a, b, path: str = "") -> list[str]:
    """Names of the tensors in two nested dicts that are not the same to the bit."""
    if torch.is_tensor(a):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return [name for key in a for name in different(a[key], b[key], f"{path}.{key}")]
    return []


def file_name(number: int, kind: str = "sample") -> str:
    return f"{kind}_{number:04d}_synthetic.png"


def digests(folder: Path) -> dict[str, str]:
    return {p.name: front_door.digest(p) for p in folder.glob("*_synthetic.png")}


def pixels(folder: Path, number: int, kind: str = "sample") -> np.ndarray:
    with Image.open(folder / file_name(number, kind)) as picture:
        return np.asarray(picture)


# ---- from outside


def test_samples_are_pictures_a_preview_a_report_and_a_last_line(tmp_path, weights, samples):
    done = front_door.subprocess_run(DOOR.command(settings(weights, tmp_path / "out", num_samples=7)))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    out = tmp_path / "out"
    names = [file_name(n) for n in range(7)]
    assert sorted(p.name for p in out.iterdir()) == ["preview.png", "report.json", *names]
    assert digests(out) == digests(samples), "the same bytes in another process"
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(f"dcgan_mri made 7 synthetic images (16 x 16 uint16): {names[0]}, ")
    report = json.loads((out / "report.json").read_text())
    assert report["synthetic"] is True and report["config"]["num_samples"] == 7 and report["input"] is None
    assert report["weights_sha256"] == front_door.digest(weights)
    assert report["output"][6] == {"files": [names[6]], "shape": [16, 16], "dtype": "uint16"}
    assert str(tmp_path) not in json.dumps(report)
    with Image.open(out / "preview.png") as preview:
        assert np.asarray(preview.convert("L")).std() > 5
    assert pixels(out, 6).dtype == np.uint16 and pixels(out, 6).std() > 30


def test_a_pixel_is_the_networks_value_between_the_ends_of_the_window(samples, weights):
    network = DcganGenerator(**NETWORK)
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        image = network.eval()(latents_of(0, range(4, 8), NETWORK["latent_size"]))[1, 0]
    assert np.abs((image.numpy() + 1) / 2 * 65535 - pixels(samples, 5)).max() <= 1


def test_a_mistyped_knob_ends_in_one_sentence(tmp_path, weights):
    done = front_door.subprocess_run(DOOR.command(settings(weights, tmp_path / "out", num_sample=7)))
    front_door.assert_plain(done, "--num_sample is no knob of this config; did you mean --num_samples?")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_make_and_measure_what_one_does(tmp_path, weights, samples):
    done = front_door.subprocess_run(DOOR.command(settings(weights, tmp_path / "two", num_samples=7), TORCHRUN))
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(tmp_path / "two") == digests(samples)
    knobs = settings(weights, tmp_path / "measured", num_samples=12, extractor="pixels", **PHANTOMS)
    words = DOOR.command(knobs, TORCHRUN)
    overlay = DOOR.bundle / "configs" / "evaluate.yaml"
    words[words.index("--config_file") + 1] = f"['{DOOR.bundle / 'configs/inference.yaml'}','{overlay}']"
    done = front_door.subprocess_run(words)
    assert done.returncode == 0, done.stderr[-3000:]
    run({**knobs, "output_dir": str(tmp_path / "alone")}, "evaluate.yaml")
    two, one = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("measured", "alone"))
    for name in ("pixels_kernel_distance", "pixels_prdc", "ms_ssim_diversity", "pixels_memorisation"):
        assert two[name] == one[name], name
    frechet = "pixels_frechet_distance"
    assert two[frechet]["value"] == pytest.approx(one[frechet]["value"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("overlay", ["multi_gpu_train.yaml", "wgan_gp.yaml"])
def test_two_processes_train_and_a_killed_worker_changes_no_bit(tmp_path, overlay):
    """SIGKILL under torchrun --max-restarts; batch norm's statistics are those of all processes after each epoch."""

    def words(folder: Path) -> list[str]:
        knobs = {**TRAINING, "output_dir": folder, "resume": "true", "max_epochs": 6}
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1", "-m")
        command = DOOR.command(knobs, launcher)
        configs = [str(DOOR.bundle / "configs" / name) for name in ("train.yaml", overlay)]
        command[command.index("--config_file") + 1] = str(configs)
        return command

    whole = front_door.subprocess_run(words(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words(tmp_path / "killed"), env=environment, stderr=subprocess.DEVNULL)
    latest, until = tmp_path / "killed" / "checkpoints" / "latest.pt", time.time() + 300
    while not latest.exists() and process.poll() is None and time.time() < until:
        time.sleep(0.01)
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    assert torch.load(latest, weights_only=True)["epoch"] < 6, "over before it could be killed"
    assert process.wait(timeout=400) == 0
    assert different(state(tmp_path / "whole"), state(tmp_path / "killed")) == []


# ---- in this process


def test_training_leaves_a_grid_each_epoch_the_best_three_models_and_goes_on_bit_for_bit(tmp_path):
    whole = training(tmp_path / "whole", max_epochs=5)
    assert len(list((whole / "samples").glob("epoch_*.png"))) == 5
    kept = {p.name.split("_")[2]: float(p.stem.split("_")[-1]) for p in (whole / "best").glob("*.pt")}
    assert len(kept) == 3
    best = torch.load(whole / "model.pt", weights_only=True)
    # names round the score, so that several may look equally good
    first = [epoch for epoch, score in kept.items() if score == max(kept.values())]
    found = [torch.load(next((whole / "best").glob(f"*_{epoch}_*")), weights_only=True) for epoch in first]
    assert any(different(best, state) == [] for state in found), "the best of them is model.pt"
    broken = training(tmp_path / "broken", max_epochs=2)
    training(broken, max_epochs=5, resume=True)
    assert different(state(whole), state(broken)) == []
    assert sorted(p.name for p in (broken / "best").iterdir()) == sorted(p.name for p in (whole / "best").iterdir())
    run(settings(whole / "model.pt", tmp_path / "made", num_samples=2))


@pytest.mark.parametrize("overlays", [("wgan_gp.yaml",), ("set2.yaml", "paper.yaml")])
def test_wgan_gp_and_the_published_settings_train_a_step(tmp_path, overlays):
    knobs = {"num_subjects": 2, "contrasts": ["t1", "flair"], "max_epochs": 1, "batch_size": 8, **NETWORK, **PHANTOMS}
    folder = training(tmp_path / "run", *overlays, **knobs)
    made = state(folder)
    assert all(torch.isfinite(v).all() for v in made["generator"].values())
    if "paper.yaml" in overlays:
        assert made["generator"]["last.weight"].shape[1] == 3
        assert not made["generator"]["dense_norm.running_mean"].any(), "no statistics were taken"
        run(settings(folder / "model.pt", tmp_path / "made", num_samples=2), "paper.yaml")
        assert len(digests(tmp_path / "made")) == 2


def test_the_sets_have_the_papers_settings():
    table = {
        "set1": ([60, 107], ["flair"], 15, 50, 1e-4, 8, 0.2),
        "set2": ([65, 94], ["t1", "t2", "flair"], 48, 100, 2e-4, 64, 0.5),
        "set3": ([52, 115], ["flair"], 48, 100, 2e-4, 32, 0.5),
    }
    names = ("slices", "contrasts", "num_subjects", "max_epochs", "learning_rate", "batch_size", "dropout")
    images = {}
    for name, expected in table.items():
        parser = ConfigParser()
        parser.read_config([str(DOOR.bundle / "configs" / f) for f in ("train.yaml", f"{name}.yaml")])
        assert tuple(parser[n] for n in names) == expected and parser["size"] == 256 and parser["width"] == 1024
        images[name] = (expected[0][1] - expected[0][0] + 1) * len(expected[1]) * expected[2]
    assert images == {"set1": 720, "set2": 4320, "set3": 3072}
    parser.read_config([str(DOOR.bundle / "configs" / f) for f in ("train.yaml", "set1.yaml", "paper.yaml")])
    with torch.device("meta"):
        published = [parser.get_parsed_content(f"{name}_def") for name in ("network", "discriminator")]
    assert [sum(p.numel() for p in n.parameters()) for n in published] == [13_324_797, 23_589_473]
    parser.read_config([str(DOOR.bundle / "configs" / f) for f in ("train.yaml", "set1.yaml", "wgan_gp.yaml")])
    assert parser["n_critic"] == 3 and parser["penalties"][0]["weight"] == 5 and parser["learning_rate"] == 5e-4


def test_an_image_is_the_same_whether_few_or_many_are_made_and_from_which_number_on(tmp_path, weights, samples):
    run(settings(weights, tmp_path / "few", num_samples=3))
    run(settings(weights, tmp_path / "later", num_samples=2, first_sample=2))
    many = digests(samples)
    few = digests(tmp_path / "few")
    later = digests(tmp_path / "later")
    assert few == {name: many[name] for name in map(file_name, range(3))}
    assert later == {name: many[name] for name in map(file_name, (2, 3))}
    assert len(set(many.values())) == 7, "and all are different"


def test_a_region_is_the_crop_of_the_image(tmp_path, weights, samples):
    run(settings(weights, tmp_path, num_samples=1, region=[[3, 11], [2, 16]]))
    assert np.array_equal(pixels(tmp_path, 0), pixels(samples, 0)[3:11, 2:16])


def test_broken_off_and_resumed_the_same_bytes_come_out(tmp_path, weights, samples, monkeypatch):
    saved = SampleFolder.save

    def stop(output, sample, image):
        if sample["number"] == 4:
            raise InputError("broken off")
        saved(output, sample, image)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="broken off"):
        patch.setattr(SampleFolder, "save", stop)
        run(settings(weights, tmp_path, num_samples=7))
    assert len(digests(tmp_path)) == 4 and not (tmp_path / "report.json").exists()
    run(settings(weights, tmp_path, num_samples=7, resume="true"))
    assert digests(tmp_path) == digests(samples)


def test_an_interpolation_begins_and_ends_at_its_images(tmp_path, weights, samples):
    run(settings(weights, tmp_path, interpolate=[4, 1], steps=4))
    ends = [pixels(tmp_path, k, "step").astype(int) for k in range(5)]
    known = [pixels(samples, k).astype(int) for k in (4, 1)]
    assert abs(ends[0] - known[0]).max() <= 1 and abs(ends[4] - known[1]).max() <= 1
    steps = [abs(a - b).mean() for a, b in itertools.pairwise(ends)]
    assert max(steps) < abs(known[0] - known[1]).mean()


def test_an_evaluation_says_how_many_images_which_network_and_draws_the_nearest(tmp_path, weights):
    knobs = settings(weights, tmp_path, num_samples=12, extractor="random", **PHANTOMS)
    run(knobs, "evaluate.yaml")
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["n_generated"] == 12 and found["n_real"] > 3 and found["bundle"] == "dcgan_mri"
    made_by = found["made_by"]
    assert (made_by["extractor"], made_by["comparable"], made_by["seed"]) == ("random", False, 0)
    assert found["random_kernel_distance"]["value"] > 0 and found["random_frechet_distance"]["n_generated"] == 12
    assert 0 < found["random_frechet_ratio"]["value"] < 1
    assert found["random_memorisation"]["n_training"] == 3 * 9
    assert (tmp_path / "preview.png").exists() and (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number from 1 on, got '0'"),
        ({"num_samples": "many"}, "num_samples must be a whole number"),
        ({"batch_size": -4}, "batch_size must be a whole number from 1 on"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"interpolate": [3]}, "interpolate must be the numbers of at least two samples"),
        ({"interpolate": [0, 1], "steps": 0}, "steps must be a whole number"),
        ({"interpolate": 5}, "interpolate must be a list (a whole number each) or null, got 5"),
        ({"first_sample": -1}, "first_sample must be a whole number"),
        ({"output_format": "bmp"}, "output_format must be one of"),
        ({"output_format": "ome-zarr"}, "output_format must be png, tiff, nii, nii.gz or dicom"),
        ({"window": [9, 1]}, "window must be two rising numbers"),
        ({"region": [[0, 17], [0, 9]]}, "region must be"),
        ({"image": "x.png"}, "generates images from noise, got x.png"),
        ({"dataset_dir": "/data"}, "use evaluate.yaml to compare"),
        ({"overwrite": "perhaps"}, "overwrite must be true or false"),
        ({"amp": "perhaps"}, "amp must be true or false"),
        ({"size": 48}, "size must be a power of two"),
        ({"size": 32}, "must hold the weights of DcganGenerator as configured"),
        ({"weights_path": "none.pt"}, "the weights must be in none.pt"),
        ({"output_dir": "/proc/none"}, "output_dir must be a folder that can be written"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_in_sampling_is_one_sentence_and_leaves_no_image(knobs, sentence, tmp_path, weights):
    with pytest.raises(InputError) as caught:
        run({**settings(weights, tmp_path / "out", num_samples=2), **knobs})
    assert sentence in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.png")) and not (tmp_path / "out" / "report.json").exists()


def test_amp_is_bfloat16_on_a_cpu_too_and_a_machine_where_it_is_wrong_gets_float32_and_a_warning(
    tmp_path, weights, samples, monkeypatch
):
    def report(name: str) -> dict:
        run(settings(weights, tmp_path / name, num_samples=7, amp="true"))
        return json.loads((tmp_path / name / "report.json").read_text())

    assert report("right")["warnings"] == []
    assert digests(tmp_path / "right") != digests(samples)
    monkeypatch.setattr(bfloat16, "OUTPUT_TOLERANCE", 0.0)
    (sentence,) = report("wrong")["warnings"]
    assert sentence.startswith("amp is true, but outputs in bfloat16 are not those of float32 on this machine")
    assert digests(tmp_path / "wrong") == digests(samples)


def test_damaged_weights_and_an_output_that_exists_are_refused(tmp_path, weights, samples):
    with pytest.raises(InputError, match="damaged or was replaced"):
        run(settings(front_door.damaged(tmp_path, weights), tmp_path / "out"))
    before = digests(samples)
    with pytest.raises(InputError, match=r"must not yet hold sample_0000_synthetic\.png, got one"):
        run(settings(weights, samples, num_samples=2))
    assert digests(samples) == before


def brats(folder: Path, subjects=("a", "b"), shape=(16, 16, 24), missing=(), value=None) -> Path:
    for n, subject in enumerate(subjects):
        (folder / subject).mkdir(parents=True)
        for k, name in enumerate(s for s in ("t1", "t1ce", "t2", "flair") if s not in missing):
            values = np.random.default_rng(10 * n + k).integers(0, 99, shape).astype(np.float32)
            if value is not None:
                values[8, 8, 12] = value
            image = nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1.0]))
            nibabel.save(image, folder / subject / f"{subject}_{name}.nii")
    return folder


def listing(folder: Path, text: str) -> str:
    (folder / "subjects.txt").write_text(text)
    return str(folder / "subjects.txt")


REAL = {"subjects": "a training\nb validation\n", "slices": [4, 20]}
MISTAKES = {
    "no folder": (lambda t: {"dataset_dir": str(t / "none")}, "dataset_dir must be a folder of cases"),
    "empty folder": (lambda t: {"dataset_dir": str(t)}, "dataset_dir must hold cases of four NIfTI files"),
    "a sequence missing": (
        lambda t: {"dataset_dir": str(brats(t / "d", missing=["t2"]))}, "a must have t1, t1ce, t2 and flair"
    ),
    "truncated": (lambda t: {"dataset_dir": str(half(brats(t / "d")))}, "a_flair.nii"),
    "NaN": (lambda t: {"dataset_dir": str(brats(t / "d", value=np.nan))}, "got NaN or infinity"),
    "slices outside": (lambda t: {"dataset_dir": str(brats(t / "d")), "slices": [60, 107]}, "has 24 slices, but"),
    "4-D": (lambda t: {"dataset_dir": str(brats(t / "d", shape=(16, 16, 24, 2)))}, "must be"),
    "unknown subject": (
        lambda t: {"dataset_dir": str(brats(t / "d")), "subjects": listing(t, "a\nz\n")}, "names 1 subjects that are"
    ),
    "no contrast": (lambda t: {"contrasts": ["t7"]}, "contrasts must be some of"),
    "too few subjects": (lambda t: {"num_subjects": 9}, "num_subjects must be at most the 3 subjects"),
    "batch too large": (lambda t: {"batch_size": 4000}, "batch_size must be at most the number of training images, 27"),
    "negative rate": (lambda t: {"learning_rate": -1.0}, "learning_rate must be a number above 0"),
    "rate as text": (lambda t: {"learning_rate": "1e-4x"}, "learning_rate must be a number above 0"),
    "no epochs": (lambda t: {"max_epochs": 0}, "max_epochs must be a whole number from 1 on"),
    "size": (lambda t: {"size": 50}, "size must be a power of two"),
    "norm": (lambda t: {"norm": "layer"}, "norm must be one of"),
    "range": (lambda t: {"value_range": [1, 1]}, "value_range must be two rising numbers"),
    "metric": (lambda t: {"metric": "fid"}, "metric must be one of"),
}  # fmt: skip


def half(folder: Path) -> Path:
    path = folder / "a" / "a_flair.nii"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_training_is_one_sentence_and_leaves_no_model(mistake, tmp_path):
    make, sentence = MISTAKES[mistake]
    knobs = make(tmp_path)
    if "dataset_dir" in knobs and "subjects" not in knobs and (tmp_path / "d").exists():
        knobs = {"subjects": listing(tmp_path, REAL["subjects"]), "slices": REAL["slices"], **knobs}
    with pytest.raises(InputError) as caught:
        training(tmp_path / "run", **{"max_epochs": 1, **knobs})
    assert sentence in str(caught.value)
    assert not (tmp_path / "run" / "model.pt").exists()


def test_a_folder_in_bratss_layout_trains_and_an_existing_training_is_not_replaced(tmp_path):
    data, subjects = brats(tmp_path / "d"), listing(tmp_path, REAL["subjects"])
    knobs = {"dataset_dir": str(data), "subjects": subjects, "slices": REAL["slices"], "max_epochs": 1}
    training(tmp_path / "run", **knobs)
    with pytest.raises(InputError, match="A new training must have a folder without checkpoints"):
        training(tmp_path / "run", **knobs)
