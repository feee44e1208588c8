"""Images of an implicit generator in one tile's memory, at any size, spacing and offset.

Each voxel is made from its place alone, so tiles need no halo and fit exactly. A larger extent extrapolates, a smaller
spacing makes more voxels of the same image: **detail finer than the trained grid is invented**, as nothing taught it.

Letters: B = batch, C = image channels, D = spatial axes, S = output shape, Z = latent size, k = voxel index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import ignite.distributed as idist
import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from ...core.bfloat16 import InferencePrecision
from ...core.errors import InputError
from ...core.knobs import parse_bool, parse_int
from ...core.memory import out_of_memory, release_heap
from ...core.pyramids import Level
from ...core.tiles import Box, TileGrid, box_index, check_size, check_tile_size, full_box
from ...core.weights import check_output


@dataclass(frozen=True)
class Frame:
    """Where an output grid lies in the frame [-1, 1] that the generator was trained on: voxel k at
    -1 + (2 (k + shift) + 1) / cells along each axis, the centre convention where shift is 0 and cells the shape.

    Attributes:
        shape: S in voxels.
        cells: output voxels that the trained frame is long.
        shift: output voxels from the trained frame's first face to the output's first.
        trained: voxels of the trained image.
    """

    shape: tuple[int, ...]
    cells: tuple[float, ...]
    shift: tuple[float, ...]
    trained: tuple[int, ...]

    @classmethod
    def of(
        cls,
        trained_shape: Sequence[int],
        trained_spacing: Sequence[float] | float = 1.0,
        size: Sequence[int] | None = None,
        spacing: Sequence[float] | float | None = None,
        offset: Sequence[float] | float = 0.0,
    ) -> Frame:
        """The frame in the user's terms.

        Args:
            trained_shape: voxels of the trained image.
            trained_spacing: its spacing in mm.
            size: S; None: as many voxels as fill the trained frame.
            spacing: of the output in mm; None: `size` voxels fill the trained frame.
            offset: mm from the trained image's first face to the output's first; negative begins before it.

        >>> Frame.of((64, 64), 0.5, spacing=0.25).shape
        (128, 128)
        """
        trained = check_size(trained_shape)
        dims = len(trained)
        extent = [n * s for n, s in zip(trained, _numbers(trained_spacing, dims, "trained_spacing"))]
        shifts = _numbers(offset, dims, "offset", positive=False)
        if spacing is None:
            shape = trained if size is None else check_size(size, dims)
            cells = tuple(map(float, shape))
        else:
            cells = tuple(e / s for e, s in zip(extent, _numbers(spacing, dims, "spacing")))
            shape = tuple(max(1, round(c)) for c in cells) if size is None else check_size(size, dims)
        return cls(shape, cells, tuple(o * c / e for o, c, e in zip(shifts, cells, extent)), trained)

    def coordinates(self, start: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Coordinates (D, *shape) of one box, float32; made from 64-bit numbers, so boxes agree to the bit."""
        axes = []
        for s, n, cells, shift in zip(start, shape, self.cells, self.shift):
            k = torch.arange(s, s + n, dtype=torch.float64) + shift
            axes.append((-1 + (2 * k + 1) / cells).float())
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def affine(self, trained_affine: np.ndarray) -> np.ndarray:
        """(4, 4) of the output from that of the trained image, both voxel centre to mm in RAS+."""
        step = np.eye(4)
        for axis, (n, cells, shift) in enumerate(zip(self.trained, self.cells, self.shift)):
            step[axis, axis], step[axis, 3] = n / cells, (shift + 0.5) * n / cells - 0.5
        return np.asarray(trained_affine, dtype=np.float64) @ step


