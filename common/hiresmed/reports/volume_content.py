"""What preview and report show of an image that a network made from an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .case_report import CaseContent
from .preview import Panel


class VolumeContent:
    """A case with the StreamedImage "pred" and its "file" -> CaseContent: input and result side by side.

    The truth is (result, input), for metrics that compare the two.

    Args:
        window: values shown as black and white.
        title: of the result.
        synthetic: the result is an image that a network generated.
    """

    def __init__(
        self, window: Sequence[float] = (-1000.0, 600.0), title: str = "result", synthetic: bool = True
    ) -> None:
        low, high = window
        self.window = (float(low), float(high))
        self.title = title
        self.synthetic = synthetic

    def __call__(self, case: Mapping) -> CaseContent:
        result = case["pred"].image
        source = case["pred"].source
        return CaseContent(
            panels=[Panel("input", source), Panel(self.title, result)],
            input={"file": source.name, "shape": source.shape, "spacing": source.spacing},
            output={"files": [Path(case["file"]).name], "shape": result.shape, "dtype": str(result.dtype)},
            truth=(result, source),
            window=self.window,
            footer=f"window {self.window[0]:g} to {self.window[1]:g}",
            synthetic=self.synthetic,
        )
