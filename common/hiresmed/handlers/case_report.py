"""What a run leaves beside its result: preview.png, report.json and a last line in words."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..memory import peak_device_bytes, peak_rss_bytes
from ..preview import Panel, write_preview
from ..report import last_line, write_report


class CaseReport:
    """Writes preview and report of each finished case and says in one line what was made.

    Args:
        output: the run's CaseOutput.
        bundle_root: the bundle's folder; its metadata.json gives name and version for the report.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        window: values shown as black and white in the preview.
        metrics: callable (result volume, source volume) -> dict, where the truth is known; None: none.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        window: Sequence[float] = (-1000.0, 600.0),
        metrics=None,
    ) -> None:
        self.output, self.config = output, dict(config)
        self.bundle = json.loads((pathlib.Path(bundle_root) / "configs" / "metadata.json").read_text())
        self.weights_sha256, self.window, self.metrics = weights_sha256, (float(window[0]), float(window[1])), metrics
        self.started = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self.started = time.perf_counter()

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        case, made = engine.state.batch, engine.state.output["pred"]
        folder = self.output.case_folder(case["name"])
        result = made.image
        given = made.source or made.sketch
        panels = [] if made.source is None else [Panel("input", made.source)]
        panels += [Panel("sketch", made.sketch, window=(0, 1)), Panel("result (synthetic)", result)]
        footer = f"{self.bundle['name']} {self.bundle['version']}   window {self.window[0]:g} to {self.window[1]:g}"
        write_preview(folder / "preview.png", panels, self.window, footer)
        metrics = None if self.metrics is None or made.source is None else self.metrics(result, made.source)
        engine.state.output["metrics"] = metrics
        report = write_report(
            folder / "report.json",
            bundle=self.bundle["name"],
            version=self.bundle["version"],
            weights_sha256=self.weights_sha256,
            config=self.config,
            seed=self.config.get("seed", 0),
            input={"file": given.name, "shape": given.shape, "spacing": given.spacing},
            output={"files": [self.output.final(case).name], "shape": result.shape, "dtype": str(result.dtype)},
            seconds=round(time.perf_counter() - self.started, 2),
            peak_rss_bytes=peak_rss_bytes(),
            peak_device_bytes=peak_device_bytes(engine.state.device),
            metrics=metrics,
            synthetic=True,
        )
        self.output.finish(case)
        print(last_line(report, folder), flush=True)
