"""What the tests of the bundles' front doors share.

A tiny cascade with random weights stands for the shipped one.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import programs
import torch
from hiresmed.core.errors import first_input_error
from hiresmed.methods.msgan import MultiScaleGenerator
from monai.bundle import ConfigWorkflow

BUNDLES = Path(__file__).parents[2] / "bundles"
SMALL = {"width": 8, "num_blocks": 1, "fine_width": 4}

# knobs with which a bundle's training is set up in seconds
SMALL_TRAININGS = {
    "msgan_ct3d": {
        "cases_list": [
            {"phantom": 0, "shape": [24, 24, 24]},
            {"phantom": 1, "shape": [24, 24, 24], "section": "validation"},
        ],
        "base_size": 16,
    },
    "msgan_xray2d": {
        "cases_list": [
            {"phantom": 0, "shape": [32, 32]},
            {"phantom": 0, "shape": [32, 24], "section": "validation"},
        ],
        "base_size": 16,
    },
    "dcgan_mri": {"size": 16, "width": 16, "phantoms": 4, "phantom": {"shape": [16, 16, 16]}, "batch_size": 2},
    "patchddm_brats": {"phantoms": 4},
    "inr_gan_multistage": {
        "image_size": [16, 16],
        "cases_list": [{"phantom": 0, "shape": [16, 16, 4]}],
        "val_samples": 2,
    },
}


class FrontDoor:
    """A bundle as a user meets it, with a tiny network.

    Args:
        name: of the bundle.
        network: knobs that make its network tiny; None: those of a cascade.
        tiny: knobs of every run, beside the network's.
    """

    def __init__(self, name: str, network: dict | None = None, **tiny) -> None:
        self.bundle = BUNDLES / name
        self.tiny = ({"network_def#base": SMALL, "network_def#stage": SMALL} if network is None else network) | tiny

    def settings(self, weights: Path, output_dir: Path, **knobs) -> dict:
        own = {"bundle_root": str(self.bundle), "weights_path": str(weights), "output_dir": str(output_dir)}
        return own | self.tiny | knobs

    def command(self, knobs: dict, launcher=("-m",), config: str = "inference.yaml") -> list[str]:
        file = str(self.bundle / "configs" / config)
        words = [sys.executable, *launcher, "monai.bundle", "run", "--config_file", file]
        return words + [word for name, value in knobs.items() for word in (f"--{name}", str(value))]

    def run(self, knobs: dict, *overlays: str, workflow: str = "inference") -> None:
        """A config in this process; the InputError inside whatever MONAI and ignite wrapped around it."""
        overrides = {name.replace("#", "::"): value for name, value in knobs.items()}
        files = [str(self.bundle / "configs" / name) for name in (f"{workflow}.yaml", *overlays)]
        hook = sys.excepthook
        try:
            found = ConfigWorkflow(files, logging_file=False, workflow_type=workflow, **overrides)
            found.initialize()
            found.run()
            found.finalize()
        except Exception as error:
            mistake = first_input_error(error)
            if mistake is None:
                raise
            raise mistake from None
        finally:
            sys.excepthook = hook


def lowest_peaks(small: Callable[[], float], large: Callable[[], float], bound: float) -> tuple[float, float]:
    """Peaks of two runs, each the lowest of up to three while they differ by more than `bound`.

    What a busy machine does to a process can only add to its peak: 13 MB once.
    """
    lowest = [math.inf, math.inf]
    for _ in range(3):
        lowest = [min(peak, run()) for peak, run in zip(lowest, (small, large))]
        if abs(lowest[0] - lowest[1]) < bound:
            break
    return lowest[0], lowest[1]


def generator(dims: int, kind: str = "signed", **changes) -> MultiScaleGenerator:
    """A tiny cascade, all weights drawn at random, so that every layer shows in the result."""
    torch.manual_seed(0)
    network = MultiScaleGenerator(dims, num_stages=3, sketch_kind=kind, base=SMALL | changes, stage=SMALL)
    for name, weight in network.named_parameters():
        deviation = 0.1 if weight.ndim == 1 else (0.4 if ".out." in name else 1.2) / weight[0].numel() ** 0.5
        torch.nn.init.normal_(weight, std=deviation)
    return network


def bricks(shape, low: int, high: int, dtype) -> np.ndarray:
    """Random grey in blocks of 9 voxels an axis: many edges, no symmetry."""
    values = np.random.default_rng(0).integers(low, high, [-(-n // 9) for n in shape])
    for axis in range(len(shape)):
        values = values.repeat(9, axis)
    return values[tuple(slice(0, n) for n in shape)].astype(dtype)


def subprocess_run(words: list[str], **how) -> subprocess.CompletedProcess:
    """A command line of this Python in a process of its own."""
    return programs.run(words[1:], **how)


def left_behind(folder: Path) -> list[str]:
    """Names in an output folder, but for the working folders of what is not finished."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".partial")) if folder.exists() else []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_plain(done: subprocess.CompletedProcess, sentence: str) -> None:
    """Exit status, and one line of error that says it."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0], done.stderr


def text_file(folder: Path, name: str, content: bytes = b"this is no image") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def other_file(folder: Path, name: str, state) -> Path:
    torch.save(state, folder / name)
    return folder / name


def damaged(folder: Path, weights: Path) -> Path:
    """A copy of the weights with one bit turned, beside the sha256 of the whole ones."""
    copy = Path(shutil.copy(weights, folder / "model.pt"))
    (folder / "model.pt.sha256").write_text(f"{digest(copy)}  model.pt\n")
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    return copy
