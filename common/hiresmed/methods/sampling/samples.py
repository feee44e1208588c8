"""The numbered samples of a run that generates from noise, and the blocks of latents that its network is given.

Letters: B = samples in a block, C = channels, N = number of latents, S = spatial shape, Z = latent size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ...core.distributed import rank_share
from ...core.errors import InputError
from ...core.knobs import parse_int
from ...core.latents import latent_path, latents_of
from ...core.volumes import Volume, picture_affine
from .sample_folder import SampleFolder


class NumberedSamples(Sequence):
    """The samples of a run, each a dict of "name", "number" and "shape"; sample n depends only on (seed, n).

    Args:
        shape: S of the images.
        latent_size: Z.
        num_samples: how many samples.
        first_sample: number of the first one.
        seed: of the latents.
        interpolate: numbers of at least two samples: instead of samples, the images on the way from each of these to
            the next are generated, from the first to the last; None: no.
        steps: images from each of these samples to the next.
        image, dataset_dir: inputs of the other bundles; must be None.

    Raises:
        InputError: an image or dataset_dir; a number out of range.

    >>> [sample["name"] for sample in NumberedSamples((8, 8), 4, num_samples=2, first_sample=17)]
    ['sample_0017', 'sample_0018']
    >>> [sample["name"] for sample in NumberedSamples((8, 8), 4, interpolate=[5, 2], steps=2)]
    ['step_0000', 'step_0001', 'step_0002']
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_size: int,
        num_samples: int = 4,
        first_sample: int = 0,
        seed: int = 0,
        interpolate: Sequence[int] | None = None,
        steps: int = 8,
        image: str | None = None,
        dataset_dir: str | None = None,
    ) -> None:
        if image is not None or dataset_dir is not None:
            raise InputError(
                f"image and dataset_dir must be left out, since this bundle generates images from noise, got "
                f"{image or dataset_dir}; use evaluate.yaml to compare with the images of dataset_dir."
            )
        self.latent_size = latent_size
        self.seed = parse_int(seed, "seed")
        first = parse_int(first_sample, "first_sample")
        count = parse_int(num_samples, "num_samples", least=1)
        if interpolate is None:
            self.path = None
            names = {n: f"sample_{n:04d}" for n in range(first, first + count)}
        else:
            self.path = latent_path(self.seed, interpolate, steps, latent_size)
            names = {n: f"step_{n:04d}" for n in range(len(self.path))}
        self.samples: list[dict] = [{"name": name, "number": n, "shape": tuple(shape)} for n, name in names.items()]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def latents(self, numbers: Sequence[int]) -> torch.Tensor:
        """z (N, Z) of these numbers; beyond the end of an interpolation its last latent."""
        if self.path is None:
            return latents_of(self.seed, numbers, self.latent_size)
        last = len(self.path) - 1
        return self.path[[min(n, last) for n in numbers]]


class SampleBlocks(Dataset):
    """Blocks of the samples that are still to be generated: {"image": z (B, Z), "samples": those wanted of them}.

    Sample n is always computed in block n // B at place n % B, and the network is given whole blocks. So its bits
    depend neither on how many samples or processes there are nor on what an interrupted run had finished.

    Args:
        samples: of the run.
        output: the run's folder; checked and prepared here, before any work.
        batch_size: B.
        share: each process takes a part of the blocks; else all processes go through all of them, because they share
            the work on each image.

    Raises:
        InputError: what SampleFolder.begin raises; a batch_size below 1.
    """

    def __init__(self, samples: NumberedSamples, output: SampleFolder, batch_size: int = 1, share: bool = True) -> None:
        self.samples = samples
        self.batch_size = parse_int(batch_size, "batch_size", least=1)
        blocks = [list(block) for _, block in itertools.groupby(output.begin(samples), self._block)]
        if share:
            blocks = [blocks[k] for k in rank_share(len(blocks))]
        # an engine needs one iteration, so a process without work takes a block of which nothing is wanted
        self.blocks: list[list[Mapping]] = blocks or [[]]

    def _block(self, sample: Mapping) -> str | int:
        return sample["name"] if self.batch_size == 1 else sample["number"] // self.batch_size

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict:
        block = self.blocks[index]
        first = block[0]["number"] // self.batch_size * self.batch_size if block else 0
        return {"image": self.samples.latents(range(first, first + self.batch_size)), "samples": block}


@dataclass
class GeneratedImage:
    """A sample's image in stored values, ready to be written.

    Attributes:
        image: one volume of shape S (or the region of it), or one per colour channel.
        shared: all processes hold it together, so one of them writes it.
    """

    image: Volume | list[Volume]
    shared: bool = False


def sample_affine(dims: int, spacing: Sequence[float] | float = 1.0, name: str = "trained_spacing") -> np.ndarray:
    """(4, 4) of an image without orientation: rows run to the back, columns to the left, slices up.

    Args:
        dims: spatial axes, 2 or 3.
        spacing: in mm, one number or one per axis.
        name: of the knob, for errors.

    Raises:
        InputError: a spacing that is not positive, or another number of them.
    """
    steps = [spacing] * dims if isinstance(spacing, (int, float)) else list(spacing)
    if len(steps) != dims or any(isinstance(s, bool) or not 0 < float(s) < math.inf for s in steps):
        raise InputError(
            f"{name} must be a positive length in mm, or one for each of {dims} axes, got {spacing!r}; change it."
        )
    steps = [float(step) for step in steps]
    return picture_affine(*steps) if dims == 2 else np.diag([*steps, 1.0])
