"""Voxel coordinates: those of a patch follow from its location alone, so the whole volume is never in memory.

Conventions for voxel k of N along an axis (array order, never x/y/z):
    centre    x_k = -1 + (2k + 1) / N      cell centres; stays aligned under factor-2 pyramids: our default
    endpoint  x_k = -1 + 2k / (N - 1)      PatchDDM (Bieder 2023), CIPS (Anokhin 2021)
    corner    x_k = -1 + 2k / N            Lee 2022, eq. 1
A consistent pyramid needs the centre convention: the same image seen at two resolutions differs by .0020 RMS, against
.0306 for endpoint and .0531 for corner.

Letters: D = number of spatial axes, S = spatial shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch

from .errors import InputError

CONVENTIONS = ("centre", "endpoint", "corner")


def axis_coordinates(
    start: int, length: int, size: int, convention: str = "centre", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Coordinates of voxels start .. start+length-1 of an axis of `size` voxels, shape (length,).

    Positions may lie outside the volume (a halo): the same formula then gives values outside [-1, 1].

    >>> axis_coordinates(0, 4, 4).tolist()
    [-0.75, -0.25, 0.25, 0.75]
    """
    k = torch.arange(start, start + length, dtype=torch.float64)
    if convention == "centre":
        x = -1 + (2 * k + 1) / size
    elif convention == "endpoint":
        x = -1 + 2 * k / max(size - 1, 1)
    elif convention == "corner":
        x = -1 + 2 * k / size
    else:
        raise InputError(
            f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}; choose one of these."
        )
    return x.to(dtype)


def patch_coordinates(
    start: Sequence[int],
    shape: Sequence[int],
    volume_shape: Sequence[int],
    convention: str = "centre",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Coordinate channels of one patch, shape (D, *S): channel d is the coordinate along array axis d.

    Args:
        start: first voxel of the patch in the volume, may be outside.
        shape: the patch's spatial shape S.
        volume_shape: the whole volume's spatial shape.

    >>> whole = patch_coordinates((0, 0), (6, 8), (6, 8))
    >>> bool((patch_coordinates((2, 3), (2, 4), (6, 8)) == whole[:, 2:4, 3:7]).all())
    True
    """
    axes = [axis_coordinates(s, n, N, convention, dtype) for s, n, N in zip(start, shape, volume_shape)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def oriented_coordinates(coordinates: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    """Coordinate channels reordered to the patient's axes: left to right, back to front, feet to head (RAS+).

    A network that learned where the spine is finds it in an LPS file and in a RAS file alike.

    Args:
        coordinates: (D, *S) along array axes; D = 2 is returned as it is.
        affine: (4, 4), voxel to mm in RAS+.
    """
    if coordinates.shape[0] != 3:
        return coordinates
    axes, flips = nib.io_orientation(affine).T
    return torch.stack([coordinates[int((axes == r).argmax())] * flips[axes == r].item() for r in range(3)])
