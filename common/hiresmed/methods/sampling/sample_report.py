"""What a run that generates from noise leaves beside its images: preview, report, and figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from ...core.views import RegionView, ResampledView
from ...core.volumes import ArrayVolume, Volume
from ...core.windows import to_unit_range
from ...reports.preview import Panel
from ...reports.run_report import RunReport
from .sample_folder import SampleFolder, SampleImages
from .set_comparison import SHOWN, SetComparison, in_words, sheet

THUMBNAIL = 512  # pixels along an axis of an image in the preview, at most


class SampleReport(RunReport):
    """Writes preview and report when all samples exist, and says in one line what was generated.

    Args:
        output: the run's SampleFolder.
        bundle_root: the bundle's folder; its metadata.json gives name and version.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        comparison: with a set of real images; None: none.
    """

    output: SampleFolder

    def __init__(
        self,
        output: SampleFolder,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        comparison: SetComparison | None = None,
    ) -> None:
        super().__init__(output, bundle_root, config, weights_sha256)
        self.comparison = comparison

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        idist.barrier()  # the images of all processes are written
        samples = self.output.samples
        # an additional large image is no part of the set
        alike = [sample for sample in samples if sample["shape"] == samples[0]["shape"]]
        images = SampleImages(self.output, alike)
        metrics = None if self.comparison is None else self.comparison(images)
        if idist.get_rank() == 0:
            self._write(engine, alike, metrics)
        idist.barrier()

    def _write(self, engine: Engine, alike: Sequence[Mapping], metrics: Mapping | None) -> None:
        output = self.output
        title = "samples (synthetic)" if len(alike) <= SHOWN else f"{SHOWN} of {len(alike)} samples (synthetic)"
        panels = [Panel(title, sheet([self._thumbnail(sample) for sample in alike[:SHOWN]]))]
        for sample in output.samples:
            if sample["shape"] != alike[0]["shape"]:
                panels.append(Panel(sample["name"], self._thumbnail(sample).mean(0).numpy()))
        if metrics is not None and self.comparison is not None:
            panels += self.comparison.panels()
            self.comparison.write(output.folder, metrics, len(alike), **self.about)
        low, high = output.window
        self.publish(
            output.folder,
            engine,
            panels,
            (-1.0, 1.0),
            f"seed {self.about['seed']}   synthetic   window {low:g} to {high:g}",
            output=[self._entry(sample) for sample in output.samples],
            metrics=metrics,
        )
        output.finish_run()  # only now, so that a run interrupted before its report is one to resume
        if metrics is not None and self.comparison is not None:
            print(in_words(metrics, len(alike), len(self.comparison.real), output.folder), flush=True)

    def _entry(self, sample: Mapping) -> dict:
        """A sample's file, shape and dtype for the report."""
        volumes = self.output.volumes(sample)
        colours = [] if len(volumes) == 1 else [len(volumes)]
        return {
            "files": [self.output.final(sample).name],
            "shape": [*volumes[0].shape, *colours],
            "dtype": self.output.dtype,
        }

    def _thumbnail(self, sample: Mapping) -> torch.Tensor:
        """A sample in [-1, 1] (C, rows, columns), reduced to THUMBNAIL; of a volume the middle plane."""
        planes = [reduced(volume) for volume in self.output.volumes(sample)]
        return torch.from_numpy(to_unit_range(np.stack([plane.array for plane in planes]), self.output.window))


def reduced(volume: Volume, size: int = THUMBNAIL) -> ArrayVolume:
    """An image, or a volume's middle plane across its first axis, in memory, at most `size` pixels along an axis."""
    if len(volume.shape) == 3:
        middle = volume.shape[0] // 2
        volume = RegionView(volume, [(middle, middle + 1), *((0, n) for n in volume.shape[1:])])
    scale = min(1.0, size / max(volume.shape))
    view = ResampledView(volume, [max(1, round(n * scale)) for n in volume.shape])
    values = np.asarray(view.read([0] * len(view.shape), view.shape), dtype=np.float32)
    return ArrayVolume(values.reshape(values.shape[-2:]), name=volume.name)
