"""Laws: the figures are the published package's; a reservoir's sample does not depend on who saw which image."""

from __future__ import annotations

import numpy as np
import programs
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics.neighbourhoods import FeatureReservoir, distances, neighbour_radii, prdc

NAMES = ("precision", "recall", "density", "coverage")


def features(n, d, seed, shift=0.0, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=random) * scale + shift).relu_()


@pytest.mark.parametrize(("m", "n", "d", "k", "shift"), [(60, 90, 4, 5, 0.3), (200, 50, 16, 3, 0.1), (40, 40, 2, 1, 0)])
def test_the_four_figures_equal_those_of_the_package_prdc(m, n, d, k, shift):
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    real, generated = features(m, d, 0), features(n, d, 1, shift, 0.8)
    found = prdc(real, generated, k)
    expected = package.compute_prdc(real.double().numpy(), generated.double().numpy(), nearest_k=k)
    assert 0 < found["precision"] < 1.01 and found["density"] > 0
    assert {name: found[name] for name in NAMES} == pytest.approx(expected, rel=1e-15)


def test_ties_and_doubles_on_a_lattice_are_counted_as_the_package_counts_them():
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    random = np.random.default_rng(0)
    for k in (1, 2, 4):
        real, generated = random.integers(0, 4, (50, 3)) + 7.0, random.integers(1, 5, (70, 3)) + 7.0
        found = prdc(torch.from_numpy(real), torch.from_numpy(generated), k)
        assert {n: found[n] for n in NAMES} == pytest.approx(package.compute_prdc(real, generated, k), rel=1e-15)


def test_by_hand_on_a_line():
    """Real 0, 1, 3, 7 have radii 1, 1, 2, 4 (k = 1); generated .5, 3.2, 20, 20.5 have 2.7, 2.7, .5, .5."""
    real, generated = torch.tensor([[0.0], [1], [3], [7]]), torch.tensor([[0.5], [3.2], [20.0], [20.5]])
    assert neighbour_radii(real, 1).tolist() == [1, 1, 2, 4]
    found = prdc(real, generated, 1)
    assert found["precision"] == 2 / 4  # .5 and 3.2
    assert found["density"] == (2 + 2 + 0 + 0) / 4  # .5 lies near 0 and 1; 3.2 near 3 and 7
    assert found["coverage"] == 1
    assert found["recall"] == 3 / 4  # 7 is 3.8 from the nearest


def test_a_collapsed_generator_keeps_precision_and_loses_recall_and_coverage():
    real = features(300, 8, 0)
    found = prdc(real, real[:1] + 1e-3 * features(300, 8, 1))
    assert found["precision"] > 0.9 and found["recall"] < 0.1 and found["coverage"] < 0.1


def test_one_set_against_itself_covers_and_is_covered_and_the_sides_change_places():
    x, y = features(100, 6, 0), features(100, 6, 1, shift=0.5)
    assert [prdc(x, x.flip(0))[name] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert prdc(x, y)["precision"] == prdc(y, x)["recall"]


def test_distances_keep_their_digits_far_from_the_origin_and_past_a_block():
    x = features(1500, 3, 0).double()
    found = torch.cat(list(distances(x + 1e6, x[:7] + 1e6)))
    torch.testing.assert_close(found, torch.cdist(x, x[:7]), rtol=1e-6, atol=1e-6)
    near = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(4, dim=1).values
    torch.testing.assert_close(neighbour_radii(x, 3), near, rtol=1e-6, atol=1e-9)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="one dimension"):
        prdc(torch.zeros(9, 2), torch.zeros(9, 3))
    with pytest.raises(InputError, match="nearest_k=5"):
        prdc(torch.zeros(5, 2), torch.zeros(9, 2))
    with pytest.raises(InputError, match="finite"):
        prdc(torch.full((9, 2), float("nan")), torch.zeros(9, 2))


@pytest.mark.parametrize("cuts", [(50,), (0, 99), (3, 4, 60), tuple(range(1, 100))])
def test_the_sample_depends_on_the_numbers_alone(cuts):
    x = torch.arange(100.0).view(100, 1)
    whole = FeatureReservoir(1, 20, seed=3).update(x)
    parts = [FeatureReservoir(1, 20, seed=3).update(x[part], part.tolist()) for part in np.split(np.arange(100), cuts)]
    merged = parts[-1]
    for part in parts[:-1]:
        merged = merged.merge(part)
    assert merged.n == 100 and len(merged.features) == 20
    assert torch.equal(merged.features, whole.features) and torch.equal(merged.ranks, whole.ranks)


def test_every_image_is_as_likely_to_stay_whatever_its_number():
    kept = torch.zeros(40)
    for seed in range(600):
        kept[FeatureReservoir(1, 10, seed).update(torch.arange(40.0).view(40, 1)).features[:, 0].long()] += 1
    # 150 expected of each, deviation sqrt(600 * .25 * .75) = 10.6; neighbours in number stay apart
    assert (kept - 150).abs().max() < 4.5 * 10.6
    assert ((kept - 150) ** 2).mean() < 2 * 10.6**2


def test_it_knows_which_images_it_kept():
    x = torch.arange(100.0).view(100, 1)
    reservoir = FeatureReservoir(1, 9, seed=3).update(x)
    assert reservoir.numbers() == reservoir.features.flatten().int().tolist()


def test_fewer_images_than_places_all_stay():
    x = features(7, 3, 0)
    held = FeatureReservoir(3, 10).update(x[:4]).update(x[4:])
    assert sorted(held.features.tolist()) == sorted(x.tolist())


def test_an_image_that_comes_twice_and_other_seeds_or_networks_are_refused():
    a = FeatureReservoir(1, 5).update(torch.zeros(3, 1))
    with pytest.raises(InputError, match="got one twice"):
        a.merge(FeatureReservoir(1, 5).update(torch.zeros(3, 1)))
    with pytest.raises(InputError, match="one seed"):
        a.merge(FeatureReservoir(1, 5, seed=1))
    with pytest.raises(InputError, match="one seed"):
        a.merge(FeatureReservoir(1, 5, extractor={"extractor": "random"}))
    with pytest.raises(InputError, match="Each of 2 features must have a number, got 1"):
        a.update(torch.zeros(2, 1), [9])


def test_a_saved_reservoir_comes_back_and_goes_on(tmp_path):
    x = features(30, 4, 0)
    held = FeatureReservoir(4, 8, 2, {"extractor": "random"}).update(x[:20])
    held.save(tmp_path / "real.npz")
    back = FeatureReservoir.load(tmp_path / "real.npz").update(x[20:])
    assert torch.equal(back.features, held.update(x[20:]).features) and back.n == 30
    assert back.extractor == {"extractor": "random"}
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"broken\.npz"):
        FeatureReservoir.load(tmp_path / "broken.npz")


RANK = """
import sys

import ignite.distributed as idist
import torch

from hiresmed.metrics.neighbourhoods import FeatureReservoir

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
idist.initialize("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
x = torch.arange(25.0).view(25, 1)
numbers = range(22) if rank == 0 else range(22, 25)
FeatureReservoir(1, 10).update(x[numbers], numbers).all_gather().save(f"{folder}/{rank}.npz")
idist.finalize()
"""


def test_two_processes_with_uneven_shards_hold_the_sample_of_the_whole(tmp_path):
    ranks = [programs.Program(["-c", RANK, rank, tmp_path]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    whole = FeatureReservoir(1, 10).update(torch.arange(25.0).view(25, 1))
    for rank in range(2):
        held = FeatureReservoir.load(tmp_path / f"{rank}.npz")
        assert held.n == 25 and torch.equal(held.features, whole.features)
