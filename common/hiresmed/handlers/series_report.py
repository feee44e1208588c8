"""What a run of samples leaves beside them: preview.png, report.json, metrics.json and a last line in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..memory import peak_device_bytes, peak_rss_bytes
from ..preview import Panel, montage, write_preview
from ..report import in_bytes, in_time, to_json_safe, write_report, written_aside
from ..volumes import ArrayVolume

SHOWN = 16


class SeriesReport:
    """When all images are made: stack, preview, report, and the line on stdout; with `metrics`, their comparison.

    Args:
        output: the run's SampleSeries.
        bundle_root: the bundle's folder; its metadata.json gives name and version.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        metrics: callable (generated, real, training, held_out) -> dict; all processes call it. None: no comparison.
        real, training, held_out: sets of real images for it.
        protocol: one sentence on what is compared with what.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        metrics: Callable | None = None,
        real=None,
        training=None,
        held_out=None,
        protocol: str = "",
    ) -> None:
        self.output, self.config, self.weights_sha256 = output, dict(config), weights_sha256
        self.bundle = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text())
        self.metrics, self.real, self.training, self.held_out = metrics, real, training, held_out
        self.protocol = protocol
        self.started = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        idist.barrier()  # all images of all processes lie there
        images, figures = self.output.images(), None
        if self.metrics is not None:
            figures = self.metrics(images, self.real, self.training, self.held_out)
        if idist.get_rank() == 0:
            self._write(engine, images, figures)
        idist.barrier()

    def _write(self, engine: Engine, images, figures: Mapping | None) -> None:
        folder, bundle = self.output.folder, self.bundle
        footer = f"{bundle['name']} {bundle['version']}   seed {self.config.get('seed', 0)}"
        write_preview(folder / "preview.png", self._panels(images), (-1, 1), footer)
        if figures is not None:
            content = {"protocol": self.protocol, "n": len(images), **figures}
            with written_aside(folder / "metrics.json") as aside:
                aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")
        report = write_report(
            folder / "report.json",
            bundle=bundle["name"],
            version=bundle["version"],
            weights_sha256=self.weights_sha256,
            config=self.config,
            seed=self.config.get("seed", 0),
            input=None,
            output={"files": [self.output.stack.name, "images"], "shape": images.shape, "dtype": str(images.dtype)},
            seconds=round(time.perf_counter() - self.started, 2),
            peak_rss_bytes=peak_rss_bytes(),
            peak_device_bytes=peak_device_bytes(engine.state.device),
            metrics=figures,
            synthetic=True,
        )
        self.output.finish()
        rows, columns = images.shape[1], images.shape[0]
        print(
            f"{bundle['name']} made {len(images)} synthetic images ({rows} x {columns} pixels): images/ and "
            f"{self.output.stack.name} in {folder}, in {in_time(report['seconds'])} and "
            f"{in_bytes(report['peak_rss_bytes'] or 0)} of memory.",
            flush=True,
        )

    def _panels(self, images) -> list[Panel]:
        panels = [Panel("samples (synthetic)", _sheet(images))]
        nearest = getattr(self.metrics, "nearest", None)
        if nearest is not None:
            found = [self.training[int(k)] for k in nearest[:SHOWN]]
            panels.append(Panel("nearest training image of each", _sheet(found)))
        if self.real is not None:
            every = max(1, len(self.real) // SHOWN)
            panels.append(Panel("real", _sheet([self.real[k] for k in range(0, len(self.real), every)][:SHOWN])))
        return panels


def _sheet(images) -> ArrayVolume:
    return ArrayVolume(montage(images, SHOWN))
