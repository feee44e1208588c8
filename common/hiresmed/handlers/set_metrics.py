"""metrics.json and a picture of an evaluation that compares a set of generated images with a set of real ones."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Sequence

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from ..errors import InputError
from ..knobs import flag
from ..preview import Panel, write_preview
from ..report import to_json_safe, written_aside

SHOWN = 4  # images of either side


class SetMetrics:
    """Gathers a run's generated images (C, *S) in [-1, 1], compares them with the real ones, writes metrics.json.

    Args:
        output_dir: the run's folder.
        metrics: callable (generated, real) -> dict; lists of tensors.
        images: dataset of real images {"image": (C, *S)}, at the generated images' size.
        protocol: one sentence on what was compared with what.
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
        metrics,
        images: Sequence,
        protocol: str,
        bundle_root: str,
        weights_sha256: str | None = None,
        seed: int = 0,
        overwrite: bool | str = False,
    ) -> None:
        self.overwrite = flag(overwrite, "overwrite")
        self.folder, self.metrics, self.images, self.protocol = pathlib.Path(output_dir), metrics, images, protocol
        about = json.loads((pathlib.Path(bundle_root) / "configs" / "metadata.json").read_text())
        self.about = {"bundle": about["name"], "version": about["version"], "weights_sha256": weights_sha256}
        self.about["seed"] = seed
        self.generated: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._gather)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _check(self, engine: Engine) -> None:
        target = self.folder / "metrics.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise InputError(
                f"output_dir should be a folder that can be written to, but {self.folder} cannot ({error.strerror}); "
                "choose another one."
            ) from error
        if target.exists() and not self.overwrite:
            raise InputError(
                f"{self.folder} should not yet hold {target.name}, but does; set overwrite to true to replace it, or "
                "choose another output_dir."
            )

    def _gather(self, engine: Engine) -> None:
        self.generated += list(engine.state.output["pred"].clone())  # out of inference mode

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        real = [self.images[k]["image"] for k in range(len(self.images))]
        figures = self.metrics(self.generated, real)
        content = {**self.about, "protocol": self.protocol, "n_generated": len(self.generated), "n_real": len(real)}
        panels = [Panel(f"real {k}", _grey(image)) for k, image in enumerate(real[:SHOWN])]
        panels += [Panel(f"generated {k}", _grey(image)) for k, image in enumerate(self.generated[:SHOWN])]
        write_preview(self.folder / "preview.png", panels, (-1.0, 1.0), self.protocol)
        with written_aside(self.folder / "metrics.json") as aside:
            aside.write_text(json.dumps(to_json_safe({**content, **figures}), indent=2) + "\n", encoding="utf-8")
        print(in_words(figures, len(self.generated), len(real), self.folder), flush=True)


def _grey(image: torch.Tensor) -> np.ndarray:
    return image.float().mean(0).numpy()


def in_words(figures: dict, generated: int, real: int, folder: pathlib.Path) -> str:
    """The sentence that ends an evaluation; N stands in it, for every figure depends on it."""
    values = [f"{name} {figure['value']:.4g}" for name, figure in figures.items() if "value" in figure]
    return f"{generated} generated against {real} real images: {', '.join(values)}; all in {folder}/metrics.json."