class ImplicitInferer(Inferer):
    """Draws images of an ImplicitGenerator tile by tile; each latent modulates the layers once.

    Called with latents it returns a tensor; `fill` writes into a store and holds one tile. Results are bit-identical at
    one tile size and equal within float tolerance across tile sizes. ExactTiledInferer reads a halo'd input image;
    here there is none to read.

    Args:
        frame: size, spacing and offset of the output.
        tile_size: voxels that are written at once, one number or one per axis.
        places: voxels that go through the layers at once; a thousand stay in a CPU's cache, a GPU likes 65536 or more.
        device: where tiles are computed.
        amp: bfloat16 autocast, if the first tile's first places come out like float32 on this machine: faster, results
            differ in the third digit.
        progress: show a progress bar in a terminal.
    """

    def __init__(
        self,
        frame: Frame,
        tile_size: int | Sequence[int] = 128,
        places: int = 1024,
        device: torch.device | str = "cpu",
        amp: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.frame, self.places = frame, parse_int(places, "places", 1)
        self.grid = TileGrid.fit(frame.shape, check_tile_size(tile_size))
        self.device, self.progress = torch.device(device), progress
        self.precision = InferencePrecision(parse_bool(amp, "amp"), self.device)

    def __call__(self, inputs: Tensor, network, *args, **kwargs) -> Tensor:
        """Images (B, C, *S) of latents (B, Z), in memory and on the latents' device."""
        images = inputs.new_empty(len(inputs), network.out_channels, *self.frame.shape, dtype=torch.float32)
        for z, image in zip(inputs, images):

            def write(number: int, tile: Tensor, image: Tensor = image) -> None:
                image[self._place(number)] = tile.to(image.device)

            self.run(z, network, write)
        return images

    def fill(
        self,
        z: Tensor,
        network,
        levels: Sequence[Level],
        decode: Callable[[np.ndarray], np.ndarray] | None = None,
        region: Box | None = None,
    ) -> None:
        """Write the image of one latent (Z,) into stores, one level per channel, tile by tile; done tiles are kept.

        Several processes share the tiles; they should meet (idist.barrier) before the image is read.

        Args:
            levels: of shape S; see pyramids.Level.
            decode: network values (about [-1, 1]) -> what is stored, such as HU; None: as they are.
            region: only the tiles that this box touches, on the same grid of tiles; None: all.

        Raises:
            InputError: another number or shape of levels than the network and the frame give.
        """
        shapes = {tuple(level.shape) for level in levels}
        if len(levels) != network.out_channels or shapes != {self.frame.shape}:
            raise InputError(
                f"The stores must be {network.out_channels}, one a channel, of {self.frame.shape} voxels, got "
                f"{len(levels)} of {sorted(shapes)}; give one store of the frame's shape per channel."
            )

        def write(number: int, tile: Tensor) -> None:
            for level, values in zip(levels, tile.numpy()):
                level.write(self.grid.start(number), values if decode is None else decode(values))
                level.mark(number)

        mine = self.grid.touching(region or full_box(self.frame.shape))[idist.get_rank() :: idist.get_world_size()]
        unfinished = [number for number in mine if not all(level.done(number) for level in levels)]
        self.run(z, network, write, unfinished)

    @out_of_memory("lower places or tile_size, set amp to true, or choose another device")
    def run(
        self, z: Tensor, network, write: Callable[[int, Tensor], None], numbers: Iterable[int] | None = None
    ) -> None:
        """Make the tiles `numbers` (None: all) of one latent (Z,): write(number, (C, *inside) float32 on the CPU)."""
        if network.spatial_dims != len(self.frame.shape):
            raise InputError(
                f"size must have the generator's {network.spatial_dims} axes, got {len(self.frame.shape)}; "
                "give one number per axis."
            )
        network.eval()
        weights = next(network.parameters()).dtype
        latent = z[None].to(self.device, weights)

        def example() -> Tensor:
            first = self.frame.coordinates(self.grid.start(0), self.grid.tile).to(weights)
            part = first.flatten(1)[:, : self.places].to(self.device)
            return network.synthesise(part[None], network.modulate(network.mapping(latent)))

        with torch.inference_mode(), self.precision.context(self.places, example):
            modulation = network.modulate(network.mapping(latent))
            numbers = list(self.grid) if numbers is None else list(numbers)
            for number in tqdm(numbers, desc="tiles", disable=None if self.progress else True, leave=False):
                places = self.frame.coordinates(self.grid.start(number), self.grid.tile).to(weights)
                parts = [
                    network.synthesise(part[None].to(self.device), modulation)[0].float().cpu()
                    for part in places.flatten(1).split(self.places, 1)
                ]
                tile = torch.cat(parts, 1).view(-1, *self.grid.tile)
                check_output(tile)
                write(number, tile[(slice(None), *(slice(0, n) for n in self.grid.inside(number)))])
                del places, parts, tile
                release_heap()

    def _place(self, number: int) -> tuple[EllipsisType | slice, ...]:
        return box_index(self.grid.start(number), self.grid.inside(number))


def _numbers(value: Sequence[float] | float, dims: int, name: str, positive: bool = True) -> list[float]:
    """One finite number per axis."""
    values: list = [value] * dims
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str):
        values = list(value)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != dims or any(not math.isfinite(v) or (positive and v <= 0) for v in numbers):
        raise InputError(
            f"{name} must be {'a positive' if positive else 'a finite'} length in mm, or one for each of {dims} "
            f"axes, got {value!r}; change it."
        )
    return numbers
