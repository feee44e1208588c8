"""A network over a volume, tile by tile: the untiled result, a region of it, and no tile twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.pyramids import MemoryStores
from hiresmed.core.tiles import TileGrid, check_region
from hiresmed.core.volume_inferer import VolumeInferer
from hiresmed.core.volumes import ArrayVolume
from torch import nn

SHAPE = (21, 18, 13)
WINDOW = (-100.0, 300.0)


@pytest.fixture
def case() -> dict:
    values = np.random.default_rng(0).uniform(-150, 350, SHAPE).astype(np.float32)
    return {"image": ArrayVolume(values, np.diag([1.0, 2.0, 3.0, 1.0]), "case"), "name": "case"}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 1, 3, padding=1))


def untiled(network: nn.Module, values: np.ndarray) -> np.ndarray:
    """In the window's units; the image continues beyond its faces."""
    unit = torch.from_numpy((values.clip(*WINDOW) + 100) / 200 - 1)[None, None]
    extended = nn.functional.pad(unit, [2] * 6, mode="replicate")
    with torch.no_grad():
        return ((network(extended)[0, 0, 2:-2, 2:-2, 2:-2].clamp(-1, 1) + 1) * 200 - 100).numpy()


def test_a_stream_is_the_untiled_result_in_the_images_units_and_geometry(case, network):
    result = VolumeInferer(MemoryStores(), 8, WINDOW, progress=False)(case, network)
    expected = untiled(network, case["image"].array)
    np.testing.assert_allclose(result.image.read((0, 0, 0), SHAPE), expected, atol=1e-3)
    assert np.array_equal(result.image.affine, case["image"].affine) and result.whole
    tensor = torch.from_numpy(case["image"].array)[None, None]
    from_tensor = VolumeInferer(MemoryStores(), 8, WINDOW)(tensor, network)
    np.testing.assert_allclose(from_tensor[0, 0].numpy(), expected, atol=1e-3)


def test_a_region_has_the_bytes_of_the_whole_image_and_its_own_affine(case, network):
    box = [[3, 20], [0, 9], [5, 13]]
    whole = VolumeInferer(MemoryStores(), 8, WINDOW, progress=False)(case, network).image
    part = VolumeInferer(MemoryStores(), 8, WINDOW, region=box, progress=False)(case, network)
    start = [a for a, _ in check_region(box, SHAPE)]
    np.testing.assert_array_equal(part.image.read((0, 0, 0), (17, 9, 8)), whole.read(start, (17, 9, 8)))
    assert part.image.affine[:3, 3].tolist() == [3, 0, 15] and not part.whole
    assert part.source.shape == (17, 9, 8)


def test_finished_tiles_are_not_computed_again(case, network):
    class OneStore(MemoryStores):
        """Gives the same pyramid again, as a working folder does on resume."""

        def pyramid(self, *args):
            if not hasattr(self, "levels"):
                self.levels = super().pyramid(*args)
            return self.levels

    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    stores = OneStore()
    VolumeInferer(stores, 8, WINDOW, region=[[0, 8], [0, 18], [0, 13]], progress=False)(case, network)
    probes_and_tiles = len(calls)
    first = VolumeInferer(stores, 8, WINDOW, progress=False)
    grid = TileGrid.fit(SHAPE, 8, first.tiled.field(network, 1).alignment)
    calls.clear()
    first(case, network)
    finished = grid.touching(((0, 8), (0, 18), (0, 13)))
    assert probes_and_tiles > 0 and 0 < len(calls) == len(grid) - len(finished) < len(grid)


def test_a_network_of_several_channels_is_refused(case):
    with pytest.raises(InputError, match="network_def must give one channel, got 2"):
        VolumeInferer(MemoryStores(), 8, progress=False)(case, nn.Conv3d(1, 2, 3, padding=1))
