"""The first preprocessing step of inference: what is marked for streaming stays on disk, all else becomes a tensor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from ..core.errors import InputError
from ..core.input_files import check_openable
from ..core.views import as_picture
from ..core.volumes import ArrayVolume, NiftiVolume, Volume
from ..core.windows import WindowedView, robust_window
from .dicom import dicom_files, is_dicom, open_series
from .itk_headers import METAIMAGE, NRRD, data_files

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
ITK_FORMATS = (*NRRD, *METAIMAGE)
VOLUMES = (".nii", ".nii.gz", *ITK_FORMATS)


class LoadImageStreamd(MapTransform):
    """Opens a case's files as volumes that are read box by box, or loads them as MONAI does.

    A dict with a "name" comes from the run's own case list and is streamed: each key becomes a volume, and the output
    is checked before any work. A bare path (MONAI Label, a notebook) becomes a MetaTensor (1, *S), a picture's axes
    being rows and columns as in a stream.

    Args:
        keys: image, sketch, mask; those that are missing are passed over.
        output: a hiresmed.io.CaseOutput.
        size: output grid if it is not the input's own.
        intensity: None leaves values as they are; "robust" shows the key "image" (no sketch, no mask) as 0 ... 65535
            between its 0.5th and 99.5th percentile, see hiresmed.core.windows.robust_window.
        kind: a hiresmed.io.image_kind.ImageKind, which the key "image" is checked by; what it returns becomes
            "air_told". None: no check.

    Raises:
        InputError: another intensity; an image that is certainly not of the kind.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output,
        size=None,
        intensity: str | None = None,
        kind: Callable[[Any, Volume], bool] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if intensity not in (None, "robust"):
            raise InputError(f"intensity must be robust or null, got {intensity!r}; choose one of them.")
        self.output = output
        self.size = size
        self.intensity = intensity
        self.kind = kind

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        if "name" not in case:
            return case | {key: self._shown(key, self._requested(key, case[key])) for key in self.key_iterator(case)}
        if "refused" in case:
            raise InputError(str(case["refused"]))
        try:
            self._open(case)
        except InputError:
            self.output.discard(case["name"])
            raise
        if self.intensity and "image" in case:
            case["image"] = WindowedView(case["image"], robust_window(case["image"]))
        return case

    def _open(self, case: dict) -> None:
        """The case's files as volumes, checked."""
        shape = None
        for key in self.key_iterator(case):
            source = case[key]
            case[key] = self.output.open(source, case["name"])
            if key == "image" and self.kind is not None:
                case["air_told"] = self.kind(source, case[key])
            shape = shape or case[key].shape
        self.output.check(case, self.size or shape)

    def _requested(self, key: Hashable, path) -> torch.Tensor:
        """A server's or a notebook's image, checked as those of a run are."""
        if isinstance(path, str | Path) and (dicom_files(Path(path)) if Path(path).is_dir() else is_dicom(Path(path))):
            open_series(path)  # MONAI's reader fills in what a header lacks
        if isinstance(path, str | Path):
            check_openable(Path(path))
            if str(path).lower().endswith(ITK_FORMATS):
                data_files(Path(path))
            elif str(path).lower().endswith((".nii", ".nii.gz", ".hdr")) and Path(path).is_file():
                NiftiVolume(path, header_only=True)  # MONAI's reader settles doubts about the header without a word
        image = self._tensor(path)
        if key == "image" and self.kind is not None:
            values = image.numpy()[0]
            told = self.kind(path, ArrayVolume(values, getattr(image, "affine", None), Path(str(path)).name))
            if isinstance(image, MetaTensor):
                image.meta["air_told"] = told
        return image

    def _tensor(self, path) -> torch.Tensor:
        """MONAI reads volumes; but of pictures it makes columns of rows, drops the spacing, and keeps colours."""
        if Path(str(path)).suffix.lower() in PICTURES:
            return self._picture(self.output.open(path, "picture"))
        image = LoadImage(image_only=True, ensure_channel_first=True)(path)  # here, as it registers all readers
        if image.ndim > 3 and image.shape[-1] > 1:
            return image
        # one slice, of which MONAI makes columns and rows, or a volume
        if not str(path).lower().endswith(VOLUMES):
            return self._picture(self.output.open(path, "picture"))
        values = image.numpy().reshape(image.shape[1:3])
        return self._picture(as_picture(ArrayVolume(values, image.affine)))

    def _picture(self, picture: Volume) -> torch.Tensor:
        """A 2-D image as (1, rows, columns)."""
        values = np.ascontiguousarray(picture.read((0, 0), picture.shape)[None].astype("float32"))
        return MetaTensor(values, affine=torch.as_tensor(picture.affine))

    def _shown(self, key: Hashable, image: torch.Tensor) -> torch.Tensor:
        """A loaded image (C, *S) through its window, each channel through its own."""
        if not self.intensity or key != "image":
            return image
        windowed = image.clone()
        for channel in windowed:
            volume = ArrayVolume(channel.numpy(), name=str(key))
            view = WindowedView(volume, robust_window(volume))
            channel[...] = torch.from_numpy(view.read([0] * channel.ndim, view.shape).astype("float32"))
        return windowed
