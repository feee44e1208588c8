"""Where a NIfTI's voxels lie, and doubts about it that nibabel settles without a word.

nibabel replaces a voxel size of 0 by 1, takes the sform where it and the qform say different things (ITK's readers may
take the qform), makes up an orientation where neither is given, and reads voxels out of the header where vox_offset
says so.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
from nibabel.openers import ImageOpener

from .errors import InputError

_MM_PER_UNIT = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
_SPACING_TOLERANCE = 0.01  # as a share; a qform is stored in float32, as a quaternion


def nifti_affine(image: nibabel.nifti1.Nifti1Pair, path: Path, name: str) -> np.ndarray:
    """Affine (4, 4) of a NIfTI file, voxel to mm in RAS+.

    Warns where a volume does not say how it is oriented, and where sform and qform place it differently in space.

    Args:
        image: the file as nibabel opened it.
        path: of the file.
        name: of the case, for errors.

    Raises:
        InputError: voxels that begin inside the header; an unknown unit of length; a voxel size of 0 that the affine is
            made of; an sform and a qform with other orientations or voxel sizes; an endless slope.
    """
    with ImageOpener(str(path), "rb") as file:
        header = type(image.header).from_fileobj(file, check=False)  # as stored: nibabel's checks repair it
    first = float(header["vox_offset"])
    least = header.sizeof_hdr if header.is_single else 0
    if not first >= least:
        raise InputError(
            f"{name} must hold its voxels behind the {least} bytes of the header, got vox_offset {first:g}; export the "
            "file again."
        )
    if np.isinf(header["scl_slope"]):
        raise InputError(f"{name} must have a finite scl_slope, got {header['scl_slope']}; export the file again.")
    volume = len([n for n in image.shape[:3] if n > 1]) == 3
    sform = int(header["sform_code"])
    qform = int(header["qform_code"])
    sizes = np.array(header["pixdim"][1 : 1 + min(3, len(image.shape))], dtype=float)
    needed = [size for size, n in zip(sizes, image.shape) if n > 1]
    if sform <= 0 and not all(size > 0 and np.isfinite(size) for size in map(abs, needed)):
        raise InputError(
            f"{name} must give a voxel size for each axis, got {sizes.tolist()} (pixdim) and no sform; export it again "
            "with its voxel sizes."
        )
    if sform > 0 and qform > 0:
        _compare(image.header, name)
    elif sform <= 0 and qform <= 0 and volume:
        axes = "".join(code or "?" for code in nibabel.aff2axcodes(image.affine))
        warnings.warn(
            f"{name} does not say how it is oriented (sform and qform codes are 0); its axes are taken as {axes}, "
            "which may exchange left and right.",
            stacklevel=4,
        )
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _mm_per_unit(int(header["xyzt_units"]), name)
    return affine


def _mm_per_unit(code: int, name: str) -> float:
    """Of a header's xyzt_units, whose lower three bits are the unit of length; 0 is unknown, and taken as mm."""
    if code & 7 not in _MM_PER_UNIT:
        raise InputError(
            f"{name} must give its unit of length as meter, mm, micron or unknown (xyzt_units 0 to 3), got {code & 7}; "
            "set it to 2 if voxel sizes are in mm."
        )
    return _MM_PER_UNIT[code & 7]


def _spans(affine: np.ndarray) -> bool:
    axes = affine[:3, :3]
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(axes))
        sides = float(np.prod(np.linalg.norm(axes, axis=0)))
    return bool(np.isfinite(affine).all() and np.isfinite(sides) and volume > 1e-6 * sides > 0)


def _compare(header: nibabel.Nifti1Header, name: str) -> None:
    sform = header.get_sform()
    try:
        qform = header.get_qform()
    except ValueError:  # no quaternion
        qform = np.full((4, 4), np.nan)
    if not (_spans(sform) and _spans(qform)):
        which = "qform" if _spans(sform) else "sform"
        raise InputError(
            f"{name} must have an invertible (4, 4) affine of finite values, got {which} that is none; set its code to "
            "0, or export the file again."
        )
    sizes = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform)]
    axes = ["".join(code or "?" for code in nibabel.aff2axcodes(affine)) for affine in (sform, qform)]
    if axes[0] != axes[1] or not np.allclose(sizes[0], sizes[1], rtol=_SPACING_TOLERANCE, atol=1e-6):
        said = [f"{a} with voxels of {' x '.join(f'{v:.3g}' for v in size)}" for a, size in zip(axes, sizes)]
        raise InputError(
            f"{name} must have one geometry, got an sform that says {said[0]} and a qform that says {said[1]}; set the "
            "code of the wrong one to 0, or export the file again."
        )
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in (*header.get_data_shape(), 1, 1)[:3]), 1]], dtype=float)
    apart = np.linalg.norm(((sform - qform) @ corners.T)[:3], axis=0).max()
    if apart > max(sizes[0]):
        warnings.warn(
            f"{name} is placed by its sform; its qform would place it up to {apart:.0f} mm away, as after a "
            "registration.",
            stacklevel=5,
        )
