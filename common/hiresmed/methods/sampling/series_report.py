"""What a run of samples leaves beside them: preview.png, report.json, metrics.json and a last line in words."""

from __future__ import annotations

from collections.abc import Mapping

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ...core.in_words import in_bytes, in_time
from ...reports.preview import Panel, write_preview
from ...reports.run_report import RunReport
from .set_comparison import SetComparison, sheet


class SeriesReport(RunReport):
    """When all images are made: stack, preview, report, and the line on stdout; with `comparison`, figures.

    Args:
        output: the run's SampleSeries.
        bundle_root: the bundle's folder; its metadata.json gives name and version.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        comparison: what they are compared with; None: nothing.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        comparison: SetComparison | None = None,
    ) -> None:
        super().__init__(output, bundle_root, config, weights_sha256)
        self.comparison = comparison

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        idist.barrier()  # all images of all processes lie there
        images = self.output.images()
        figures = None if self.comparison is None else self.comparison(images)
        if idist.get_rank() == 0:
            self._write(engine, images, figures)
        idist.barrier()

    def _write(self, engine: Engine, images, figures: Mapping | None) -> None:
        folder, bundle = self.output.folder, self.bundle
        footer = f"{bundle['name']} {bundle['version']}   seed {self.about['seed']}"
        panels = [Panel("samples (synthetic)", sheet(images))]
        if figures is not None:
            panels += self.comparison.panels()
            self.comparison.write(folder, figures, len(images), **self.about)
        write_preview(folder / "preview.png", panels, (-1, 1), footer)
        report = self.write_report(
            folder,
            engine,
            input=None,
            output={"files": [self.output.stack.name, "images"], "shape": images.shape, "dtype": str(images.dtype)},
            metrics=figures,
        )
        self.output.finish()
        rows, columns = images.shape[1], images.shape[0]
        print(
            f"{bundle['name']} made {len(images)} synthetic images ({rows} x {columns} pixels): images/ and "
            f"{self.output.stack.name} in {folder}, in {in_time(report['seconds'])} and "
            f"{in_bytes(report['peak_rss_bytes'] or 0)} of memory.",
            flush=True,
        )
