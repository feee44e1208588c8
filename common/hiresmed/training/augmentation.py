"""Random changes of everything that a discriminator sees, real and generated alike, for training on few images.

A discriminator learns a small set by heart, and its gradient then says nothing more. With the same random changes of
real and generated images it sees many more of them, and the generator, through which the gradient of the change runs,
still learns the images as they are (Karras et al. 2020, arXiv:2006.06676; Zhao et al. 2020, arXiv:2006.10738). Changing
the real images alone would teach the changes. MONAI's random transforms are neither drawn per image of a batch nor
meant to be differentiated.

Letters: N = batch, C = channels, S = spatial shape, D = spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InputError
from ..core.knobs import parse_bool


class ImageAugmentation:
    """Images (N, C, *S), and a condition on the same grid -> the same, each image changed on its own.

    Each kind of change is made to an image with `probability`, and an image that none of them hits comes out as it is,
    bit for bit: below 1, the generator is not led to draw changed images (arXiv:2006.06676, section 2.2). What comes in
    from outside is the border's value. Numbers are from torch's CPU generator, so a resumed training repeats them.

    Args:
        probability: of each kind of change, for each image; 0 changes nothing and draws nothing.
        mirror: mirror the last axis (left and right, of an axial slice or a frontal X-ray).
        shift: by up to this share of the side, whole voxels, along each axis.
        scale: enlarge or reduce by up to this factor, less 1: .1 is 1 / 1.1 to 1.1, all axes alike.
        rotation: turn the plane of the last two axes by up to so many degrees.
        contrast: multiply the image's values, not the condition's, by up to this factor, less 1, about 0.
        brightness: add up to this much to the image's values, of a range of [-1, 1].

    Raises:
        InputError: a probability beyond 0 to 1, a negative size, images that are neither 2-D nor 3-D.

    >>> image = torch.rand(4, 1, 16, 16)
    >>> ImageAugmentation(0.0)(image)[0] is image
    True
    """

    def __init__(
        self,
        probability: float = 0.5,
        mirror: bool = True,
        shift: float = 0.125,
        scale: float = 0.1,
        rotation: float = 0.0,
        contrast: float = 0.0,
        brightness: float = 0.0,
    ) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"The augmentation's probability must be from 0 to 1, got {probability}; change it.")
        sizes = {"shift": shift, "scale": scale, "rotation": rotation, "contrast": contrast, "brightness": brightness}
        if wrong := {name: size for name, size in sizes.items() if not (size >= 0 and math.isfinite(size))}:
            raise InputError(f"The augmentation's sizes must be finite and at least 0, got {wrong}; change them.")
        self.probability = float(probability)
        self.mirror = parse_bool(mirror, "mirror")
        self.shift = float(shift)
        self.scale = float(scale)
        self.rotation = float(rotation)
        self.contrast = float(contrast)
        self.brightness = float(brightness)

    def __call__(self, image: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.probability == 0:
            return image, condition
        if image.ndim not in (4, 5):
            raise InputError(
                f"The augmentation's images must be (N, C, rows, columns) or (N, C, D, H, W), got "
                f"{tuple(image.shape)}; set augmentation to null."
            )
        matrix, factor, offset = self._draw(len(image), image.shape[2:])
        stacked = image if condition is None else torch.cat([condition, image], 1)
        stacked = _moved(stacked, matrix)
        if condition is None:
            return self._painted(stacked, factor, offset), None
        condition, image = stacked.split([condition.shape[1], image.shape[1]], 1)
        return self._painted(image, factor, offset), condition

    def _draw(self, count: int, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(matrices (N, D, D + 1) from a result's place to the image's, contrast (N,), brightness (N,))."""
        axes = len(shape)
        # all kinds are always drawn, so that one that is switched off does not change the others
        mirrored = self._hit(count)
        scaled = self._hit(count) * self._between(count)
        turned = self._hit(count) * self._between(count)
        shifted = self._hit(count)[:, None] * torch.stack([self._between(count) for _ in shape], 1)
        factor = self._hit(count) * self._between(count)
        offset = self._hit(count) * self._between(count)

        # axes of a matrix are in the order of grid_sample: the last of the array first
        matrix = torch.eye(axes).repeat(count, 1, 1)
        if self.mirror:
            matrix[:, 0, 0] = 1 - 2 * mirrored
        angle = turned * math.radians(self.rotation)
        turn = torch.eye(axes).repeat(count, 1, 1)
        turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
        turn[:, 0, 1], turn[:, 1, 0] = angle.sin() * shape[-2] / shape[-1], -angle.sin() * shape[-1] / shape[-2]
        size = (1 + self.scale) ** scaled
        voxels = torch.tensor(list(reversed(shape)), dtype=torch.float32)
        steps = (shifted * self.shift * voxels).round() * 2 / voxels
        matrix = torch.cat([matrix @ turn / size[:, None, None], steps[:, :, None]], 2)
        return matrix, (1 + self.contrast) ** factor, self.brightness * offset

    def _hit(self, count: int) -> Tensor:
        """(N,): 1 with the probability, else 0."""
        return (torch.rand(count) < self.probability).float()

    @staticmethod
    def _between(count: int) -> Tensor:
        """(N,) from -1 to 1."""
        return 2 * torch.rand(count) - 1

    def _painted(self, image: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        if self.contrast == 0 and self.brightness == 0:
            return image
        each = (-1, *[1] * (image.ndim - 1))
        factor, offset = (value.to(image, non_blocking=True).view(each) for value in (factor, offset))
        return image * factor + offset


def _moved(image: Tensor, matrix: Tensor) -> Tensor:
    """(N, C, *S) resampled at matrix (N, D, D + 1) times each place; where that is the identity, as it was."""
    axes = image.ndim - 2
    same = (matrix == torch.eye(axes, axes + 1)).flatten(1).all(1)
    matrix = matrix.to(image, non_blocking=True)
    same = same.to(image.device, non_blocking=True).view(-1, *[1] * (axes + 1))
    places = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return torch.where(same, image, F.grid_sample(image, places, padding_mode="border", align_corners=False))
