"""Image-based training in a patch's memory: gradients of whole images, made band by band.

G is pointwise, so its gradient is a sum over places: (1) G draws the images without gradient, band by band; (2) D, in
micro-batches, gives dL/d fake; (3) G draws each band again, with gradient, and takes back its slice of dL/d fake. For
one more forward pass of G, memory no longer grows with the image.

Letters: N = batch, C = channels, D = spatial axes, S = spatial shape, Z = latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ...core.distributed import unwrap
from ...core.errors import InputError
from ...training.batches import GanBatch
from ...training.trainer import AdversarialTrainer, add_weighted, freeze, to_float32


def bands(coordinates: Tensor, z: Tensor, rows: int, images: int | None = None) -> Iterator[tuple[slice, slice]]:
    """(images, rows of the first spatial axis) of each band, covering all once; the last ones may be smaller.

    Args:
        coordinates: (N or 1, D, *S).
        z: (N, Z).
        rows, images: at most this many a band; images None is all of them.
    """
    step = len(z) if images is None else images
    for image in range(0, len(z), step):
        for row in range(0, coordinates.shape[2], rows):
            yield slice(image, image + step), slice(row, row + rows)


def _inputs(coordinates: Tensor, z: Tensor, image: slice, row: slice) -> tuple[Tensor, Tensor]:
    shared = len(coordinates) == 1 and len(z) > 1
    return (coordinates if shared else coordinates[image])[:, :, row], z[image]


def draw(generator: Callable, coordinates: Tensor, z: Tensor, rows: int, images: int | None = None) -> Tensor:
    """generator(coordinates, z), (N, C, *S), made band by band without gradient."""
    result = torch.empty(0)
    with torch.no_grad():
        for image, row in bands(coordinates, z, rows, images):
            band = generator(*_inputs(coordinates, z, image, row))
            if not len(result):
                result = band.new_empty(len(z), band.shape[1], *coordinates.shape[2:])
            result[image, :, row] = band
    return result


def pull_back(
    generator: Callable, coordinates: Tensor, z: Tensor, gradient: Tensor, rows: int, images: int | None = None
) -> Iterator[Callable[[], None]]:
    """The third pass: calls that add each band's part of dL/d fake (N, C, *S) to the weights' gradients, once each."""
    for image, row in bands(coordinates, z, rows, images):

        def backward(image: slice = image, row: slice = row) -> None:
            generator(*_inputs(coordinates, z, image, row)).backward(gradient[image, :, row])

        yield backward


class ExactTrainer(AdversarialTrainer):
    """AdversarialTrainer of an implicit generator whose memory is a band's: same losses, same gradients.

    `accumulation_steps` cuts the batch for D (and its penalties); each part must hold whole groups of D's
    `group_size`, or its statistics, and with them the gradients, would differ. Losses on the fake work as ever: they
    see whole images. Fakes are drawn once and serve both steps.

    Args:
        rows: of the first spatial axis per band.
        images_per_band: None: all of the part's. Fewer images with more rows need less memory for matrices.
        args, kwargs: as AdversarialTrainer's; batches must bring (coordinates (N or 1, D, *S), z (N, Z)).
    """

    def __init__(self, *args, rows: int = 16, images_per_band: int | None = None, **kwargs) -> None:
        if rows < 1 or (images_per_band is not None and images_per_band < 1):
            raise InputError(
                f"rows and images_per_band must be whole numbers from 1 on, got {rows} and {images_per_band}; "
                "raise them, or leave images_per_band out."
            )
        self.rows = rows
        self.images_per_band = images_per_band
        super().__init__(*args, **kwargs)
        self.reuse_fake = True  # bands have no graph to keep, whatever the micro-batches

    def _generate(self, part: GanBatch, with_graph: bool) -> Tensor:
        coordinates, z = part.inputs
        fake = draw(self._drawing(unwrap(self.generator)), coordinates, z, self.rows, self.images_per_band)
        if fake.shape != part.real.shape:
            raise InputError(
                f"The generator must make images of the real ones' shape {tuple(part.real.shape)}, got "
                f"{tuple(fake.shape)}; adjust its channels, or the patch."
            )
        return fake

    def _discriminator_gradients(self, parts: list[GanBatch], fakes: list[Tensor]) -> dict[str, Tensor]:
        group = getattr(unwrap(self.discriminator), "group_size", 1)
        if any(len(part) % group for part in parts[:-1]):
            raise InputError(
                f"Micro-batches must hold whole groups of {group} images, got {[len(part) for part in parts]}; "
                "choose accumulation_steps so that the batch divides into such."
            )
        return super()._discriminator_gradients(parts, fakes)

    def _generator_gradients(
        self, parts: list[GanBatch], fakes: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        assert fakes is not None
        self.g_optimizer.zero_grad(set_to_none=True)
        output: dict[str, Tensor] = {}
        gradients: list[Tensor] = []
        with freeze(self.discriminator):
            for part, fake, share in zip(parts, fakes, self._shares(parts)):
                fake = fake.detach().requires_grad_(True)
                losses = self._generator_losses(part, fake)
                gradients += torch.autograd.grad(losses["loss_g"] * share, fake)
                add_weighted(output, losses, share)
        self._pull_back(parts, gradients)
        return output, fakes

    def _pull_back(self, parts: list[GanBatch], gradients: list[Tensor]) -> None:
        generator = self._drawing(self.generator)
        ways: list[Callable[[], None]] = []
        for part, gradient in zip(parts, gradients):
            coordinates, z = part.inputs
            ways += pull_back(generator, coordinates, z, gradient, self.rows, self.images_per_band)
        for backward in ways:
            with self._gradient_sync(self.generator, backward is ways[-1]):
                backward()

    def _drawing(self, generator: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """The generator in the trainer's precision; only forward passes belong under autocast."""

        def drawn(coordinates: Tensor, z: Tensor) -> Tensor:
            with self._autocast():
                return to_float32(generator(coordinates, z))

        return drawn
