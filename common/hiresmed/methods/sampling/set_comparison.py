"""A run's images compared with real ones: figures in metrics.json, sheets for the preview, a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ...core.errors import InputError
from ...core.knobs import flag
from ...core.output_files import writable_folder, written_aside
from ...core.volumes import ArrayVolume
from ...reports.preview import Panel, montage, write_preview
from ...reports.report import to_json_safe
from ...reports.run_report import RunReport

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
        self.metrics, self.real, self.training, self.held_out = metrics, real, training, held_out
        self.protocol, self.nearest = protocol, nearest

    def __call__(self, generated: Sequence) -> dict:
        """All figures; every process must call it with all images."""
        return self.metrics(generated, self.real, self.training, self.held_out)

    def write(self, folder: Path, figures: Mapping, n_generated: int, **about) -> None:
        """metrics.json: the run (`about`), the protocol, N of either side, the figures."""
        counts = {"n_generated": n_generated, "n_real": len(self.real)}
        content = {**about, "protocol": self.protocol, **counts, **figures}
        with written_aside(folder / "metrics.json") as aside:
            aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")

    def panels(self) -> list[Panel]:
        """Sheets of the generated images' nearest training images, where these were looked for, and of real ones."""
        found, nearest = [], getattr(self.metrics, "nearest", None)
        if nearest is not None:
            found.append(Panel(self.nearest, sheet([self.training[int(k)] for k in nearest[:SHOWN]])))
        every = max(1, len(self.real) // SHOWN)
        return [*found, Panel("real", sheet([self.real[k] for k in range(0, len(self.real), every)][:SHOWN]))]


def sheet(images: Sequence[torch.Tensor]) -> ArrayVolume:
    """The first images (C, *S) on one sheet; of volumes the middle plane of the first axis."""
    shown = [images[k] for k in range(min(SHOWN, len(images)))]
    return ArrayVolume(montage([i[:, i.shape[1] // 2] if i.ndim == 4 else i for i in shown], SHOWN))


class CompareBatches(RunReport):
    """Handler of a run that keeps no images: gathers its batches, compares them, writes metrics.json and preview.png.

    Args:
        output_dir: the run's folder.
        comparison: the SetComparison.
        bundle_root: the bundle's folder, for its name and version.
        weights_sha256: of the weight file.
        seed: of the run.
        overwrite: replace figures that exist.

    Raises:
        InputError: at the start: figures exist, or the folder cannot be written.
    """

    def __init__(
        self,
        output_dir: str,
        comparison: SetComparison,
        bundle_root: str,
        weights_sha256: str | None = None,
        seed: int = 0,
        overwrite: bool | str = False,
    ) -> None:
        super().__init__(None, bundle_root, {"seed": seed}, weights_sha256)
        self.overwrite, self.folder, self.comparison = flag(overwrite, "overwrite"), Path(output_dir), comparison
        self.generated: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._gather)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _check(self, engine: Engine) -> None:
        target = self.folder / "metrics.json"
        writable_folder(self.folder)
        if target.exists() and not self.overwrite:
            raise InputError(
                f"{self.folder} should not yet hold {target.name}, but does; set overwrite to true to replace it, or "
                "choose another output_dir."
            )

    def _gather(self, engine: Engine) -> None:
        self.generated += list(engine.state.output["pred"].clone().cpu())  # out of inference mode

    def _write(self, engine: Engine) -> None:
        figures = self.comparison(self.generated)
        if idist.get_rank() != 0:
            return
        panels = [Panel("samples (synthetic)", sheet(self.generated)), *self.comparison.panels()]
        write_preview(self.folder / "preview.png", panels, (-1.0, 1.0), self.comparison.protocol)
        self.comparison.write(self.folder, figures, len(self.generated), **self.about)
        print(in_words(figures, len(self.generated), len(self.comparison.real), self.folder), flush=True)


def in_words(figures: Mapping, generated: int, real: int, folder: Path) -> str:
    """The sentence that ends an evaluation; N stands in it, for every figure depends on it."""
    found = {name: figure["value"] for name, figure in figures.items() if "value" in figure}
    values = ", ".join(f"{name} {value:.4g}" for name, value in found.items() if value is not None)
    return f"{generated} generated against {real} real images: {values}; all in {folder}/metrics.json."
