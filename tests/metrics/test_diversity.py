"""Laws: a generator of few images is more alike than reality; one that copies is nearer than new patients are."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.diversity import (
    memorisation,
    ms_ssim_diversity,
    ms_ssim_scales,
    nearest_training,
    pair_similarities,
    random_pairs,
)
from monai.metrics.regression import compute_ms_ssim


def pictures(n, seed=0, size=32):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 4, 4, generator=random) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


@pytest.mark.parametrize(("n", "pairs"), [(5, 4), (5, 10), (5, 99), (100, 900), (3000, 50)])
def test_pairs_are_distinct_in_range_and_as_many_as_asked(n, pairs):
    found = random_pairs(n, pairs, seed=1)
    assert len(found) == len(set(found)) == min(pairs, n * (n - 1) // 2)
    assert all(0 <= i < j < n for i, j in found)
    assert found == random_pairs(n, pairs, seed=1)


def test_every_image_comes_into_as_many_pairs_as_any_other():
    counts = torch.zeros(8)
    for seed in range(300):
        for i, j in random_pairs(8, 5, seed):
            counts[i] += 1
            counts[j] += 1
    assert (counts - 375).abs().max() < 4.5 * 15


def test_an_image_is_as_itself_and_a_negative_is_not():
    x = pictures(2)
    found = pair_similarities(torch.cat([x, x[:1], -x[:1]]), [(0, 2), (0, 3), (0, 1)])
    assert found[0].item() == pytest.approx(1, abs=1e-5) and found[1] < 0.1 and found[2] < 0.9


def test_a_batch_of_pairs_gives_each_pairs_own_value():
    """Past one batch of 16; the figures are MONAI's for images in [0, 1]."""
    x = pictures(7)
    pairs = random_pairs(7, 21, 0)
    found = pair_similarities(list(x), pairs)
    assert found.shape == (21,)
    weights = torch.tensor([0.0448, 0.2856])
    for k in (0, 15, 16, 20):
        i, j = pairs[k]
        y, z = (x[i : i + 1] + 1) / 2, (x[j : j + 1] + 1) / 2
        expected = compute_ms_ssim(y, z, 2, 1.0, weights=(weights / weights.sum()).tolist())
        assert found[k].item() == pytest.approx(expected.item(), abs=1e-5)


def test_images_too_small_for_five_scales_take_those_that_fit():
    sizes = (11, 21, 22, 43, 44, 98, 99, 175, 176, 256)
    assert [ms_ssim_scales((n, 300)) for n in sizes] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert ms_ssim_scales((64, 64, 64)) == 3
    with pytest.raises(InputError, match="at least 11"):
        ms_ssim_scales((10, 300))
    for n in (11, 22, 44, 99, 176):  # MONAI takes them
        pair_similarities(torch.zeros(2, 1, n, n), [(0, 1)])


def test_a_collapsed_generator_is_more_alike_than_the_real_images():
    real = pictures(20)
    diverse = ms_ssim_diversity(pictures(20, 1), real, pairs=40)
    collapsed = ms_ssim_diversity(pictures(1, 2) + 0.02 * pictures(20, 1), real, pairs=40)
    assert diverse["real_value"] == collapsed["real_value"] and diverse["pairs"] == 40
    assert abs(diverse["value"] - diverse["real_value"]) < 5 * diverse["standard_error"] + 0.02
    assert collapsed["value"] > 0.9 > diverse["real_value"] + 0.2


def test_both_sides_are_measured_on_the_same_number_of_pairs():
    found = ms_ssim_diversity(pictures(3), pictures(10), pairs=40)
    assert found["pairs"] == 3 and found["n_generated"] == 3 and found["n_real"] == 10
    with pytest.raises(InputError, match="one shape"):
        ms_ssim_diversity(pictures(3), pictures(3, size=64))
    with pytest.raises(InputError, match="two images"):
        ms_ssim_diversity(pictures(1), pictures(3))


def test_the_standard_error_is_the_deviation_of_new_samples_of_images():
    """All 28 pairs of 8 images share images: pairs taken for independent would give half of it."""
    figures = [ms_ssim_diversity(pictures(8, seed), pictures(8, 99), pairs=28) for seed in range(40)]
    deviation = torch.tensor([f["value"] for f in figures]).std()
    claimed = torch.tensor([f["standard_error"] for f in figures]).mean()
    assert 0.7 < claimed / deviation < 1.5


def test_volumes_are_compared_as_volumes():
    x = torch.nn.functional.interpolate(torch.rand(3, 1, 3, 3, 3) * 2 - 1, (12, 12, 12), mode="trilinear")
    assert pair_similarities(torch.cat([x, x[:1]]), [(0, 3), (0, 1)])[0].item() == pytest.approx(1, abs=1e-5)


def test_the_nearest_training_image_is_found_over_all_batches():
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(13, 5, generator=random), torch.randn(40, 5, generator=random)
    expected = torch.cdist(x.double(), y.double()).min(1)
    for training in (y, y.split(7), iter(y.split(7))):
        found, index = nearest_training(x, training)
        torch.testing.assert_close(found, expected.values, rtol=1e-9, atol=1e-9)
        assert torch.equal(index, expected.indices)
    with pytest.raises(InputError, match="at least one"):
        nearest_training(x, [])
    with pytest.raises(InputError, match="one dimension"):
        nearest_training(x, y[:, :4])


def test_copies_stand_out_against_new_patients_and_new_images_do_not():
    random = torch.Generator().manual_seed(0)
    training, held_out, fresh = (torch.randn(n, 6, generator=random) for n in (300, 100, 100))
    copies = training[:100] + 1e-3
    honest, copied = memorisation(fresh, training, held_out), memorisation(copies, training.split(70), held_out)
    assert 0.8 < honest["median_ratio"] < 1.25 and honest["near"] < 0.06
    assert copied["median_ratio"] < 0.01 and copied["near"] == 1
    assert copied["closest"][0] == copied["closest"][1] < 100 and copied["n_training"] == 300
    assert "near" not in memorisation(fresh, training)
