"""A network on a volume of any size: read tile by tile, written tile by tile, in the memory of one tile.

MONAI's SlidingWindowInferer holds input, output and counts of the volume. Letters: S = spatial shape, T = tile shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ignite.distributed as idist
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor

from .errors import InputError
from .exact_tiling import ExactTiledInferer
from .tiles import TileGrid, check_region
from .views import RegionView
from .volumes import Volume
from .windows import check_window, rescale, to_unit_range


@dataclass
class StreamedImage:
    """What a network made of one case, read box by box; for hiresmed.io.SaveImageStreamd and hiresmed.reports.

    Attributes:
        image: the result, or its region.
        source: the input on the same grid.
        levels: the result's pyramid, here one level.
        whole: the image is all of the grid, not a region of it.
    """

    image: Volume
    source: Volume
    levels: list[Volume] = field(default_factory=list)
    whole: bool = True


class VolumeInferer(Inferer):
    """Runs a network of finite receptive field over a case's image, tile by tile and exactly.

    Called with a tensor (1, 1, *S), in the window's units, it returns a tensor (1, 1, *S). Called with a case, that is
    a mapping with a volume under "image", it streams and returns a StreamedImage; finished tiles are not computed again
    when a run resumes, and the tiles of a region are those of the whole image.

    Args:
        stores: has `stores(case, recipe)`, giving the pyramids of a case (a hiresmed.io.CaseOutput).
        tile_size: T in voxels.
        window: values that the network sees as -1 and 1, and gives as such; for CT in HU.
        region: box of the result, [[first, one-past-last], ...] in voxels; None is all.
        dtype: of the stored result.
        device, amp, progress: see ExactTiledInferer.

    Raises:
        InputError: an image of several channels, or whose number of axes the network does not take.
    """

    def __init__(
        self,
        stores,
        tile_size: int | Sequence[int] = 128,
        window: Sequence[float] = (-1024.0, 1024.0),
        region: Sequence[Sequence[int]] | None = None,
        dtype: str = "int16",
        device: torch.device | str = "cpu",
        amp: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.stores = stores
        self.window = check_window(window, dtype)
        self.region = region
        self.dtype = dtype
        self.tiled = ExactTiledInferer(tile_size, device, amp, progress)

    def __call__(self, inputs, network, *args, **kwargs):
        """A tensor for a tensor, a StreamedImage for a case."""
        if torch.is_tensor(inputs):
            values = convert_to_tensor(inputs)
            unit = torch.from_numpy(to_unit_range(values.cpu().numpy(), self.window)).to(values.device)
            result = rescale(self.tiled(unit, network).cpu().numpy(), (-1, 1), self.window)
            return convert_to_dst_type(result, inputs)[0]
        return self._stream(inputs, network)

    def _stream(self, case: Mapping, network) -> StreamedImage:
        image: Volume = case["image"]
        region = check_region(self.region, image.shape)
        receptive_field = self.tiled.field(network, 1)
        grid = TileGrid.fit(image.shape, self.tiled.tile_size, receptive_field.alignment)
        recipe = {"image": [image.name, list(image.shape)], "window": list(self.window), "amp": self.tiled.amp}
        stores = self.stores.stores(case, recipe)
        levels = stores.pyramid("result", [image.shape], [1], image.affine, self.dtype, 1.0, [grid.tile])
        result = levels[0]

        def read(start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
            values = to_unit_range(image.read_extended(start, shape), self.window)
            return torch.from_numpy(values).float()[None, None]

        def write(number: int, tile: torch.Tensor) -> None:
            if tile.shape[1] != 1:
                raise InputError(f"network_def must give one channel, got {tile.shape[1]}; give it out_channels 1.")
            result.write(grid.start(number), rescale(tile[0, 0].float().numpy(), (-1, 1), self.window))
            result.mark(number)

        own_tiles = grid.touching(region)[idist.get_rank() :: idist.get_world_size()]
        unfinished = [number for number in own_tiles if not result.done(number)]
        title = " x ".join(map(str, image.shape))
        self.tiled.run(network, read, write, grid, receptive_field, unfinished, title)
        idist.barrier()
        if self.region is None:
            return StreamedImage(result, image, levels)
        return StreamedImage(RegionView(result, region), RegionView(image, region), levels, whole=False)
