"""Any image brought to one grid and range: pictures, radiographs, slices, volumes.

Letters: C = channels, S = the shape that all images are brought to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import CacheDataset
from monai.transforms import Transform

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.output_files import scratch_folder
from ..core.progress import Counted
from ..core.tiles import check_size
from ..core.volumes import ArrayVolume, Volume, first_line
from ..core.windows import robust_window, to_unit_range
from ..io.pictures import read_colours
from ..io.readers import PICTURES, open_volume
from .mri_slices import AxialSlices
from .whole_images import image_cases

FITS = ("resize", "crop")
_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ReadImage(Transform):
    """A case of image_cases -> {"image": (C, *S) float32 in [-1, 1], "name"}, by the means of areas.

    MONAI's LoadImage turns pictures' rows into columns and gives palettes and CMYK as raw numbers.

    Args:
        image_size: S.
        channels: 1 (colours become luma) or 3 (pictures only).
        intensity: "robust": each image (volume) between its 0.5th and 99.5th percentile; "full": from 0 to the
            greatest value of its type, as for photographs; or two numbers in its own units, such as [-1000, 400] HU.
        fit: "resize" to S whatever the proportions, as the papers do, or "crop" the largest middle part of S's
            proportions first.

    Raises:
        InputError: unknown settings; a file that cannot be read, has other axes or no colours where they are wanted.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        channels: int = 1,
        intensity: str | Sequence[float] = "robust",
        fit: str = "resize",
        cache_dir: str | None = None,
    ) -> None:
        self.size = check_size(image_size)
        self.channels = parse_int(channels, "image_channels", 1)
        if self.channels not in (1, 3):
            raise InputError(f"image_channels must be 1 (grey) or 3 (colours), got {channels}; choose one.")
        if fit not in FITS:
            raise InputError(f"fit must be resize or crop, got {fit!r}; choose one of them.")
        self.intensity = _checked_intensity(intensity)
        self.fit = fit
        self.folder = Path(cache_dir) if cache_dir else scratch_folder()

    def __call__(self, case: Mapping) -> dict:
        values = self._colours(case) if self.channels == 3 else self._grey(case)
        if values.ndim - 1 != len(self.size):
            raise InputError(
                f"{case['name']} must have {len(self.size)} axes as image_size, got {values.ndim - 1}; leave it "
                "out, or change image_size."
            )
        return {"image": self._fitted(torch.from_numpy(np.ascontiguousarray(values))), "name": case["name"]}

    def _grey(self, case: Mapping) -> np.ndarray:
        image = case["image"]
        if "slice" in case:
            values = image[case["slice"]]
            window = case["window"] if self.intensity == "robust" else self._window(ArrayVolume(values))
        else:
            volume = open_volume(image, self.folder)
            values = volume.read([0] * len(volume.shape), volume.shape)
            window = self._window(ArrayVolume(values, name=case["name"]))
        return to_unit_range(values, window)[None].astype(np.float32)

    def _colours(self, case: Mapping) -> np.ndarray:
        image = case["image"]
        if isinstance(image, (Volume, AxialSlices)) or not str(image).lower().endswith(PICTURES):
            raise InputError(
                f"{case['name']} must be a PNG, JPEG or TIFF as image_channels is 3, got another kind of image; "
                "set image_channels to 1."
            )
        values = read_colours(image)
        window = self._window(ArrayVolume(values, name=case["name"]))
        return np.moveaxis(to_unit_range(values, window), -1, 0).astype(np.float32)

    def _window(self, volume: Volume) -> tuple[float, float]:
        if not isinstance(self.intensity, str):
            return self.intensity
        if self.intensity == "robust":
            return robust_window(volume)
        return 0.0, float(np.iinfo(volume.dtype).max) if volume.dtype.kind in "iu" else 1.0

    def _fitted(self, image: torch.Tensor) -> torch.Tensor:
        if self.fit == "crop":
            scale = min(n / m for n, m in zip(image.shape[1:], self.size))
            sides = [min(n, max(1, round(scale * m))) for n, m in zip(image.shape[1:], self.size)]
            image = image[
                (slice(None), *(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(image.shape[1:], sides)))
            ]
        for axis, n in enumerate(self.size, start=1):  # an axis too short is interpolated, the others averaged
            if image.shape[axis] < n:
                shape = [n if a == axis else m for a, m in enumerate(image.shape) if a > 0]
                image = F.interpolate(image[None], shape, mode=_SMOOTH[len(shape)], align_corners=False)[0]
        return image if tuple(image.shape[1:]) == self.size else F.interpolate(image[None], self.size, mode="area")[0]


def _checked_intensity(intensity) -> str | tuple[float, float]:
    if intensity in ("robust", "full"):
        return intensity
    try:
        low, high = (float(v) for v in intensity)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"intensity must be robust, full, or two rising numbers, got {intensity!r} ({first_line(error)}); "
            "change it."
        ) from error
    if not low < high:
        raise InputError(f"intensity must be two rising numbers, got {intensity!r}; exchange them.")
    return low, high


def image_dataset(
    section: str | None,
    dataset_dir: str | None,
    image_size: Sequence[int],
    channels: int = 1,
    intensity: str | Sequence[float] = "robust",
    fit: str = "resize",
    slices: Sequence[float] = (0.2, 0.8),
    slice_step: int = 1,
    cases_list: Sequence[Mapping] | None = None,
    subject: str | None = None,
    split: str = "name",
    cache_dir: str | None = None,
    cache_num: int = 0,
) -> CacheDataset:
    """One section's images, {"image": (C, *S) float32 in [-1, 1], "name"}; at most `cache_num` are kept in memory.

    Arguments: see whole_images.image_cases and ReadImage.
    """
    cases = image_cases(
        dataset_dir, section, image_size, slices, slice_step, cases_list, subject, cache_dir, split=split
    )
    read = ReadImage(image_size, channels, intensity, fit, cache_dir)
    title = f"{section or 'listed'} images"
    with Counted(cases, title, min(cache_num, len(cases))) as counted:
        return CacheDataset(counted, read, cache_num=cache_num, progress=False, copy_cache=False)
