"""What a run that draws from noise leaves beside its images: one preview.png, one report.json, a last line in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ...core.views import ResampledView
from ...core.volumes import ArrayVolume, Volume
from ...reports.preview import Panel, write_preview
from ...reports.report import last_line
from ...reports.run_report import RunReport

MOST_PANELS = 6
SHOWN = 512  # pixels of an image in the preview, at most


class GalleryReport(RunReport):
    """Writes preview and report of the whole run when all its cases are drawn; see CaseReport for one per case.

    Args:
        output: the run's SampleGallery.
        bundle_root: the bundle's folder; its metadata.json gives name and version for the report.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        window: values shown as black and white in the preview.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        window: Sequence[float] = (0.0, 65535.0),
    ) -> None:
        super().__init__(output, bundle_root, config, weights_sha256)
        self.window = (float(window[0]), float(window[1]))
        self.cases, self.panels, self.outputs = [], [], []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _case(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        case, made = engine.state.batch, engine.state.output["pred"]
        channels = [made.image] if isinstance(made.image, Volume) else list(made.image)
        # one large image stands beside a gallery: it is shown whatever its number
        if len(self.panels) < MOST_PANELS or case["name"].startswith("large"):
            self.panels = self.panels[: MOST_PANELS - 1]
            self.panels.append(Panel(case["name"], reduced(channels)))
        files, dtype = [self.output.final(case).name], str(channels[0].dtype)
        colours = [] if len(channels) == 1 else [len(channels)]
        self.outputs.append({"files": files, "shape": [*channels[0].shape, *colours], "dtype": dtype})
        self.cases.append(case)

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0 or not self.cases:
            return
        folder = self.output.folder
        footer = f"{self.bundle['name']} {self.bundle['version']}   synthetic   window {self.window[0]:g} to "
        write_preview(folder / "preview.png", self.panels, self.window, f"{footer}{self.window[1]:g}")
        report = self.write_report(folder, engine, output=self.outputs)
        for case in self.cases:  # only now, so that a run broken off before the report is one to resume
            self.output.finish(case)
        print(last_line(report, folder), flush=True)


def reduced(channels: Sequence[Volume], size: int = SHOWN) -> ArrayVolume:
    """A picture of an image, or of its channels' mean, in memory, at most `size` pixels an axis, same field of view."""
    shape = channels[0].shape
    scale = min(1.0, size / max(shape))
    views = [ResampledView(c, [max(1, round(n * scale)) for n in shape]) for c in channels]
    values = [np.asarray(v.read([0] * len(v.shape), v.shape), dtype=np.float32) for v in views]
    return ArrayVolume(np.mean(values, axis=0), views[0].affine)
