"""What a stage learns from is what it is fed at inference, and a sample depends on (seed, epoch, index) alone."""

from __future__ import annotations

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import MemoryStores
from hiresmed.methods.msgan import (
    CascadeInferer,
    GradientSketch,
    MultiScaleBatch,
    MultiScaleGenerator,
    MultiScalePatches,
    prepare_case,
)
from hiresmed.methods.msgan.cascade_run import CascadeRun
from hiresmed.methods.msgan.generator import extend
from hiresmed.methods.msgan.stage_inputs import enlarge, stage_input

WINDOW = (-1024, 1024)
OBLIQUE = np.array([[0.0, -0.9, 0.1, 3], [0.8, 0, 0, 4], [0, 0.1, -2.0, 5], [0, 0, 0, 1]])  # permuted and flipped
SHAPES = {3: (61, 50, 38), 2: (101, 74)}


def image(dims: int, seed: int = 0) -> ArrayVolume:
    shape = SHAPES[dims]
    bricks = np.random.default_rng(seed).integers(-1400, 1400, [-(-n // 9) for n in shape])
    for axis in range(dims):
        bricks = bricks.repeat(9, axis)
    return ArrayVolume(bricks[tuple(slice(0, n) for n in shape)].astype(np.int16), OBLIQUE)


def network(dims: int, **options) -> MultiScaleGenerator:
    small = {"width": 8, "num_blocks": 1, "fine_width": 4}
    torch.manual_seed(0)
    return MultiScaleGenerator(dims, num_stages=2, base=small, stage=small, **options).eval()


def encode(values: np.ndarray) -> np.ndarray:
    return CascadeInferer(GradientSketch(), None, window=WINDOW).encode(values)


def prepared(dims: int, base_size: int = 30, seed: int = 0):
    return prepare_case(image(dims, seed), GradientSketch(), encode, 2, base_size, None)


def patches(dims: int, **options) -> MultiScalePatches:
    cases = options.pop("cases", None) or [prepared(dims)]
    options = {"patch_size": 16, "base_patch": 16, "iterations": 40, "base_share": 0.4} | options
    return MultiScalePatches(cases, options.pop("network", None) or network(dims), WINDOW, **options)


def same(a: dict, b: dict) -> bool:
    if a.keys() != b.keys():
        return False
    for key, x in a.items():
        y = b[key]
        if not (torch.equal(x, y) if torch.is_tensor(x) else same(x, y) if isinstance(x, dict) else x == y):
            return False
    return True


# ---- parity with inference


def cascade_run(dims: int, generator=None, **options) -> CascadeRun:
    options |= {"num_scales": 2, "window": WINDOW, "noise": 0, "progress": False}
    inferer = CascadeInferer(GradientSketch(), None, 16, **options)
    run = CascadeRun(inferer, MemoryStores(None), {"image": image(dims)}, generator or network(dims))
    run.keeps_means = False  # super-resolution corrects the stages' images; training does not
    run.run()
    return run


def places(shape, size: int, alignment: int) -> list[list[int]]:
    """Starts of patches at both faces, beyond them, and inside."""
    dims = len(shape)
    last = [max(0, n - size + 4) // alignment * alignment for n in shape]
    return [[0] * dims, [-4] * dims, [4] * dims, last]


@pytest.mark.parametrize("dims", [2, 3])
def test_training_feeds_each_stage_what_inference_feeds_it_at_the_same_place(dims):
    """Sketch, enlarged coarse image and coordinates of the same box, at faces and inside, on every level."""
    run, data = cascade_run(dims), patches(dims, corruption=0.0, training=False)
    for level, real in zip(run.levels, run.images):
        level.array[...] = real.read([0] * dims, real.shape)  # training goes from real coarse images
    (case,) = data.cases
    assert [level.shape for level in case.images] == [level.shape for level in run.levels]
    for level in range(3):
        size, field = 16, data.fields[0 if level == 2 else 1]
        assert field == run.fields[level]
        for start in places(run.levels[level].shape, size, field.alignment):
            sample = data._conditions(case, level, start, size, np.random.default_rng(0))
            sample["noise"].zero_()
            fed = stage_input({k: v[None] for k, v in sample.items()}, 2)
            read = run._read(level, [s - field.halo for s in start], [size + 2 * field.halo] * dims)
            assert fed.shape == read.shape
            assert torch.allclose(fed, read, rtol=0, atol=2e-7), (level, start)
            assert read[:, : 1 if level == 2 else 2].std() > 0.02, "there is something to compare"


def test_the_image_to_learn_is_the_one_in_the_middle_of_what_is_fed():
    data = patches(2, base_share=0.0, training=False, corruption=0.0)
    for index in range(6):
        sample = data[index]
        halo = (sample["sketch"].shape[-1] - 16) // 2
        # without halo, the sketch drawn from the sample's own image differs at its rim only
        inner = GradientSketch()(sample["image"][None])[0]
        rim = GradientSketch().halo
        fed = sample["sketch"][..., halo + rim : -halo - rim, halo + rim : -halo - rim]
        assert torch.allclose(fed, inner, atol=0.5 / 255 + 1e-6)


# ---- a function of (seed, epoch, index)


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone():
    data, again = patches(2, rollout=0.5, seed=5), patches(2, rollout=0.5, seed=5)
    order = np.random.default_rng(0).permutation(40)
    for epoch in (1, 2):
        for dataset in (data, again):
            dataset.set_epoch(epoch)
        forward = [data[i] for i in range(40)]
        shuffled = {int(i): again[int(i)] for i in order}
        assert all(same(forward[i], shuffled[i]) for i in range(40))
    data.set_epoch(1)
    other_epoch = sum(same(data[i], forward[i]) for i in range(40))
    other_seed = sum(same(patches(2, rollout=0.5, seed=6)[i], again[i]) for i in range(40))
    assert other_epoch == other_seed == 0
    assert {s["stage"] for s in forward} == {0, 1, 2}
    assert 2 <= sum("below" in s for s in forward) <= 38


def test_validation_sees_the_same_patches_in_every_epoch_unflipped_and_clean():
    data = patches(2, training=False, corruption=0.5)
    first = [data[i] for i in range(8)]
    data.set_epoch(7)
    assert all(same(a, data[i]) for i, a in enumerate(first))
    clean = patches(2, training=False, corruption=0.0)
    assert all(same(a, clean[i]) for i, a in enumerate(first))


def test_two_processes_together_see_what_one_sees(monkeypatch):
    """Global batches of 4: the ranks' halves put together are one process's batch."""
    case = prepared(2)
    alone = patches(2, cases=[case], batch_size=4)
    batches = [[alone[4 * b + i] for i in range(4)] for b in range(6)]
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        half = patches(2, cases=[case], batch_size=4)
        assert len(half) == len(alone) // 2
        for b in range(6):
            for i in range(2):
                assert same(half[2 * b + i], batches[b][2 * rank + i])


def test_a_batch_belongs_to_one_kind_of_stage_and_the_base_gets_its_share():
    data = patches(2, batch_size=4, iterations=60, base_share=0.3)
    kinds = [{min(data[4 * b + i]["stage"], 1) for i in range(4)} for b in range(60)]
    assert all(len(kind) == 1 for kind in kinds)
    assert 8 <= sum(kind == {0} for kind in kinds) <= 29
    own = patches(2, batch_size=4, iterations=30, network=network(2, weights="per_scale"))
    stages = [{own[4 * b + i]["stage"] for i in range(4)} for b in range(30)]
    assert all(len(stage) == 1 for stage in stages), "stages with weights of their own do not share a batch"
    assert set().union(*stages) == {0, 1, 2}


def test_flips_move_everything_together():
    """The mirrored sample is the clean one mirrored: image, sketch and coarse; and left stays left."""
    data = patches(3, corruption=0.0, base_share=0.5)
    flipped_axes = set()
    for index in range(12):
        found = data[index]
        data.training = False
        clean = data[index]
        data.training = True
        axes = next(
            a for a in ([], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
            if torch.equal(found["image"], clean["image"].flip(a))
            and torch.equal(found["sketch"], clean["sketch"].flip(a))
        )  # fmt: skip
        flipped_axes.add(tuple(axes))
        for key in ("noise", "coarse", "coordinates"):
            if key in found:
                assert torch.equal(found[key], clean[key].flip(axes)), key
    assert len(flipped_axes) > 3


def rolled_input(data: MultiScalePatches, generator, level: int, start) -> tuple[torch.Tensor, int]:
    """Input of a stage whose coarse image is generated, without noise, and its halo."""
    (case,), chance = data.cases, np.random.default_rng(0)
    sample = {"stage": case.coarsest - level, "image": torch.zeros(1, *[16] * len(start))}
    sample |= data._conditions(case, level, start, 16, chance) | {"below": data._below(case, level, start, 16, chance)}
    sample["noise"].zero_()
    sample["below"]["noise"].zero_()
    return MultiScaleBatch(generator)(MultiScalePatches.collate([sample]), torch.device("cpu")).inputs[0], data.fields[
        1
    ].halo


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("level", "start_from"), [(0, "real"), (1, "generated")])
def test_rollout_feeds_a_stage_what_inference_feeds_it(dims, level, start_from):
    """Level 0: stage 1 goes from the real image; level 1: the base goes from its sketch. To the rounding of int16."""
    generator = network(dims)
    run = cascade_run(dims, generator, first_image=start_from)
    data = patches(dims, corruption=0.0, network=generator)
    for start in places(run.levels[level].shape, 16, 2):
        fed, halo = rolled_input(data, generator, level, start)
        read = run._read(level, [s - halo for s in start], [16 + 2 * halo] * dims)
        assert torch.allclose(fed, read, rtol=0, atol=2 / 1024), start
        assert read[:, 0].std() > 0.02


@pytest.mark.parametrize("dims", [2, 3])
def test_a_stage_that_adds_nothing_is_rolled_out_to_the_enlarged_image(dims):
    generator = network(dims)
    for weight in generator.stages.parameters():
        torch.nn.init.zeros_(weight)
    data = patches(dims, corruption=0.0, network=generator)
    images = data.cases[0].images
    coarse = torch.from_numpy(encode(images[2].read([0] * dims, images[2].shape)))[None, None]
    middle = enlarge(coarse, 2)[(..., *(slice(0, n) for n in images[1].shape))]
    for start in places(images[0].shape, 16, 2):
        fed, halo = rolled_input(data, generator, 0, start)
        fine = enlarge(extend(middle, [(40, 40)] * dims), 2)
        box = tuple(slice(80 + s - halo, 80 + s + 16 + halo) for s in start)
        assert torch.allclose(fed[0, 0], fine[(0, 0, *box)], atol=1e-6), start


# ---- mistakes


def test_a_configuration_that_no_case_can_teach_is_refused():
    small = prepared(2, base_size=200)
    assert small.coarsest == 0
    with pytest.raises(InputError, match="training the finer stages must have at least one case"):
        patches(2, cases=[small])
    assert len(patches(2, cases=[small], base_share=1.0)) == 40
    restricted = prepared(2)
    restricted.stages = [1]
    with pytest.raises(InputError, match="training the base must have at least one case"):
        patches(2, cases=[restricted])


def test_samples_of_one_stage_make_a_batch():
    data = patches(3, rollout=1.0, base_share=0.0, batch_size=2)
    batch = MultiScalePatches.collate([data[0], data[1]])
    assert batch["image"].shape[:2] == (2, 1) and isinstance(batch["below"], list) and len(batch["stage"]) == 2
    assert torch.equal(batch["image"][1], data[1]["image"])
    made = MultiScaleBatch(network(3))(batch, torch.device("cpu"))
    assert torch.equal(made.real, batch["image"])
    halo = data.fields[1].halo
    seen = made.inputs[0][:, :2, halo:-halo, halo:-halo, halo:-halo]
    assert torch.equal(made.condition, seen), "D judges the image beside what it was drawn from"
