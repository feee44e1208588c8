"""Adversarial objectives side by side: one signature, the papers' formulas.

D(x) are raw logits of real images, D(y) of generated ones: a tensor of any shape (one logit per image or a map of
patch logits), or a list of such tensors (multi-scale discriminators), which count equally. Both methods return a
scalar to *minimise*; `generator` is unweighted. MONAI's PatchAdversarialLoss differs from the papers' formulas: it
passes least-squares logits through a LeakyReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

Logits = Tensor | Sequence[Tensor]


def _mean(function: Callable[[Tensor], Tensor], logits: Logits) -> Tensor:
    """Mean of `function` over one logit map, or over the means of several (all scales count equally)."""
    if isinstance(logits, Tensor):
        return function(logits).mean()
    return torch.stack([function(scale).mean() for scale in logits]).mean()


class LeastSquares:
    """LSGAN, Mao et al. 2017, eq. 9 (a = 0, b = c = 1).

    D: 1/2 E[(D(x) - 1)^2] + 1/2 E[D(y)^2];  G: 1/2 E[(D(y) - 1)^2].
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        return 0.5 * _mean(lambda d: (d - 1) ** 2, real_logits) + 0.5 * _mean(torch.square, fake_logits)

    def generator(self, fake_logits: Logits) -> Tensor:
        return 0.5 * _mean(lambda d: (d - 1) ** 2, fake_logits)


class NonSaturating:
    """Non-saturating GAN, Goodfellow et al. 2014, section 3, with sigmoid and log folded into softplus.

    D: E[softplus(-D(x))] + E[softplus(D(y))];  G: E[softplus(-D(y))].
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        return _mean(lambda d: softplus(-d), real_logits) + _mean(softplus, fake_logits)

    def generator(self, fake_logits: Logits) -> Tensor:
        return _mean(lambda d: softplus(-d), fake_logits)


class BinaryCrossEntropy:
    """Cross entropy with labels, as DCGAN (Radford et al. 2016) trains; equals NonSaturating but for rounding.

    D: BCE(D(x), 1) + BCE(D(y), 0);  G: BCE(D(y), 1).
    """

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        return _mean(_against(1.0), real_logits) + _mean(_against(0.0), fake_logits)

    def generator(self, fake_logits: Logits) -> Tensor:
        return _mean(_against(1.0), fake_logits)


def _against(label: float) -> Callable[[Tensor], Tensor]:
    return lambda d: binary_cross_entropy_with_logits(d, torch.full_like(d, label))


class Wasserstein:
    """Wasserstein GAN, Arjovsky et al. 2017, algorithm 1; needs a penalty (penalties.GradientPenalty).

    D: E[D(y)] - E[D(x)];  G: -E[D(y)].
    """

    needs_penalty = True  # D is unbounded: without one it grows for ever and trains nothing

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        return _mean(_identity, fake_logits) - _mean(_identity, real_logits)

    def generator(self, fake_logits: Logits) -> Tensor:
        return -_mean(_identity, fake_logits)


def _identity(logits: Tensor) -> Tensor:
    return logits
