"""Gradient penalties of the discriminator side by side: one signature, computed in full precision.

Called with (discriminator, real, fake, iteration): `discriminator` maps images (N, C, S) to logits (a condition is
already bound, so the gradient is that of the image alone), `iteration` counts from 1. They return a weighted scalar to
add to D's loss, or None at iterations that a lazy penalty skips. For a map of patch logits D(x) is the mean over the
map (and over the scales), so that a penalty does not grow with the image; for one logit per image these are the papers'
formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.errors import InputError


def _squared_gradient(discriminator: Callable, image: Tensor) -> Tensor:
    """(N,) squared length of the gradient of D(image) by the image, itself differentiable by D's weights."""
    image = image.detach().requires_grad_(True)
    with torch.autocast(image.device.type, enabled=False):
        logits = discriminator(image)
        scales = [logits] if isinstance(logits, Tensor) else logits
        # each image has its own logits, so the gradient of the batch's sum holds every image's own gradient
        totals = (scale.reshape(len(scale), -1).mean(1).sum() for scale in scales)
        total = sum(totals, image.new_zeros(())) / len(scales)
        (gradient,) = torch.autograd.grad(total, image, create_graph=True)
    return gradient.flatten(1).square().sum(1)


class _Penalty:
    name = "penalty"

    def __init__(self, weight: float, every: int) -> None:
        if weight < 0 or every < 1:
            raise InputError(
                f"{type(self).__name__} must have weight >= 0 and every >= 1, got weight={weight} and every={every}; "
                "to have no penalty, leave it out of `penalties`."
            )
        self.weight = weight
        self.every = every

    def __call__(self, discriminator: Callable, real: Tensor, fake: Tensor, iteration: int) -> Tensor | None:
        """Weighted penalty, times `every` so that its mean over time does not depend on `every`; None in between."""
        if iteration % self.every != 0:
            return None
        return self.weight * self.every * self.value(discriminator, real, fake)

    def value(self, discriminator: Callable, real: Tensor, fake: Tensor) -> Tensor:
        raise NotImplementedError


class GradientPenalty(_Penalty):
    """WGAN-GP, Gulrajani et al. 2017, eq. 3: weight x E[(|grad D(x^)|_2 - 1)^2], x^ = e x + (1 - e) y, e ~ U[0, 1].

    e is one number per image, from torch's global generator.

    Args:
        weight: lambda, 10 in the paper.
        every: 1 = at each D step.
    """

    name = "gradient_penalty"

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def value(self, discriminator: Callable, real: Tensor, fake: Tensor) -> Tensor:
        weight = torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype, device=real.device)
        squared = _squared_gradient(discriminator, weight * real + (1 - weight) * fake)
        # the root has no derivative at 0, where a discriminator of dead units sits
        return ((squared + 1e-12).sqrt() - 1).square().mean()


class R1Penalty(_Penalty):
    """R1, Mescheder et al. 2018, eq. 9: weight / 2 x E[|grad D(x)|^2] on real images; lazy as in StyleGAN2 (B).

    Args:
        weight: gamma, 10 in the paper.
        every: applied at each `every`-th iteration, times `every`.
    """

    name = "r1"

    def __init__(self, weight: float = 10.0, every: int = 16) -> None:
        super().__init__(weight, every)

    def value(self, discriminator: Callable, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * _squared_gradient(discriminator, real).mean()
