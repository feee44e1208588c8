"""The first preprocessing step of inference: what is marked for streaming stays on disk, all else becomes a tensor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from monai.config import KeysCollection
from monai.transforms import LoadImage, MapTransform


class LoadImageStreamd(MapTransform):
    """Opens a case's files as volumes that are read box by box, or loads them as MONAI does.

    A dict with a "name" comes from the run's own case list and is streamed: each key becomes a volume, and the output
    is checked before any work. A bare path (MONAI Label, a notebook) becomes a MetaTensor (1, *S).

    Args:
        keys: image, sketch, mask; those that are missing are passed over.
        output: a hiresmed.data.CaseOutput.
        size: output grid if it is not the input's own.
    """

    def __init__(self, keys: KeysCollection, output, size=None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.output, self.size = output, size

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        case = dict(data)
        if "name" not in case:
            load = LoadImage(image_only=True, ensure_channel_first=True)  # made when needed: it registers all readers
            return case | {key: load(case[key]) for key in self.key_iterator(case)}
        shape = None
        for key in self.key_iterator(case):
            case[key] = self.output.open(case[key], case["name"])
            shape = shape or case[key].shape
        self.output.check(case, self.size or shape)
        return case
