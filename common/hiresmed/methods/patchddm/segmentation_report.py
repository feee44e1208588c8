"""What a segmentation leaves beside its labels: preview.png, report.json and a last line in words."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ...core.volumes import ArrayVolume
from ...reports.preview import Panel, write_preview
from ...reports.report import last_line
from ...reports.run_report import RunReport


class SegmentationReport(RunReport):
    """Writes preview and report of each finished case and says in one line what was made.

    The planes of the preview go through the largest part of the result, not through the middle of the image.

    Args:
        output: the run's SegmentationOutput.
        bundle_root: the bundle's folder; its metadata.json gives name and version for the report.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        shown: channel of the image that the preview shows (3: FLAIR).
        metrics: callable (dict with pred, label, probability, variance, given) -> dict, where the truth is known.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        weights_sha256: str | None = None,
        shown: int = 3,
        metrics: Callable[[Mapping], dict] | None = None,
    ) -> None:
        super().__init__(output, bundle_root, config, weights_sha256)
        self.shown, self.metrics = shown, metrics

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        for case, made in zip(engine.state.batch, engine.state.output):
            self._case({**case, **made}, made, engine)

    def _case(self, case: Mapping, made: dict, engine: Engine) -> None:
        folder, labels = self.output.case_folder(case["name"]), np.asarray(case["pred"])[0]
        truth = case.get("label")
        if self.metrics is not None and truth is not None:
            made["metrics"] = self.metrics(case)
        given = ArrayVolume(np.asarray(case["given"][self.shown]), case["given"].meta["original_affine"], case["name"])
        write_preview(folder / "preview.png", self._panels(given, case, labels), footer=self._footer())
        report = self.write_report(
            folder,
            engine,
            input={"file": pathlib.Path(case["header"] or case["name"]).name, "shape": given.shape,
                   "spacing": given.spacing},
            output={"files": case["files"], "shape": labels.shape, "dtype": str(labels.dtype)},
            metrics=made.get("metrics"),
            synthetic=False,
        )  # fmt: skip
        self.output.finish(case)
        print(last_line(report, folder), flush=True)

    def _panels(self, given: ArrayVolume, case: Mapping, labels: np.ndarray) -> list[Panel]:
        uncertain = np.asarray(case["variance"]).max(0)
        # a standard deviation of 1/2, the largest there is, is drawn full
        heat = np.clip(2 * np.sqrt(np.clip(uncertain, 0, None)), 0, 0.999).astype(np.float32)
        truth = case.get("label")
        box = centred_box(labels if labels.any() else heat > heat.max() / 2)
        window = tuple(np.percentile(given.array, (0.5, 99.5)))
        window = window if window[1] > window[0] else None
        overlays = {"input": None, "result": labels, "uncertainty (standard deviation)": heat}
        if truth is not None:
            overlays["label"] = np.asarray(truth)[0].astype(np.uint8)
        image = _Shifted(given, box)
        return [
            Panel(title, image, None if o is None else _Shifted(ArrayVolume(o, given.affine), box), window=window)
            for title, o in overlays.items()
        ]

    def _footer(self) -> str:
        return f"{self.bundle['name']} {self.bundle['version']}   research only, not for diagnosis"


def centred_box(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel that planes should go through: per axis the fullest slice of the mask, or the middle if it is empty.

    >>> mask = np.zeros((5, 4, 3), bool)
    >>> mask[3, 1:3, 0] = True
    >>> centred_box(mask), centred_box(mask & False)
    ((3, 1, 0), (2, 2, 1))
    """
    if not mask.any():
        return tuple(n // 2 for n in mask.shape)
    axes = range(mask.ndim)
    return tuple(int((mask != 0).sum(axis=tuple(b for b in axes if b != a)).argmax()) for a in axes)


class _Shifted:
    """A volume whose middle planes, as write_preview reads them, are those through `centre`."""

    def __init__(self, volume: ArrayVolume, centre: Sequence[int]) -> None:
        self.volume, self.centre, self.shape, self.affine = volume, tuple(centre), volume.shape, volume.affine

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        # a plane is asked for as one voxel thick at the middle of the axis that it lies across
        across = [m == 1 and s == n // 2 for s, m, n in zip(start, shape, self.shape)]
        start = [c if a else s for c, a, s in zip(self.centre, across, start)]
        return self.volume.read(start, shape)
