"""What one adversarial iteration needs from a batch, whichever the method.

Letters: N = batch, C = channels, S = spatial shape, Z = latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from monai.data import MetaTensor
from torch import Tensor

from ..core.errors import InputError
from ..core.latents import latents_of


@dataclass
class GanBatch:
    """One batch as the adversarial trainer sees it.

    Attributes:
        inputs: the generator's positional arguments.
        real: real images (N, C, S).
        condition: (N, C', S) shown to the discriminator before the image's channels; None: the image alone.
        targets: what a generator loss of that name compares the prediction with; a name not in it takes `real`.
    """

    inputs: tuple
    real: Tensor
    condition: Tensor | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.real.shape[0]

    def split(self, parts: int) -> list[GanBatch]:
        """At most `parts` micro-batches of nearly equal size; a value without a first axis of length N goes to all."""
        if parts == 1:
            return [self]
        sizes = [len(chunk) for chunk in self.real.chunk(parts)]
        inputs = [_split(value, sizes) for value in self.inputs]
        targets = {name: _split(value, sizes) for name, value in self.targets.items()}
        reals = _split(self.real, sizes)
        conditions = _split(self.condition, sizes)
        return [
            GanBatch(tuple(v[k] for v in inputs), reals[k], conditions[k], {name: v[k] for name, v in targets.items()})
            for k in range(len(sizes))
        ]


def _split(value, sizes: list[int]) -> Sequence:
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == sum(sizes):
        return value.split(sizes)
    return [value] * len(sizes)


def batch_tensor(batchdata: Mapping, key: str, device: torch.device, non_blocking: bool) -> Tensor:
    """A batch's tensor (B, ...) of that key, plain and on the device; InputError where the batch has none."""
    if key not in batchdata:
        raise InputError(
            f"The batch must hold the key '{key}', got {sorted(map(str, batchdata))}; "
            "name the dataset's own keys in `prepare_batch`."
        )
    value = batchdata[key]
    # MetaTensor's dispatch costs time in every layer, and nothing here reads the meta data
    value = value.as_tensor() if isinstance(value, MetaTensor) else value
    return value.to(device, non_blocking=non_blocking)


class LatentBatch:
    """prepare_batch of an unconditional generator: z (N, Z) of N(0, 1), N from the real batch.

    Args:
        latent_size: Z.
        real: key of the real image (N, C, S).
        seed: each latent is a function of (seed, its image's "number"); None: from torch's generator, as in training.
    """

    def __init__(self, latent_size: int, real: str = "image", seed: int | None = None) -> None:
        self.latent_size = latent_size
        self.real = real
        self.seed = seed

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False) -> GanBatch:
        real = batch_tensor(batchdata, self.real, device, non_blocking)
        if self.seed is None:
            return GanBatch((torch.randn(len(real), self.latent_size, device=device),), real)
        numbers = [int(n) for n in batchdata["number"]]
        return GanBatch((latents_of(self.seed, numbers, self.latent_size).to(device),), real)


class LatentEvaluation:
    """prepare_batch of an evaluator: LatentBatch's (latents (N, Z), real images) as a SupervisedEvaluator takes them.

    So every validation uses the same latents, whatever the batches and the number of processes.

    Args:
        latent_size: Z.
        real: key of the real image (N, C, S).
        seed: of the latents.
    """

    def __init__(self, latent_size: int, real: str = "image", seed: int = 0) -> None:
        self.batch = LatentBatch(latent_size, real, seed)

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False, **kwargs) -> tuple:
        batch = self.batch(batchdata, torch.device(device), non_blocking)
        return batch.inputs[0], batch.real
