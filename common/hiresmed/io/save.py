"""The last postprocessing step of inference: what was made becomes files in the input's geometry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform


class SaveImageStreamd(MapTransform):
    """Writes a Rendering box by box through the run's CaseOutput; adds "file", the path of the result.

    MONAI's SaveImage needs the whole array. Tensors (MONAI Label saves its own) pass through.

    Args:
        keys: pred.
        output: a hiresmed.io.CaseOutput.
    """

    def __init__(self, keys: KeysCollection, output) -> None:
        super().__init__(keys)
        self.output = output

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            rendering = case[key]
            if hasattr(rendering, "levels"):
                case["file"] = self.output.save(case, rendering.image, rendering.whole)
        return case


class SaveImageSegmentedd(MapTransform):
    """Writes a segmented case's labels, probability and variance through the run's output; adds "files", their names.

    MONAI's SaveImage writes one tensor, and that under its final name from the first byte on. Dicts that are not of
    the output's own cases (MONAI Label saves its own) pass through.

    Args:
        keys: pred, the labels (1, *S).
        output: a hiresmed.methods.patchddm.SegmentationOutput.
        maps: keys of further maps (R, *S) to write, one file a region.
    """

    def __init__(self, keys: KeysCollection, output, maps: Sequence[str] = ("probability", "variance")) -> None:
        super().__init__(keys)
        self.output, self.maps = output, tuple(maps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            if "format" in case:
                case["files"] = self.output.save_maps(case, case[key], {name: case[name] for name in self.maps})
        return case
