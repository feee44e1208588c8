"""Listed cases -> the pyramids and sketches from which the multi-scale GAN learns, in memory or in a cache."""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import ignite.distributed as idist
import numpy as np

from ...core.errors import InputError
from ...core.progress import with_progress
from ...core.tiles import check_region
from ...core.views import RegionView, ResampledView
from ...core.volumes import ArrayVolume, NiftiVolume, Volume, content_digest, real_world_cast
from ...core.windows import FULL, WindowedView, robust_window, to_unit_range
from ...datasets.datalists import list_cases
from ...io.image_kind import ImageKind, KindOfSet
from ...io.readers import open_volume, source_stamps
from ...io.writers import write_nifti
from .patches import PreparedCase, prepare_case, stored_dtype


def training_cases(
    dataset_dir: str | None,
    section: str,
    network,
    sketcher,
    window: Sequence[float] = (-1024.0, 1024.0),
    base_size: int = 32,
    cache_dir: str | None = None,
    cases_list: Sequence[Mapping] | None = None,
    phantoms: int = 12,
    intensity: str | None = None,
    phantom: str | None = None,
    subject: str | None = None,
    base_crops: Sequence[float] = (),
    kind: ImageKind | None = None,
) -> list[PreparedCase]:
    """Prepared cases of one section: pyramids and sketches of every image.

    Args:
        network: the generator (its factor and spatial_dims are read).
        sketcher: as at inference.
        cache_dir: where pyramids are kept (made once, memory does not grow with the dataset); None keeps them in RAM.
        intensity: None: values as they are. "robust": each image through its own percentiles as uint16, as at
            inference (LoadImageStreamd's window); `window` is then 0 ... 65535, and MultiScalePatches needs the same.
        phantom: kind of phantoms; None: thorax for a 3-D network, xray for a 2-D one.
        base_crops: shares of an image's sides, each in (0, 1]: the boxes of that share in the corners of every image
            of the training section teach the base stage, too. It sees a whole image at once, so few images are few
            examples; these are shifted and larger.

        kind: what each image is checked by when it is read (not again from `cache_dir`); what makes doubtful that it is
            of that kind is warned of once. None: no check.

    Other arguments: see list_cases and MultiScalePatches.

    Raises:
        InputError: see list_cases; a share outside (0, 1]; an image that is certainly of another kind.
    """
    if intensity not in (None, "robust"):
        raise InputError(f"intensity must be robust or null, got {intensity!r}; choose one of them.")
    encode = partial(to_unit_range, window=window if intensity is None else (0.0, float(FULL)))
    phantom = phantom or ("xray" if network.spatial_dims == 2 else "thorax")
    shares = [_share(s) for s in base_crops] if section == "training" else []
    prepared = []
    look = KindOfSet(kind)
    cases = list_cases(dataset_dir, section, cases_list, phantoms, phantom, subject)
    for case in with_progress(cases, f"{section} cases"):
        folder = None
        if cache_dir is not None:
            sketch = (type(sketcher).__name__, sorted(vars(sketcher).items()))
            digest = _digest(case, intensity, encode, sketch, base_size, network.factor)
            folder = pathlib.Path(cache_dir) / f"{case['name']}_{digest}"
        volume = _volume(case, folder, intensity, look)
        if len(volume.shape) != network.spatial_dims:
            raise InputError(
                f"{case['name']} must have {network.spatial_dims} spatial axes as the network, got shape "
                f"{volume.shape}; leave it out of the training."
            )
        prepared_case = prepare_case(volume, sketcher, encode, network.factor, base_size, folder)
        prepared_case.stages = case.get("stages")
        prepared_case.weight = case.get("weight", 1.0)
        prepared_case.source = case["image"]
        prepared.append(prepared_case)
        if prepared_case.stages is None or 0 in prepared_case.stages:
            small = [_reduced(RegionView(volume, box), 4 * base_size) for box in _corners(volume.shape, shares)]
            crops = [prepare_case(v, sketcher, encode, network.factor, base_size, None) for v in small]
            prepared += [replace(crop, stages=[0]) for crop in crops]
    if idist.get_rank() == 0:
        look.tell(f"{section} images")
    return prepared


def _share(share) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise InputError(
            f"base_crops must be shares of an image's sides, above 0 and at most 1, got {share!r}; change it."
        )
    return float(share)


def _corners(shape: Sequence[int], shares: Sequence[float]) -> Iterator[list[tuple[int, int]]]:
    """The boxes in an image's corners that have these shares of its sides."""
    for share in shares:
        sides = [max(1, round(share * n)) for n in shape]
        yield from map(list, product(*([(0, m), (n - m, n)] if m < n else [(0, n)] for n, m in zip(shape, sides))))


def _reduced(volume: Volume, size: int) -> ArrayVolume:
    """In memory, at most `size` voxels an axis: all that a base stage's level and its sketch are made of."""
    scale = min(1.0, size / max(volume.shape))
    view = ResampledView(volume, [max(1, round(n * scale)) for n in volume.shape])
    values = real_world_cast(view.read([0] * len(view.shape), view.shape), np.dtype(stored_dtype(volume)))
    return ArrayVolume(values, view.affine, volume.name)


def _volume(case: Mapping, folder: pathlib.Path | None, intensity: str | None, look: KindOfSet) -> Volume:
    """A case's image or region: in RAM without a folder; with one, what a window shows is kept there as NIfTI."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="hiresmed_") as scratch:  # of what must be unpacked to be read
            volume = _view(case, pathlib.Path(scratch), intensity, look)
            values = volume.read([0] * len(volume.shape), volume.shape)
        return ArrayVolume(real_world_cast(values, np.dtype(stored_dtype(volume))), volume.affine, volume.name)
    if intensity is None:
        return _view(case, folder, None, look)
    path = folder / "image.nii"
    if idist.get_rank() == 0 and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_nifti(_view(case, folder, intensity, look), path)
    idist.barrier()
    return NiftiVolume(path, name=case["name"])


def _view(case: Mapping, folder: pathlib.Path, intensity: str | None, look: KindOfSet) -> Volume:
    volume = open_volume(case["image"], folder)
    look(case["image"], volume)
    if intensity is not None:
        volume = WindowedView(volume, robust_window(volume))
    return RegionView(volume, check_region(case["region"], volume.shape)) if case.get("region") else volume


def _digest(case: Mapping, intensity: str | None, encode: partial, *settings: object) -> str:
    """Of all that a case's pyramids and sketches are made from: the files as they are, and every setting."""
    image = case["image"]
    identity = (image.name, content_digest(image)) if isinstance(image, Volume) else source_stamps(image)
    made_from = (identity, case.get("region"), intensity, encode.keywords, settings)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]
