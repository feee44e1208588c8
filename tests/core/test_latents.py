"""Laws: a latent belongs to its number, and the way between two stays where latents lie."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latent_path, latents_of, slerp


def test_an_images_latent_depends_on_seed_and_number_alone():
    whole = latents_of(3, range(40), 128)
    assert torch.equal(latents_of(3, [37, 2, 2], 128), whole[[37, 2, 2]])
    assert not torch.equal(latents_of(4, [2], 128)[0], whole[2])
    assert latents_of(3, [], 128).shape == (0, 128)


def test_latents_are_standard_normal_and_images_independent():
    z = latents_of(0, range(500), 128)
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.02
    correlation = torch.corrcoef(z[:60])
    assert (correlation - torch.eye(60)).abs().max() < 0.5
    assert abs((z[:-1] * z[1:]).mean()) < 0.02, "neighbours share nothing"


def test_the_way_begins_and_ends_at_its_images_and_keeps_their_length():
    ends = latents_of(0, [3, 7, 1], 128)
    path = latent_path(0, [3, 7, 1], 6, 128)
    assert path.shape == (13, 128)
    assert torch.equal(path[[0, 6, 12]], ends)
    lengths = path.norm(dim=1)
    assert lengths.min() > 0.9 * ends.norm(dim=1).min(), "a straight way would come as near as 0.7"
    steps = (path[1:] - path[:-1]).norm(dim=1)
    assert steps[:6].max() / steps[:6].min() < 1.2, "equal steps"


def test_halfway_between_two_right_angled_unit_vectors_is_at_45_degrees():
    a, b = torch.eye(2)
    torch.testing.assert_close(slerp(a, b, 0.5), torch.full((2,), 0.5**0.5))
    assert torch.equal(slerp(a, a, 0.3), a)


@pytest.mark.parametrize(("stations", "steps"), [([3], 4), ([1, 2], 0), ([1, "x"], 4), ([1, -2], 4)])
def test_a_way_that_is_none_is_refused(stations, steps):
    with pytest.raises(InputError, match=r"interpolate|steps"):
        latent_path(0, stations, steps, 8)
