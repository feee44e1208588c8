"""Images of an implicit generator: tiled equals untiled, at any size, offset and spacing, each voxel in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hiresmed.core.coordinates import patch_coordinates
from hiresmed.core.errors import InputError
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.core.pyramids import Level
from hiresmed.methods.inr_gan.generator import ImplicitGenerator
from hiresmed.methods.inr_gan.implicit import Frame, ImplicitInferer
from whole_volume import volume_coordinates

pytestmark = [pytest.mark.processor, pytest.mark.usefixtures("one_thread")]


def tiny(dims: int = 2, channels: int = 1) -> ImplicitGenerator:
    torch.manual_seed(0)
    return ImplicitGenerator(dims, channels, 6, 6, (8, 6), 2, bandwidth=12.0, table_size=4)


def latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dims", "size"), [(1, (37,)), (2, (21, 34)), (3, (9, 12, 7))])
@pytest.mark.parametrize(("tile", "places"), [(8, 4096), (16, 50), (64, 7)])
def test_tiled_equals_untiled(dims, size, tile, places):
    network, z = tiny(dims, 3).train(), latents()
    with torch.no_grad():
        untiled = network(volume_coordinates(size)[None], z)
    tiled = ImplicitInferer(Frame.of(size), tile, places)(z, network)
    torch.testing.assert_close(tiled, untiled, rtol=0, atol=1e-5)
    assert torch.equal(tiled, ImplicitInferer(Frame.of(size), tile, places)(z, network))


def test_without_spacing_and_offset_places_are_those_of_the_centre_convention():
    frame = Frame.of((8, 6), 0.7, size=(21, 34))
    assert torch.equal(frame.coordinates((3, 5), (4, 9)), patch_coordinates((3, 5), (4, 9), (21, 34)))


def test_a_larger_extent_at_the_same_spacing_goes_on_around_the_trained_image():
    network, z = tiny(), latents()
    inside = ImplicitInferer(Frame.of((16, 12), 0.5))(z, network)
    frame = Frame.of((16, 12), 0.5, size=(26, 20), spacing=0.5, offset=(-2.0, -1.5))
    wide = ImplicitInferer(frame, 8)(z, network)
    torch.testing.assert_close(wide[:, :, 4:20, 3:15], inside, rtol=0, atol=1e-5)
    assert frame.coordinates((0, 0), (26, 20))[0].max() > 1


def test_a_smaller_spacing_makes_more_voxels_of_the_same_image():
    fine = Frame.of((8, 6), (1.0, 2.0), spacing=(0.25, 1.0))
    assert fine.shape == (32, 12)
    cells = fine.coordinates((0, 0), fine.shape).reshape(2, 8, 4, 6, 2).mean((2, 4))
    torch.testing.assert_close(cells, volume_coordinates((8, 6)))


def test_the_affine_lays_each_voxel_where_it_was_drawn():
    """Two ways from a voxel to mm agree: by its coordinate in the trained frame, and by the written affine."""
    trained = np.array([[0, -0.5, 0, 7], [2, 0, 0, -3], [0, 0, 1, 11], [0, 0, 0, 1]], dtype=float)
    frame = Frame.of((16, 12), (2.0, 0.5), size=(9, 31), spacing=(3.0, 0.2), offset=(-4.0, 1.1))
    affine = frame.affine(trained)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), (3.0, 0.2))
    places = frame.coordinates((0, 0), frame.shape).double()
    for voxel in [(0, 0), (8, 30), (3, 17)]:
        in_trained = [(float(places[(a, *voxel)]) + 1) * n / 2 - 0.5 for a, n in enumerate((16, 12))]
        np.testing.assert_allclose(affine @ [*voxel, 0, 1], trained @ [*in_trained, 0, 1], atol=1e-4)
    first_face = affine @ [-0.5, -0.5, 0, 1] - trained @ [-0.5, -0.5, 0, 1]
    np.testing.assert_allclose(first_face[:3], [-1.1, -4.0, 0], atol=1e-9)


def test_stores_are_filled_tile_by_tile_decoded_and_a_stopped_run_goes_on():
    network, z = tiny(channels=2), latents()[0]
    inferer = ImplicitInferer(Frame.of((20, 13)), 8)
    levels = [Level(np.zeros((20, 13), np.int16), np.eye(4), name) for name in ("one", "two")]

    class StopError(Exception):
        pass

    written = []

    def decode(values: np.ndarray) -> np.ndarray:
        written.append(values.shape)
        if len(written) == 6:
            raise StopError
        return 1000 * values

    with pytest.raises(StopError):
        inferer.fill(z, network, levels, decode)
    inferer.fill(z, network, levels, decode)
    assert len(written) == 2 * len(inferer.grid) + 2, "only the tile that was cut short was made twice"
    for level, image in zip(levels, inferer(z[None], network)[0]):
        np.testing.assert_array_equal(level.array, np.rint(1000 * image.numpy().astype(np.float32)).astype(np.int16))
    with pytest.raises(InputError, match="one store of the frame's shape per channel"):
        inferer.fill(z, network, levels[:1])


def test_each_latent_modulates_the_layers_once():
    network, calls = tiny(), []
    modulate = network.modulate
    network.modulate = lambda style: calls.append(len(style)) or modulate(style)
    ImplicitInferer(Frame.of((20, 13)), 4, 10)(latents(3), network)
    assert calls == [1, 1, 1]


def test_live_memory_does_not_grow_with_the_image():
    network, z, peaks = tiny(), latents()[0], []
    for size in (16, 40):
        sink = []
        with LiveBytes(network.parameters()) as live:
            ImplicitInferer(Frame.of((size, size)), 8, 32).run(z, network, lambda n, t, sink=sink: sink.append(n))
        peaks.append(live.peak)
        assert sink == list(range((size // 8) ** 2))
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spacing": 0.0}, "spacing must be a positive"),
        ({"offset": (1.0, float("nan"))}, "offset must be a finite"),
        ({"size": (8,)}, "size must give"),
        ({"spacing": (1.0, 1.0, 1.0)}, "each of 2 axes"),
    ],
)
def test_impossible_frames_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Frame.of((8, 8), 1.0, **arguments)


def test_a_frame_with_other_axes_than_the_generator_is_refused():
    with pytest.raises(InputError, match="generator's 2 axes"):
        ImplicitInferer(Frame.of((8, 8, 8)))(latents(), tiny())
