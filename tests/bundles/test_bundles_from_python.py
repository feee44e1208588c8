"""From Python the bundles do what the command does, and leave the process as it was."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hiresmed import bundles
from hiresmed.bundles.generators import Generator
from hiresmed.core.latents import latents_of
from PIL import Image
from torch import nn

ROOT = Path(__file__).parents[2]
DCGAN = ROOT / "bundles" / "dcgan_mri"


@pytest.fixture(scope="module")
def brains() -> Generator:
    return bundles.load("dcgan_mri", device="cpu")


def test_the_tensor_holds_the_images_that_a_run_writes(brains, tmp_path, capsys):
    folder = bundles.run("dcgan_mri", num_samples=2, first_sample=3, seed=5, output_dir=tmp_path / "a#b", device="cpu")
    assert folder == tmp_path / "a#b" and "made 2 synthetic images" in capsys.readouterr().out
    images = brains.generate(2, seed=5, first=3)
    assert images.dtype == torch.float32 and not images.is_inference()
    for number, image in zip((3, 4), images):
        with Image.open(folder / f"sample_{number:04d}_synthetic.png") as file:
            stored = np.asarray(file).astype(float)
        assert np.abs(stored - (image[0].double().numpy() + 1) / 2 * 65535).max() < 0.51


def test_an_image_depends_on_seed_and_number_alone(brains):
    some = brains.generate(6, seed=1)
    assert torch.equal(brains.generate(3, seed=1, first=2), some[2:5])
    assert not torch.equal(brains.generate(1, seed=2), some[:1])
    assert -1 <= some.min() < -0.9 and 0.5 < some.max() <= 1


def test_the_data_set_gives_the_same_images_in_any_order(brains):
    items = brains.images(6, seed=1, transform=lambda item: {**item, "label": 0})
    assert [items[n]["name"] for n in (5, 0, -1)] == ["sample_0005", "sample_0000", "sample_0005"]
    assert torch.equal(torch.stack([items[n]["image"] for n in range(6)]), brains.generate(6, seed=1))
    assert items[4]["synthetic"] is True and items[4]["label"] == 0
    with pytest.raises(IndexError):
        items[6]


def test_a_value_range_becomes_minus_one_to_one():
    def double(latents: torch.Tensor, network: nn.Module) -> torch.Tensor:
        return network(latents)[:, None] * 2

    generator = Generator("adder", nn.Identity(), double, 3, batch_size=2, value_range=(0, 8))
    expected = (latents_of(0, range(3), 3)[:, None] * 2 / 4 - 1).clamp(-1, 1)
    assert torch.allclose(generator.generate(3), expected)


MISTAKES = {
    "is no bundle; did you mean dcgan_mri": lambda: bundles.load("dcgan_mr"),
    "bundles.run, which takes its image": lambda: bundles.load("msgan_xray2d", device="cpu"),
    "did you mean --image?": lambda: bundles.run("msgan_xray2d", imagee="x"),
    "is no config of dcgan_mri; did you mean train?": lambda: bundles.run("dcgan_mri", "trian"),
    "which does not exist": lambda: bundles.run("msgan_xray2d", image="/no/$x#@.png", device="cpu"),
    "network_def::norm?": lambda: bundles.load("dcgan_mri", **{"network_def::norme": 1}),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_an_input_error_with_the_commands_sentence_and_the_process_stays_as_it_was(
    sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIRESMED_BUNDLES", str(ROOT / "bundles"))

    def state() -> tuple:
        kept = (sys.excepthook, signal.getsignal(signal.SIGTERM), logging.getLogRecordFactory(), warnings.showwarning)
        return *kept, list(warnings.filters), random.getstate(), torch.get_rng_state().tolist()

    before = state()
    with pytest.raises(bundles.InputError) as caught:
        MISTAKES[sentence]()
    assert sentence in str(caught.value)
    plain = caught.value.__context__ is None or caught.value.__suppress_context__
    assert plain, "MONAI's chain of errors says nothing to a user"
    assert state() == before


def test_a_bundle_that_was_changed_is_warned_of(tmp_path):
    copy = tmp_path / "mine"
    (copy / "configs").mkdir(parents=True)
    (copy / "configs" / "metadata.json").write_text((DCGAN / "configs" / "metadata.json").read_text())
    text = (DCGAN / "configs" / "inference.yaml").read_text()
    (copy / "configs" / "inference.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.warns(UserWarning, match="a config can run any code"):
        bundles.load(copy, device="cpu", weights_path=DCGAN / "models" / "model.pt")


def test_importing_it_is_quick():
    code = "import sys; from hiresmed import bundles; print({'torch', 'monai', 'ignite', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
