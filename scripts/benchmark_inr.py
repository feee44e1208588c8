"""Memory and speed of training an implicit generator by patches, in bands and by whole images.

No command of its own: `scripts/benchmark.py inr_memory` and `inr_speed` run it.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from benchmark_paired import paired
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.methods.inr_gan import ExactTrainer, ImplicitGenerator, PatchConsistency, ResidualCritic
from hiresmed.training import AdversarialTrainer, GanBatch, NonSaturating, R1Penalty
from torch._subclasses.fake_tensor import FakeTensorMode


@dataclass(frozen=True)
class Scale:
    """Sizes of a training: image and patch sides, batch, style, G's channels, D's least and most channels, colours."""

    side: int
    patch: int
    batch: int
    style: int
    channels: tuple[int, ...]
    critic: int
    most: int
    colours: int


SCALES = {
    "paper": Scale(256, 64, 32, 512, (512, 512, 512, 512, 512, 256, 128), 128, 512, 3),
    "small": Scale(128, 32, 4, 128, (64,) * 7, 16, 64, 1),
}
PENALTY = 16  # iterations between R1 steps
MODES = ("image", "gradient accumulation", "patch", "multistage", "multistage, table", "exact", "exact, bands of 4")


def build(mode: str, scale: Scale):
    """(trainer, tensors held from the start) of one mode; the batch is made at random, at no cost of data."""
    whole = mode in ("image", "gradient accumulation") or mode.startswith("exact")
    side, staged, table = scale.side if whole else scale.patch, mode.startswith("multistage"), "table" in mode

    def generator() -> ImplicitGenerator:
        size = scale.patch if table else None
        return ImplicitGenerator(2, scale.colours, scale.style, scale.style, scale.channels, table_size=size)

    made, below = generator(), generator() if staged else None
    discriminator = ResidualCritic([side] * 2, scale.colours, scale.critic, scale.most, 4 if whole else 1)
    micro = max(1, scale.batch // 4) if mode == "gradient accumulation" or mode.startswith("exact") else 1
    options = {"accumulation_steps": micro}
    if mode == "exact":
        options["rows"] = scale.side // 16
    elif mode.startswith("exact"):
        options |= {"rows": scale.side // 2, "images_per_band": 4}

    def prepare(batchdata, device, non_blocking) -> GanBatch:
        z = torch.randn(scale.batch, scale.style)
        where = torch.rand(1 if whole else scale.batch, 2, side, side) * 2 - 1
        targets = {}
        if below is not None:
            with torch.no_grad():
                half = torch.rand(scale.batch, 2, side // 2, side // 2)
                targets["patch_consistency"] = below(half, z)
        return GanBatch((where, z), torch.rand(scale.batch, scale.colours, side, side), targets=targets)

    trainer = (ExactTrainer if mode.startswith("exact") else AdversarialTrainer)(
        "cpu", 1, [0], made, discriminator, torch.optim.Adam(made.parameters()),
        torch.optim.Adam(discriminator.parameters()), NonSaturating(), prepare,
        {"patch_consistency": (0.1, PatchConsistency())} if staged else {},
        penalties=[R1Penalty(10.0, PENALTY)], **options,
    )  # fmt: skip
    moments = [torch.zeros_like(p) for n in (made, discriminator) for p in n.parameters() for _ in range(2)]
    average = [torch.zeros_like(p) for p in made.parameters()]
    networks = [n for n in (made, discriminator, below) if n is not None]
    return trainer, [*(p for n in networks for p in n.parameters()), *moments, *average]


def live_mebibytes(mode: str, scale: Scale, fake: bool = True, penalty: bool = False) -> float:
    """Largest sum of live tensors in one iteration, weights, Adam's moments and the average included."""
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext():
        trainer, held = build(mode, scale)
        trainer.state.iteration = PENALTY if penalty else 1
        with LiveBytes(held) as live:
            trainer._iteration(trainer, 0)
        return live.peak / 2**20


