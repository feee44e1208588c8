"""What preview and report show of an image that a cascade generated from a sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...reports.case_report import CaseContent
from ...reports.preview import Panel


class RenderingContent:
    """A case with the Rendering "pred" and its "file" -> CaseContent: input, sketch and result side by side.

    The truth is (result, input), where there is an input image.

    Args:
        window: values shown as black and white.
    """

    def __init__(self, window: Sequence[float] = (-1000.0, 600.0)) -> None:
        low, high = window
        self.window = (float(low), float(high))

    def __call__(self, case: Mapping) -> CaseContent:
        rendering = case["pred"]
        result = rendering.image
        source = rendering.source or rendering.sketch
        panels = [] if rendering.source is None else [Panel("input", rendering.source)]
        panels.append(Panel("sketch", rendering.sketch, window=(0, 1)))
        panels.append(Panel("result (synthetic)", result))
        return CaseContent(
            panels=panels,
            input={"file": source.name, "shape": source.shape, "spacing": source.spacing},
            output={"files": [Path(case["file"]).name], "shape": result.shape, "dtype": str(result.dtype)},
            truth=None if rendering.source is None else (result, rendering.source),
            window=self.window,
            footer=f"window {self.window[0]:g} to {self.window[1]:g}",
        )
