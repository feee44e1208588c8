"""A run's images compared with real ones: figures in metrics.json, sheets for the preview, a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ...core.output_files import write_then_rename
from ...core.volumes import ArrayVolume
from ...reports.preview import Panel, montage
from ...reports.report import to_json_safe

SHOWN = 16  # images of a sheet


class SetComparison:
    """What a run's images are compared with, and by what.

    Args:
        metrics: callable (generated, real, training, held_out) -> dict; all processes call it.
        real: the set of real images (C, *S) in [-1, 1].
        training, held_out: those the generator was trained on, and others: for the nearest of them.
        protocol: one sentence on what is compared with what.
        nearest: title of the sheet of the nearest training images.
    """

    def __init__(
        self,
        metrics: Callable,
        real: Sequence,
        training: Sequence | None = None,
        held_out: Sequence | None = None,
        protocol: str = "",
        nearest: str = "nearest training image of each",
    ) -> None:
        self.metrics = metrics
        self.real = real
        self.training = training
        self.held_out = held_out
        self.protocol = protocol
        self.nearest = nearest

    def __call__(self, generated: Sequence | Dataset) -> dict:
        """All figures; every process must call it with all images."""
        return self.metrics(generated, self.real, self.training, self.held_out)

    def write(self, folder: Path, figures: Mapping, n_generated: int, **about) -> None:
        """metrics.json: the run (`about`), the protocol, N of either side, the figures."""
        counts = {"n_generated": n_generated, "n_real": len(self.real)}
        content = {**about, "protocol": self.protocol, **counts, **figures}
        with write_then_rename(folder / "metrics.json") as aside:
            aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")

    def panels(self) -> list[Panel]:
        """Sheets of the generated images' nearest training images, where these were looked for, and of real ones."""
        panels = []
        nearest = getattr(self.metrics, "nearest", None)
        if nearest is not None and self.training is not None:
            panels.append(Panel(self.nearest, sheet([self.training[int(k)] for k in nearest[:SHOWN]])))
        every = max(1, len(self.real) // SHOWN)
        real = [self.real[k] for k in range(0, len(self.real), every)]
        return [*panels, Panel("real", sheet(real[:SHOWN]))]


def sheet(images: Sequence[torch.Tensor]) -> ArrayVolume:
    """The first images (C, *S) on one sheet; of volumes the middle plane of the first axis."""
    first = [images[k] for k in range(min(SHOWN, len(images)))]
    return ArrayVolume(montage([i[:, i.shape[1] // 2] if i.ndim == 4 else i for i in first], SHOWN))


def in_words(figures: Mapping, generated: int, real: int, folder: Path) -> str:
    """The sentence that ends an evaluation; it says N, on which every figure depends."""
    numbers = {name: figure["value"] for name, figure in figures.items() if "value" in figure}
    values = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
    return f"{generated} generated against {real} real images: {values}; all in {folder}/metrics.json."