def memory(scale: str, fake: bool = True) -> list[dict]:
    """A row for each mode: live MiB with and without the R1 step, and what image-based training needs of it."""
    rows = []
    for mode in MODES:
        plain, penalised = (live_mebibytes(mode, SCALES[scale], fake, penalty) for penalty in (False, True))
        rows.append(
            {"training": mode, "live_mib": plain, "image_over_it": rows[0]["live_mib"] / plain if rows else 1.0}
        )
        rows[-1]["live_mib_r1_step"] = penalised
        print(rows[-1], flush=True)
    return rows


def grouped(generator: ImplicitGenerator, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """The hidden layers after the first as CIPS computes them: grouped 1x1 convolutions of (1, B I, H, W)."""
    batch, side = len(style), math.isqrt(x.shape[1])
    y = x.transpose(1, 2).reshape(batch, -1, side, side)
    for layer in generator.layers[1:]:
        inputs, outputs = layer.weight.shape
        modulation = layer.style(style).view(batch, 1, inputs, 1, 1)
        weight = layer.weight.t().view(1, outputs, inputs, 1, 1) / math.sqrt(inputs) * modulation
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4)) + 1e-8).view(batch, outputs, 1, 1, 1)
        y = F.conv2d(y.reshape(1, -1, side, side), weight.reshape(-1, inputs, 1, 1), groups=batch)
        y = F.leaky_relu(y.view(batch, outputs, side, side) + layer.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)
    return y


def pointwise(matrices: list, x: torch.Tensor) -> torch.Tensor:
    """The same layers as ImplicitGenerator.synthesise computes them."""
    for matrix, bias in matrices:
        x = F.leaky_relu_(torch.bmm(x, matrix).add_(bias), 0.2)
    return x


def forward(width: int = 64, side: int = 32, batch: int = 1, repeats: int = 200) -> list[dict]:
    """Forward passes of the hidden layers side by side: ours, CIPS's form, and the matrix products alone.

    A thousand places for each of `batch` latents: one at a time in inference, four in training at the small scale. Ours
    has its matrices made once for each latent.
    """
    torch.manual_seed(0)
    generator = ImplicitGenerator(2, 1, 128, 128, (width,) * 7, 2)
    x, style = torch.randn(batch, side * side, width), torch.randn(batch, 128)
    with torch.inference_mode():

        def made() -> list:
            return [layer(style) for layer in generator.layers[1:]]

        matrices = made()
        ours, theirs = pointwise(matrices, x), grouped(generator, x, style)
        gap = (theirs.flatten(2).transpose(1, 2) - ours).abs().max() / ours.abs().max()
        assert gap < 1e-4, f"the two forms differ by {gap}"
        ways = {
            "matrix products alone": lambda: [torch.bmm(x, m) for m, _ in matrices],
            "pointwise (ours), modulated once": lambda: pointwise(matrices, x),
            "pointwise (ours), modulated each time": lambda: pointwise(made(), x),
            "grouped convolution, modulated each time": lambda: grouped(generator, x, style),
        }
        rows = [{"forward": name, "seconds": seconds} for name, seconds in paired(ways, repeats).items()]
    for row in rows:
        row |= {"width": width, "latents": batch, "share_of_products": rows[0]["seconds"] / row["seconds"]}
        row["grouped_over_it"] = rows[-1]["seconds"] / row["seconds"]
    return rows


def speed(repeats: int = 5) -> list[dict]:
    """Seconds of an iteration without the R1 step at the small scale, and of forward passes."""
    trainers = {mode: build(mode, SCALES["small"])[0] for mode in MODES}
    for trainer in trainers.values():
        trainer.state.iteration = 1
    found = paired({mode: lambda t=trainer: t._iteration(t, 0) for mode, trainer in trainers.items()}, repeats)
    rows = [{"training": m, "seconds": s, "image_over_it": found["image"] / s} for m, s in found.items()]
    return rows + forward(batch=1) + forward(batch=SCALES["small"].batch)
