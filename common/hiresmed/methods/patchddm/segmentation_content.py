"""What preview and report show of a segmented case: image, labels, uncertainty and, where it is known, the truth."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ...core.volumes import ArrayVolume
from ...reports.case_report import CaseContent
from ...reports.preview import Panel


class SegmentationContent:
    """A case of SegmentationOutput with its results -> CaseContent; the truth is (case,), where it has a label.

    The planes of the preview go through the largest part of the result, not through the middle of the image.

    Args:
        channel: of the image, that the preview shows (3: FLAIR).
    """

    def __init__(self, channel: int = 3) -> None:
        self.channel = channel

    def __call__(self, case: Mapping) -> CaseContent:
        labels = np.asarray(case["pred"])[0]
        values = np.asarray(case["given"][self.channel])
        image = ArrayVolume(values, case["given"].meta["original_affine"], case["name"])
        file = pathlib.Path(case["header"] or case["name"]).name
        return CaseContent(
            panels=self._panels(image, case, labels),
            input={"file": file, "shape": image.shape, "spacing": image.spacing},
            output={"files": case["files"], "shape": labels.shape, "dtype": str(labels.dtype)},
            truth=None if case.get("label") is None else (case,),
            footer="research only, not for diagnosis",
            synthetic=False,
            sequences=case["given"].meta.get("sequences"),
        )

    def _panels(self, image: ArrayVolume, case: Mapping, labels: np.ndarray) -> list[Panel]:
        variance = np.asarray(case["variance"]).max(0)
        # a standard deviation of 1/2, the largest there is, is drawn full
        heat = np.clip(2 * np.sqrt(np.clip(variance, 0, None)), 0, 0.999).astype(np.float32)
        overlays = {"input": None, "result": labels, "uncertainty (standard deviation)": heat}
        truth = case.get("label")
        if truth is not None:
            overlays["label"] = np.asarray(truth)[0].astype(np.uint8)
        low, high = np.percentile(image.array, (0.5, 99.5))
        window = (low, high) if high > low else None
        centre = centred_box(labels if labels.any() else heat > heat.max() / 2)
        shifted = _Shifted(image, centre)
        panels = []
        for title, values in overlays.items():
            overlay = None if values is None else _Shifted(ArrayVolume(values, image.affine), centre)
            panels.append(Panel(title, shifted, overlay, window=window))
        return panels


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
