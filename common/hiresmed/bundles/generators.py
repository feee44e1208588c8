"""Generators that start from noise, in memory: numbered images as tensors, or as a data set to train on.

Letters: B = images in a pass, C = channels, N = number of images, S = spatial shape, Z = latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.latents import latents_of


class Generator:
    """A bundle's network with its weights; image n is a function of (seed, n), as in the bundle's own runs.

    Args:
        name: of the bundle.
        network: z (B, Z) -> images.
        inferer: callable (z, network) -> images (B, C, *S).
        latent_size: Z.
        batch_size: B; an image's last bits may depend on it.
        value_range: of the network's images, which becomes [-1, 1].
        device: where the network is.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        latent_size: int,
        batch_size: int = 1,
        value_range: Sequence[float] = (-1.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.network = network.eval()
        self.inferer = inferer
        self.latent_size = latent_size
        self.batch_size = parse_int(batch_size, "batch_size", least=1)
        self.low, self.high = (float(v) for v in value_range)
        self.device = torch.device(device)

    @classmethod
    def of(cls, workflow: ConfigWorkflow) -> Generator:
        """The generator of a bundle's inference.

        Raises:
            InputError: its results need an image.
        """
        parser = workflow.parser
        name = str(workflow.config_root_path.resolve().parent.name)
        if "samples" not in parser or "latent_size" not in parser:
            raise InputError(
                f"load must be given a bundle that generates from noise, such as dcgan_mri or inr_gan_multistage, got "
                f"{name}; use bundles.run, which takes its image."
            )
        if "stores" in parser["inferer"]:
            parser["inferer::stores"] = None  # a folder for results, which a tensor needs not
        get = parser.get_parsed_content
        optional = {key: get(key) for key in ("batch_size", "value_range") if key in parser}
        return cls(name, get("network"), get("inferer"), get("latent_size"), device=get("device"), **optional)

    def generate(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Images first, first + 1 ... of a seed: (N, C, *S) float32 in [-1, 1], on the CPU.

        The files that `hiresmed run` writes for the same seed hold these images, in their own data type.

        Args:
            count: N, from 1 on.
            seed: from 0 on.
            first: number of the first image.

        Raises:
            InputError: a number out of range; out of memory.
        """
        count = parse_int(count, "count", least=1)
        first = parse_int(first, "first")
        seed = parse_int(seed, "seed")
        begin = first // self.batch_size * self.batch_size  # whole passes, as in a run: so bits do not differ
        passes = [self._pass(seed, number) for number in range(begin, first + count, self.batch_size)]
        return torch.cat(passes)[first - begin :][:count]

    def images(self, count: int, seed: int = 0, transform: Callable[[dict], Any] | None = None) -> SyntheticImages:
        """A data set of these images; see SyntheticImages."""
        return SyntheticImages(self, count, seed, transform)

    def _pass(self, seed: int, begin: int) -> Tensor:
        latents = latents_of(seed, range(begin, begin + self.batch_size), self.latent_size)
        with torch.inference_mode():
            images = self.inferer(latents.to(self.device), self.network).float().cpu()
        scaled = (images - self.low) * (2 / (self.high - self.low)) - 1
        return scaled.clamp(-1, 1).clone()  # of inference mode no more


class SyntheticImages(Dataset):
    """Images of a generator as {"image": (C, *S) in [-1, 1], "name", "number", "synthetic": True}, made on demand.

    Args:
        generator: of the images.
        count: number of images.
        seed: of all of them; another seed gives other images.
        transform: callable (item) -> item; None: none.
    """

    def __init__(
        self, generator: Generator, count: int, seed: int = 0, transform: Callable[[dict], Any] | None = None
    ) -> None:
        self.generator = generator
        self.count = parse_int(count, "count", least=1)
        self.seed = parse_int(seed, "seed")
        self.transform = transform
        self._latest: tuple[int, Tensor] | None = None  # the pass that was made last, of which the next item often is

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        number = range(self.count)[index]
        block, place = divmod(number, self.generator.batch_size)
        if self._latest is None or self._latest[0] != block:
            size = self.generator.batch_size
            self._latest = block, self.generator.generate(size, self.seed, block * size)
        image = self._latest[1][place].clone()
        item = {"image": image, "name": f"sample_{number:04d}", "number": number, "synthetic": True}
        return item if self.transform is None else self.transform(item)
