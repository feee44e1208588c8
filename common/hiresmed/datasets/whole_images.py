"""Whole images for generators that start from noise: photographs, radiographs, slices of volumes, volumes.

Letters: S = the shape that all images are brought to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.output_files import scratch_folder
from ..core.progress import with_progress
from ..core.tiles import check_size
from ..core.volumes import ArrayVolume, Volume
from ..core.windows import robust_window
from ..io.readers import PICTURES, open_volume
from .datalists import list_cases
from .mri_slices import AxialSlices


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
    split: str = "name",
) -> list[dict]:
    """Images of one section, each {"image": path or Volume, "name", "subject", "source": what it was read from}.

    In 2-D a volume gives its axial slices.

    Args:
        dataset_dir: folder of images (pictures, DICOM, NIfTI ...); None: axial slices of procedural thorax CTs.
        section: training, validation, test (with split: tenths), or None for all.
        image_size: S; its length says what is wanted of volumes, slices or the whole.
        slices: shares of a volume's height between which slices are taken.
        slice_step: every n-th of them.
        cases_list, subject, split: see list_cases.
        cache_dir: where compressed volumes are unpacked; None: a new temporary folder.
        phantoms: how many volumes without dataset_dir; the last quarter is for validation.

    Raises:
        InputError: see list_cases; `slices` that are no rising shares; a 2-D image where volumes are wanted.
    """
    size = check_size(image_size)
    low, high = _shares(slices)
    step = parse_int(slice_step, "slice_step", 1)
    if dataset_dir is None and cases_list is None:
        cases_list = _phantoms(size, phantoms)
    folder = Path(cache_dir) if cache_dir else scratch_folder()
    listed = _in_sections(section, dataset_dir, cases_list, subject=subject, split=split)
    opened = with_progress(listed, f"{section or 'listed'} files")
    return [
        image | {"subject": case["subject"], "source": case["image"]}
        for case in opened
        for image in _images_of(case, len(size), (low, high, step), folder)
    ]


def _in_sections(section: str | None, *where, **how) -> list[dict]:
    """list_cases of one section, or (None) of all that are not empty."""
    if section is not None:
        return list_cases(where[0], section, *where[1:], **how)
    listed = []
    mistake = None
    for one in ("training", "validation", "test"):
        try:
            listed += list_cases(where[0], one, *where[1:], **how)
        except InputError as error:
            mistake = error
    if not listed and mistake is not None:
        raise mistake
    return listed


def _phantoms(size: Sequence[int], count: int) -> list[dict]:
    shape = [*size, 16] if len(size) == 2 else list(size)
    validating = max(1, count // 4)
    return [
        {"phantom": n, "shape": shape, "section": "validation" if n >= count - validating else "training"}
        for n in range(parse_int(count, "phantoms", 2))
    ]


def _shares(slices: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in slices)
    except (TypeError, ValueError):
        low = 1.0
        high = 0.0
    if not 0 <= low < high <= 1:
        raise InputError(
            f"slices must be two rising shares of a volume's height, such as [0.2, 0.8], got {slices!r}; change it."
        )
    return low, high


def _images_of(case: Mapping, dims: int, which: tuple[float, float, int], folder: Path) -> Iterator[dict]:
    image = case["image"]
    name = case["name"]
    if not isinstance(image, Volume) and str(image).lower().endswith(PICTURES):
        yield {"image": image, "name": name}  # not opened: there may be many thousands
        return
    volume = open_volume(image, folder)
    if len(volume.shape) == dims:
        yield {"image": volume, "name": name}
        return
    if dims != 2:
        raise InputError(
            f"{name} must be an image of {dims} axes as image_size has, got shape {volume.shape}; leave it out, "
            "or change image_size."
        )
    if isinstance(image, Volume):  # a phantom is dear to read again for every slice
        volume = ArrayVolume(volume.read([0] * 3, volume.shape), volume.affine, volume.name)
    planes = AxialSlices(volume)
    window = robust_window(volume)
    low, high, step = which
    for k in range(round(low * len(planes)), max(round(high * len(planes)), round(low * len(planes)) + 1), step):
        yield {"image": planes, "slice": k, "window": window, "name": f"{name}_{k:03d}"}
