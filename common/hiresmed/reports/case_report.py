"""What a run leaves beside its result: preview.png, report.json and a last line in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ignite.distributed as idist
from ignite.engine import Engine, Events

from .preview import Panel, write_preview
from .report import last_line
from .run_report import RunReport


class CaseReport(RunReport):
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
        super().__init__(output, bundle_root, config, weights_sha256)
        self.window, self.metrics = (float(window[0]), float(window[1])), metrics

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

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
        report = self.write_report(
            folder,
            engine,
            input={"file": given.name, "shape": given.shape, "spacing": given.spacing},
            output={"files": [self.output.final(case).name], "shape": result.shape, "dtype": str(result.dtype)},
            metrics=metrics,
        )
        self.output.finish(case)
        print(last_line(report, folder), flush=True)
