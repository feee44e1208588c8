"""Whole images for generators that start from noise: photographs, radiographs, slices of volumes, volumes.

Letters: C = channels, D = spatial axes, S = the shape that all images are brought to, N = images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Transform
from torch.utils.data import Dataset

from ..errors import InputError
from ..knobs import flag, whole_number
from ..levels import check_size
from ..volumes import ArrayVolume, Volume, first_line
from ..windows import robust_window, to_unit_range
from .datalists import list_cases
from .mri_slices import AxialSlices
from .pictures import read_colours
from .readers import PICTURES, open_volume

FITS = ("resize", "crop")
_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def image_cases(
    dataset_dir: str | None,
    section: str | None = "training",
    image_size: Sequence[int] = (128, 128),
    slices: Sequence[float] = (0.2, 0.8),
    slice_step: int = 1,
    cases_list: Sequence[Mapping] | None = None,
    subject: str | None = None,
    cache_dir: str | None = None,
    phantoms: int = 6,
) -> list[dict]:
    """Images of one section, each {"image": path or Volume, "name"}; in 2-D a volume gives its axial slices.

    Args:
        dataset_dir: folder of images (pictures, DICOM, NIfTI ...); None: axial slices of procedural thorax CTs.
        section: training, validation, or None for all.
        image_size: S; its length says what is wanted of volumes, slices or the whole.
        slices: shares of a volume's height between which slices are taken.
        slice_step: every n-th of them.
        cases_list, subject: see list_cases.
        cache_dir: where compressed volumes are unpacked; None: a new temporary folder.
        phantoms: how many volumes without dataset_dir; the last quarter is for validation.

    Raises:
        InputError: see list_cases; `slices` that are no rising shares; a 2-D image where volumes are wanted.
    """
    size = check_size(image_size)
    low, high = _shares(slices)
    step = whole_number(slice_step, "slice_step", 1)
    if dataset_dir is None and cases_list is None:
        cases_list = _phantoms(size, phantoms)
    folder = Path(cache_dir or tempfile.mkdtemp(prefix="hiresmed_"))
    listed = _in_sections(section, dataset_dir, cases_list, subject=subject)
    return [image for case in listed for image in _images_of(case, len(size), (low, high, step), folder)]


def _in_sections(section: str | None, *where, **how) -> list[dict]:
    """list_cases of one section, or (None) of all that are not empty."""
    if section is not None:
        return list_cases(where[0], section, *where[1:], **how)
    found, mistake = [], None
    for one in ("training", "validation", "test"):
        try:
            found += list_cases(where[0], one, *where[1:], **how)
        except InputError as error:
            mistake = error
    if not found and mistake is not None:
        raise mistake
    return found


def _phantoms(size: Sequence[int], count: int) -> list[dict]:
    shape = [*size, 16] if len(size) == 2 else list(size)
    held = max(1, count // 4)
    return [
        {"phantom": n, "shape": shape, "section": "validation" if n >= count - held else "training"}
        for n in range(whole_number(count, "phantoms", 2))
    ]


def _shares(slices: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in slices)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise InputError(
            f"slices should be two rising shares of a volume's height, such as [0.2, 0.8], but is {slices!r}; mend it."
        )
    return low, high


def _images_of(case: Mapping, dims: int, which: tuple[float, float, int], folder: Path) -> Iterator[dict]:
    image, name = case["image"], case["name"]
    if not isinstance(image, Volume) and str(image).lower().endswith(PICTURES):
        yield {"image": image, "name": name}  # not opened: there may be many thousands
        return
    volume = open_volume(image, folder)
    if len(volume.shape) == dims:
        yield {"image": volume, "name": name}
        return
    if dims != 2:
        raise InputError(
            f"{name} should be an image of {dims} axes as image_size has, but has shape {volume.shape}; leave it out, "
            "or change image_size."
        )
    if isinstance(image, Volume):  # a phantom is dear to read again for every slice
        volume = ArrayVolume(volume.read([0] * 3, volume.shape), volume.affine, volume.name)
    planes, window = AxialSlices(volume), robust_window(volume)
    low, high, step = which
    for k in range(round(low * len(planes)), max(round(high * len(planes)), round(low * len(planes)) + 1), step):
        yield {"image": planes, "slice": k, "window": window, "name": f"{name}_{k:03d}"}


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
        self.size, self.channels = check_size(image_size), whole_number(channels, "image_channels", 1)
        if self.channels not in (1, 3):
            raise InputError(f"image_channels should be 1 (grey) or 3 (colours), but is {channels}; choose one.")
        if fit not in FITS:
            raise InputError(f"fit should be resize or crop, but is {fit!r}; choose one of them.")
        self.intensity, self.fit = _checked_intensity(intensity), fit
        self.folder = Path(cache_dir or tempfile.mkdtemp(prefix="hiresmed_"))

    def __call__(self, case: Mapping) -> dict:
        values = self._colours(case) if self.channels == 3 else self._grey(case)
        if values.ndim - 1 != len(self.size):
            raise InputError(
                f"{case['name']} should have {len(self.size)} axes as image_size, but has {values.ndim - 1}; leave it "
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
                f"{case['name']} should be a PNG, JPEG or TIFF as image_channels is 3, but is another kind of image; "
                "set image_channels to 1."
            )
        values = read_colours(image)
        window = self._window(ArrayVolume(values, name=case["name"]))
        return np.moveaxis(to_unit_range(values, window), -1, 0).astype(np.float32)

    def _window(self, volume: Volume) -> tuple[float, float]:
        if self.intensity == "robust":
            return robust_window(volume)
        if self.intensity == "full":
            return 0.0, float(np.iinfo(volume.dtype).max) if volume.dtype.kind in "iu" else 1.0
        return self.intensity

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
            f"intensity should be robust, full, or two rising numbers, but is {intensity!r} ({first_line(error)}); "
            "change it."
        ) from error
    if not low < high:
        raise InputError(f"intensity should be two rising numbers, but is {intensity!r}; exchange them.")
    return low, high


class ShuffledImages(Dataset):
    """Endless batches of a dataset: `iterations` an epoch, each image as often as any other, mirrored by chance.

    A sample depends on (seed, epoch, place in the global batch) alone, so a resumed training sees what an
    uninterrupted one would, and processes share a global batch. ignite's and torch's samplers end an epoch with the
    images, which for sixteen of them is after two batches.

    Args:
        images: dataset of {"image": (C, *S), "name"}.
        iterations: batches an epoch.
        batch_size: global, over all processes.
        flip: mirror half of the images along their last axis.
        seed: of the whole training.
    """

    def __init__(
        self, images: Sequence, iterations: int, batch_size: int, flip: bool | str = True, seed: int = 0
    ) -> None:
        self.images, self.flip, self.seed, self.epoch = images, flag(flip, "flip"), whole_number(seed, "seed"), 1
        self.iterations = whole_number(iterations, "iterations", 1)
        self.batch_size = whole_number(batch_size, "batch_size", 1)
        processes = idist.get_world_size()
        if self.batch_size % processes:
            raise InputError(
                f"batch_size should be a multiple of the {processes} processes, but is {batch_size}; change it."
            )
        self.per_rank = self.batch_size // processes

    def __len__(self) -> int:
        return self.iterations * self.per_rank

    def set_epoch(self, epoch: int) -> None:
        """Other images: called by the seeding handler at each epoch's start."""
        self.epoch = epoch

    def number(self, index: int) -> int:
        """The sample's number in the whole training, over all processes and epochs."""
        batch, place = divmod(index, self.per_rank)
        return ((self.epoch - 1) * self.iterations + batch) * self.batch_size + idist.get_rank() * self.per_rank + place

    def __getitem__(self, index: int) -> dict:
        number = self.number(range(len(self))[index])
        turn, place = divmod(number, len(self.images))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.images))
        image = self.images[int(order[place])]["image"]
        mirrored = self.flip and np.random.default_rng([self.seed, number, 1]).random() < 0.5
        return {"image": image.flip(-1) if mirrored else image}


class LatentsOf(Dataset):
    """The latents (Z,) of cases {"latent", ...}, as {"latent"}: for evaluations that keep no images."""

    def __init__(self, cases: Sequence[Mapping]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict:
        return {"latent": self.cases[index]["latent"]}


class LatentPairs(Dataset):
    """Fixed latents beside real images, {"latent": (Z,), "image": (C, *S)}: what validation draws and compares.

    Args:
        images: dataset of {"image": (C, *S)}; taken in turn.
        latent_size: Z.
        count: pairs.
        seed: of the latents, which are the same at every validation.
    """

    def __init__(self, images: Sequence, latent_size: int, count: int, seed: int = 0) -> None:
        self.images = images
        generator = torch.Generator().manual_seed(whole_number(seed, "seed"))
        self.latents = torch.randn(whole_number(count, "count", 1), latent_size, generator=generator)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict:
        return {"latent": self.latents[index], "image": self.images[index % len(self.images)]["image"]}
