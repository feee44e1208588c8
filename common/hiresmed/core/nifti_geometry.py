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

_MM_PER_UNIT = {"meter": 1e3, "micron": 1e-3}
_SPACING_TOLERANCE = 0.01  # as a share; a qform is stored in float32, as a quaternion


def nifti_affine(image: nibabel.Nifti1Image, path: Path, name: str) -> np.ndarray:
    """Affine (4, 4) of a NIfTI file, voxel to mm in RAS+.

    Warns where a volume does not say how it is oriented, and where sform and qform place it differently in space.

    Args:
        image: the file as nibabel opened it.
        path: of the file.
        name: of the case, for errors.

    Raises:
        InputError: voxels that begin inside the header; a voxel size of 0 that the affine is made of; an sform and a
            qform with other orientations or voxel sizes.
    """
    with ImageOpener(str(path), "rb") as file:
        header = type(image.header).from_fileobj(file, check=False)  # as stored: nibabel's checks repair it
    first = float(header["vox_offset"])
    if first < header.sizeof_hdr:
        raise InputError(
            f"{name} must hold its voxels behind the {header.sizeof_hdr} bytes of the header, got vox_offset "
            f"{first:g}; export the file again."
        )
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
        axes = "".join(nibabel.aff2axcodes(image.affine))
        warnings.warn(
            f"{name} does not say how it is oriented (sform and qform codes are 0); its axes are taken as {axes}, "
            "which may exchange left and right.",
            stacklevel=4,
        )
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    return affine


def _compare(header: nibabel.Nifti1Header, name: str) -> None:
    sform = header.get_sform()
    qform = header.get_qform()
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
