"""How tissues look in t1, t1ce, t2 and flair, and what a scanner does to them.

`standard` follows spin-echo contrasts at 1.5-3 T (Bushberg, The Essential Physics of Medical Imaging, 2011, ch. 12);
`random` draws everything anew, so that a network learns shapes and not grey values (SynthSeg: Billot et al., 2023,
doi:10.1016/j.media.2023.102789, sec. 3.2). `varied` does so, too, but keeps each sequence's order of liquor, brain and
oedema, which a sequence's name promises. Intensities are relative: 1 is the brightest common tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import GaussianSmooth

from ..core.errors import InputError

SEQUENCES = ("t1", "t1ce", "t2", "flair")
# how far a sequence may leave its name: 0 is the textbook, 1 draws each tissue from [0, 1]
STRAYING = {"standard": 0.0, "varied": 0.35, "random": 1.0}
TISSUES = {
    "csf": (0.20, 0.21, 0.98, 0.16), "grey": (0.54, 0.56, 0.64, 0.62), "white": (0.78, 0.80, 0.46, 0.50),
    "nuclei": (0.62, 0.64, 0.52, 0.56), "thalami": (0.65, 0.67, 0.56, 0.58), "stem": (0.71, 0.74, 0.52, 0.50),
    "plexus": (0.42, 0.95, 0.70, 0.45), "oedema": (0.56, 0.57, 0.82, 0.97), "enhancing": (0.58, 1.12, 0.70, 0.80),
    "necrosis": (0.36, 0.38, 0.88, 0.58),
}  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """Everything about one examination that is not anatomy; per sequence where a tuple or array has four entries."""

    means: dict[str, np.ndarray]  # (4, 1) per tissue
    grain: np.ndarray  # (4, 1) deviation of tissue texture
    bias: np.ndarray  # (4, 1) deviation of the log of the coil's field
    noise: np.ndarray  # (4, 1)
    gamma: np.ndarray  # (4, 1)
    gain: np.ndarray  # (4, 1) what 1 becomes in the file
    blur: tuple[float, ...]  # mm, full width at half maximum
    thick: tuple[tuple[int, float], ...]  # (axis, slice thickness in mm)
    deformation: float


def draw_contrast(seed: int, kind: str) -> Contrast:
    """The examination of one seed; InputError for a kind that is not in STRAYING."""
    rng = np.random.default_rng([seed, 17])
    if kind not in STRAYING:
        raise InputError(f"contrast must be one of {', '.join(STRAYING)}, got {kind!r}; choose one of them.")
    wild = kind != "standard"
    column = lambda low, high: rng.uniform(low, high, (4, 1)).astype(np.float32)  # noqa: E731
    share = column(0.0, STRAYING[kind]) if wild else np.zeros((4, 1), dtype=np.float32)
    means = {
        name: (1 - share) * np.array(values, dtype=np.float32)[:, None] * column(0.95, 1.05) + share * column(0.05, 1.0)
        for name, values in TISSUES.items()
    }
    return Contrast(
        means=means,
        grain=column(0.01, 0.06) if wild else column(0.015, 0.03),
        bias=column(0.0, 0.35) if wild else column(0.04, 0.10),
        noise=column(0.005, 0.09) if wild else column(0.015, 0.025),
        gamma=np.exp(column(-0.4, 0.4)) if wild else column(0.95, 1.05),
        gain=np.exp(column(np.log(100), np.log(3000))),
        blur=tuple(rng.uniform(0.0, 2.5, 4)) if wild else (0.0,) * 4,
        thick=tuple(_slices(rng) for _ in range(4)) if wild else ((2, 0.0),) * 4,
        deformation=2.0 if wild else 1.0,
    )


def _slices(rng: np.random.Generator) -> tuple[int, float]:
    """Half of all sequences are 3-D, the others have slices of 2-7 mm across any axis."""
    return int(rng.integers(3)), float(rng.uniform(2, 7)) if rng.random() < 0.5 else 0.0


def blurred(image: np.ndarray, contrast: Contrast, sequence: int, spacing: tuple[float, ...]) -> np.ndarray:
    """One sequence (*S) at its own resolution: Gaussian blur, then thick slices interpolated back to the grid."""
    tensor = torch.from_numpy(image)[None]
    width = np.full(3, contrast.blur[sequence])
    axis, thick = contrast.thick[sequence]
    width[axis] = max(width[axis], thick)
    sigma = [w / 2.355 / s if w > s else 0.0 for w, s in zip(width, spacing)]  # narrower than a voxel: nothing to do
    if any(sigma):
        tensor = GaussianSmooth([max(s, 1e-3) for s in sigma])(tensor)
    if thick > spacing[axis]:
        size = list(image.shape)
        size[axis] = max(2, round(size[axis] * spacing[axis] / thick))
        for shape in (size, list(image.shape)):
            tensor = torch.nn.functional.interpolate(tensor[None], shape, mode="trilinear", align_corners=False)[0]
    return np.asarray(tensor[0], dtype=np.float32)
