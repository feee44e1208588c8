"""The first preprocessing step of runs that draw from noise."""

from __future__ import annotations

from collections.abc import Mapping

from monai.transforms import Transform


class CheckSampled(Transform):
    """Passes a case {"name", "latent", "frame"} on once its output folder and format are checked.

    Args:
        output: a hiresmed.methods.sampling.SampleGallery.
    """

    def __init__(self, output) -> None:
        self.output = output

    def __call__(self, case: Mapping) -> dict:
        if "frame" in case:  # not so what a server asks for, which goes to no file of ours
            self.output.check(case, case["frame"].shape)
        return dict(case)
