"""Are the seams between tiles visible? Two measures, mandatory for tiled generation since a mean SSIM hides seams.

`seam_z` needs one image and its tile grid; `retile_discrepancy` needs the same model rendered on two grids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import InputError
from .boxes import Readable, as_readable, as_readable_pair, grid_boxes, read_float64

SMALLEST_TILE = 10  # a face is compared with undisturbed planes on both sides
REACH = 4  # planes on each side with which a plane is compared


def _per_axis(value: int | Sequence[int], dims: int, name: str) -> tuple[int, ...]:
    values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),) * dims
    if len(values) != dims:
        raise InputError(f"`{name}` must have one number or one for each of {dims} axes, got {values}; change it.")
    return values


def _jumps(values: np.ndarray, axis: int) -> np.ndarray:
    """|jump| between planes k-1 and k for k = 2 .. n-2: each side is extrapolated linearly to the face between them.

    With steps g_k = x_k - x_(k-1) it is the second difference g_k - (g_(k-1) + g_(k+1)) / 2: zero on any ramp, c for
    an offset c between tiles.
    """
    x = np.moveaxis(values, axis, 0)
    return np.abs(1.5 * (x[2:-1] - x[1:-2]) - 0.5 * (x[3:] - x[:-3]))


def jump_profile(image: Readable, axis: int, box: int = 128) -> np.ndarray:
    """Mean |jump| between neighbouring planes along an axis, (N,) for N planes, NaN where a plane lacks neighbours."""
    n = image.shape[axis]
    total = np.zeros(n)
    area = np.prod(image.shape) / n
    for start, shape in grid_boxes(image.shape, box):
        low = max(start[axis] - 2, 0)
        high = min(start[axis] + shape[axis] + 1, n)
        if high - low < 4:
            continue
        wider_start = list(start)
        wider_start[axis] = low
        wider_shape = list(shape)
        wider_shape[axis] = high - low
        jumps = _jumps(read_float64(image, wider_start, wider_shape), axis)
        total[low + 2 : high - 1] += jumps.reshape(len(jumps), -1).sum(1)
    total[:2] = total[-1:] = np.nan
    return total / area


def _surprises(profile: np.ndarray, is_face: np.ndarray) -> np.ndarray:
    """log(jump / mean jump of the undisturbed neighbours within REACH planes), (N,), NaN where unknown.

    The logarithm and the neighbourhood remove the effect of the image's content: lung has more texture than air.
    """
    near_face = is_face | np.roll(is_face, 1) | np.roll(is_face, -1)
    usable = ~near_face & np.isfinite(profile)
    typical = profile[np.isfinite(profile)].mean()
    if typical == 0:
        return np.where(np.isfinite(profile), 0.0, np.nan)
    level = profile + 1e-3 * typical  # planes of bare padding count as equal, not as minus infinity
    surprises = np.full(len(profile), np.nan)
    for k in np.flatnonzero(np.isfinite(profile) & (is_face | usable)):
        around = np.r_[max(k - REACH, 0) : max(k - 1, 0), k + 2 : min(k + REACH + 1, len(profile))]
        around = around[usable[around]]
        if len(around):
            surprises[k] = np.log(level[k] / level[around].mean())
    return surprises


def _axis_z(profile: np.ndarray, is_face: np.ndarray) -> float:
    surprises = _surprises(profile, is_face)
    known = np.isfinite(surprises)
    faces = surprises[known & is_face]
    others = surprises[known & ~is_face]
    if not len(faces) or len(others) < 3:
        return float("nan")
    spread = max(others.std(ddof=1), 1e-4)  # at least .01 %, so that nearly equal planes do not inflate z
    return float((faces.mean() - others.mean()) / (spread * np.sqrt(1 / len(faces) + 1 / len(others))))


def seam_z(image, tile: int | Sequence[int], origin: int | Sequence[int] = 0, box: int = 128) -> dict:
    """z-score of the jumps at the faces between tiles against those at all other planes of the axis.

    About normal (|z| < 2 or so) without seams, large and positive where tiles disagree. A plain ratio of face and other
    planes depends on the content (1.225 on an untiled image); here every plane is first compared with its undisturbed
    neighbours. It uses the mean over a plane: one bad face among many counts as one.
    JPEG's 8-pixel blocks are seams too: JPEG X-rays score 3 to 11 at tiles of 64, and -.2 +- .5 at 67.

    Args:
        image: array or tensor of shape S, or an object with `.shape` and `.read(start, shape)`.
        tile: tile size in voxels, one number or one per axis, at least 10.
        origin: voxel at which some tile starts, one number or one per axis.
        box: voxels per axis read at a time; sets the memory, not the result.

    Returns:
        dict: `value` (the largest z over the axes, None where no axis has a face), `per_axis` (z or None), `tile`,
        `origin`, `faces` (number of faces that were scored on each axis).

    Raises InputError for a tile smaller than 10.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(64, 64))
        >>> seam_z(noise, tile=16)["value"] < 3
        True
        >>> seam_z(noise + np.add.outer(np.arange(64) // 16 % 2, np.zeros(64)) * 4, tile=16)["value"] > 6
        True
    """
    image = as_readable(image)
    tile, origin = (_per_axis(v, len(image.shape), name) for v, name in ((tile, "tile"), (origin, "origin")))
    if min(tile) < SMALLEST_TILE:
        raise InputError(
            f"seam_z must have tiles of at least {SMALLEST_TILE} voxels to compare a face with the planes beside it, "
            f"got {tile}; give the tile size with which the image was written."
        )
    # one score per axis, NaN where it has no face
    scores = []
    counts = []
    for axis, n in enumerate(image.shape):
        planes = np.arange(n)
        is_face = (planes - origin[axis]) % tile[axis] == 0
        is_face[:2] = is_face[-1:] = False
        counts.append(int(is_face.sum()))
        scores.append(_axis_z(jump_profile(image, axis, box), is_face) if counts[-1] else float("nan"))
    known = [z for z in scores if np.isfinite(z)]
    per_axis = [z if np.isfinite(z) else None for z in scores]
    return {"value": max(known, default=None), "per_axis": per_axis, "faces": counts, "tile": tile, "origin": origin}


def retile_discrepancy(a, b, box: int = 128) -> dict:
    """Largest and mean absolute difference of two renderings of one model on tile grids shifted against each other.

    Needs no ground truth: an exactly tiled model gives 0 at one padded tile shape, float rounding otherwise.

    Args:
        a, b: arrays or readers of one shape S.
        box: voxels per axis read at a time.

    Returns:
        dict: `max`, `mean` (in the images' units), `n` (voxels compared).

    Raises InputError for images of two shapes.
    """
    a, b = as_readable_pair(a, b)
    largest = 0.0
    total = 0.0
    for start, shape in grid_boxes(a.shape, box):
        difference = np.abs(read_float64(a, start, shape) - read_float64(b, start, shape))
        # np.maximum, not max(): a NaN in either rendering must appear in the result
        largest = np.maximum(largest, difference.max())
        total = total + difference.sum()
    n = int(np.prod(a.shape, dtype=np.int64))
    return {"max": float(largest), "mean": float(total / n), "n": n}
