"""Noise belongs to the place: any box of it is a crop of the one endless lattice of its seed and stream."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.noise import place_noise


def crop(noise: np.ndarray, origin, start, shape) -> np.ndarray:
    return noise[tuple(slice(s - o, s - o + n) for s, o, n in zip(start, origin, shape))]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_box_anywhere_is_a_crop_also_at_negative_places_and_across_blocks(dims):
    origin, shape = (-70, -33, -5)[:dims], (140, 70, 44)[:dims]
    lattice = place_noise(11, origin, shape, stream=2)
    draw = np.random.default_rng(0)
    for _ in range(20):
        start = [int(o + draw.integers(0, n)) for o, n in zip(origin, shape)]
        size = [int(draw.integers(1, o + n - s + 1)) for o, n, s in zip(origin, shape, start)]
        assert np.array_equal(place_noise(11, start, size, stream=2), crop(lattice, origin, start, size))


def test_it_is_standard_normal_and_white():
    noise = place_noise(0, (-48, 5, 1000), (96, 96, 96)).astype(np.float64)
    n = noise.size
    assert abs(noise.mean()) < 4 / n**0.5 and abs(noise.std() - 1) < 4 / (2 * n) ** 0.5
    assert abs((noise**3).mean()) < 0.02 and abs((noise**4).mean() - 3) < 0.05
    for axis in range(3):
        for lag in (1, 31, 32, 33):  # within a block, and from one block to the next
            moved = np.moveaxis(noise, axis, 0)
            assert abs((moved[lag:] * moved[:-lag]).mean()) < 5 / n**0.5


def test_seeds_streams_and_blocks_are_strangers_to_one_another():
    """Also where a position, a stream or a seed differs only by sign, by an axis' order, or by 2**24."""
    block = (32, 32, 32)
    fields = [
        place_noise(seed, start, block, stream)
        for seed, start, stream in [
            (0, (0, 0, 0), 0), (1, (0, 0, 0), 0), (-1, (0, 0, 0), 0), (2**24, (0, 0, 0), 0), (0, (0, 0, 0), 1),
            (0, (512, 0, 0), 0), (0, (32, 0, 0), 0), (0, (0, 32, 0), 0), (0, (0, 0, 32), 0), (0, (-32, 0, 0), 0),
            (0, (0, 0, -32), 0),
        ]
    ]  # fmt: skip
    correlation = np.corrcoef([f.ravel() for f in fields]) - np.eye(len(fields))
    assert np.abs(correlation).max() < 5 / fields[0].size ** 0.5


def test_the_numbers_are_those_of_always():
    """A golden value: a change here changes every image that was ever made with a seed."""
    golden = [[0.9820086359977722, -0.719971776008606], [1.4206767082214355, 2.5834810733795166]]
    assert place_noise(7, (-1, 40), (2, 2), stream=3).tolist() == golden
