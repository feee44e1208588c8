"""Laws: a view of a set changes nothing but what it says; shares are disjoint; a subject is in one section."""

from __future__ import annotations

import ignite.distributed as idist
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.datasets import ImageSet, ImagesOnly, MriSlices, ShuffledImages, image_loader, mri_cases
from hiresmed.training import Seeding
from monai.data import Dataset

PHANTOM = {"shape": [12, 14, 20]}


class Numbers(list):
    """Images whose pixels are all their number over 100."""

    def __init__(self, count):
        super().__init__({"image": torch.full((1, 4, 4), k / 100), "name": f"n{k}"} for k in range(count))


def numbers_of(images):
    return [round(100 * float(images[k]["image"].mean())) for k in range(len(images))]


def processes(monkeypatch, rank, world):
    monkeypatch.setattr(idist, "get_world_size", lambda: world)
    monkeypatch.setattr(idist, "get_rank", lambda: rank)


def test_a_thinned_set_is_spread_evenly_and_numbered_from_0():
    view = ImageSet(Numbers(10), most=4)
    assert numbers_of(view) == [0, 2, 5, 7]
    assert [view[k]["number"] for k in range(4)] == [0, 1, 2, 3]
    assert numbers_of(ImageSet(Numbers(3), most=99)) == [0, 1, 2]


def test_exactly_so_many_are_given_in_turn_where_there_are_fewer():
    view = ImageSet(Numbers(3), exactly=5)
    assert numbers_of(view) == [0, 1, 2, 0, 1] and [view[k]["number"] for k in range(5)] == [0, 1, 2, 3, 4]
    assert numbers_of(ImageSet(Numbers(10), exactly=4)) == numbers_of(ImageSet(Numbers(10), most=4))


def test_a_set_tells_the_patients_of_its_images_without_opening_one():
    cases = [{"image": f"{n}.png", "subject": f"p{n // 2}"} for n in range(6)]
    assert ImagesOnly(Dataset(cases)).subjects == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert ImagesOnly(ImageSet(Dataset(cases), most=3)).subjects == ["p0", "p1", "p2"]
    slices = MriSlices(cases=mri_cases(None, "validation", phantoms=4, phantom=PHANTOM), size=16)
    assert slices.subjects == [slices[n]["subject"] for n in range(len(slices))]
    assert ImagesOnly([{"image": 0}]).subjects is None


def test_processes_share_a_set_without_remainder_or_overlap_and_agree_on_its_numbers(monkeypatch):
    seen = {}
    for rank in range(3):
        processes(monkeypatch, rank, 3)
        view = ImageSet(Numbers(10), share=True)
        seen |= {view[k]["number"]: number for k, number in enumerate(numbers_of(view))}
    assert seen == {k: k for k in range(10)}


def test_the_published_range_and_channels_are_a_linear_map_of_equal_copies():
    grey = torch.linspace(-1, 1, 16).view(1, 4, 4)
    image = ImageSet([{"image": grey}], channels=3, value_range=(0, 1))[0]["image"]
    torch.testing.assert_close(image, (grey.expand(3, 4, 4) + 1) / 2)
    assert torch.equal(ImageSet([{"image": grey}])[0]["image"], grey)
    assert torch.equal(ImagesOnly(ImageSet([{"image": grey}]))[0], grey)


def test_phantoms_show_the_slices_through_their_middle():
    cases = mri_cases(None, "training", phantoms=4, phantom=PHANTOM)
    images = MriSlices(cases=cases, slices=(60, 107), size=16)
    per_case = 14 - 8 + 1  # round(60 / 155 * 20) to round(107 / 155 * 20)
    assert len(images) == 3 * per_case and images[0]["name"].endswith("_008")
    held_back = mri_cases(None, "validation", phantoms=4, phantom=PHANTOM)
    assert not {c["subject"] for c in cases} & {c["subject"] for c in held_back}


@pytest.fixture
def folder(tmp_path):
    """Ten subjects in BraTS's layout; one more has a T1 alone."""
    values = np.random.default_rng(0).integers(1, 99, (6, 8, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    for n in range(10):
        (tmp_path / f"s{n}").mkdir()
        for sequence in ("t1", "t1ce", "t2", "flair"):
            nibabel.save(image, tmp_path / f"s{n}" / f"s{n}_{sequence}.nii")
    return tmp_path


def subjects(cases):
    return [case["subject"] for case in cases]


def test_a_folders_subjects_are_split_once_and_for_all_and_counted_by_name(folder):
    training, validation = (subjects(mri_cases(folder, section)) for section in ("training", "validation"))
    assert sorted(training + validation) == [f"s{n}" for n in range(10)] and training and validation
    assert subjects(mri_cases(folder, "training", num_subjects=3)) == sorted(training)[:3]
    with pytest.raises(InputError, match=f"at most the {len(training)} subjects .* got 11"):
        mri_cases(folder, "training", num_subjects=11)


def test_a_list_mixes_files_of_one_sequence_and_phantoms(folder):
    entries = [
        {"subject": "s0", "t1": "s0/s0_t1.nii", "slices": [1, 2]},
        {"phantom": 3},
        {"subject": "s1", "t1": "s1/s1_t1.nii", "section": "validation"},
    ]
    cases = mri_cases(folder, "training", cases_list=entries, phantom=PHANTOM)
    images = MriSlices(cases=cases, contrasts=["t1"], slices=None, size=16, fit="square")
    assert [images[k]["subject"] for k in (0, 1, 2)] == ["s0", "s0", "brain_phantom_3"]
    assert len(images) == 2 + 7
    assert subjects(mri_cases(folder, "validation", cases_list=entries, phantom=PHANTOM)) == ["s1"]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([{"t1": "a.nii"}], "got \\['t1'\\] in number 0"),
        ([{"subject": "a"}], "name its subject and a file"),
        ([{"phantom": 1, "section": "validation"}], "training section of cases_list must hold a case"),
    ],
)
def test_a_bad_list_is_named(entries, sentence):
    with pytest.raises(InputError, match=sentence):
        mri_cases(None, "training", cases_list=entries, phantom=PHANTOM)


def test_a_square_fit_stretches_nothing():
    """A disc stays a disc: its extent is the same along rows and columns, whatever the volume's shape."""
    y, x = np.mgrid[:60, :40]
    disc = ((y - 29.5) ** 2 + (x - 19.5) ** 2 < 15**2).astype(np.float32)
    from hiresmed.datasets.mri_slices import fitted

    made = fitted(torch.from_numpy(disc)[None] * 2 - 1, 30, "square", -1.0, "disc")[0] > 0
    rows, columns = (torch.nonzero(made.any(axis)).numel() for axis in (1, 0))
    assert made.shape == (30, 30) and abs(rows - columns) <= 1 and abs(rows - 15) <= 1


def test_a_batch_larger_than_the_set_is_refused_and_each_epoch_has_another_order():
    with pytest.raises(InputError, match="at most the number of training images, 3, got 4"):
        image_loader(Numbers(3), 4)
    loader = image_loader(Numbers(9), 4)
    orders = []
    for epoch in (1, 2, 1):
        loader.sampler.set_epoch(epoch)
        orders.append([item for batch in loader for item in batch["name"]])
    assert len(orders[0]) == 8 and orders[0] == orders[2] != orders[1]
    assert Seeding  # sets that epoch


# ---- endless batches


def images(count: int) -> list[dict]:
    return [{"image": torch.tensor([[float(k), -1.0]])} for k in range(count)]


def shown(dataset: ShuffledImages, epoch: int) -> list[float]:
    dataset.set_epoch(epoch)
    return [float(dataset[k]["image"].max()) for k in range(len(dataset))]


def test_every_image_is_shown_equally_often_in_another_order_each_turn():
    dataset = ShuffledImages(images(5), 3, 5, flip=False, seed=1)
    turns = np.array(shown(dataset, 1) + shown(dataset, 2)).reshape(6, 5)
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 3
    assert shown(dataset, 2) == turns[3:].ravel().tolist(), "an epoch is the same again"


def test_half_of_the_images_are_mirrored_and_none_when_not_asked_for():
    mirrored = [bool(i["image"][0, 0] == -1) for i in map(ShuffledImages(images(4), 50, 4).__getitem__, range(200))]
    assert 70 < sum(mirrored) < 130
    plain = ShuffledImages(images(4), 50, 4, flip="false")
    assert not any(plain[k]["image"][0, 0] == -1 for k in range(200))


def test_processes_share_a_global_batch(monkeypatch):
    def parts(world: int) -> list[float]:
        found = []
        for rank in range(world):
            monkeypatch.setattr("ignite.distributed.get_world_size", lambda world=world: world)
            monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
            found.append(np.array(shown(ShuffledImages(images(7), 3, 4), 2)).reshape(3, -1))
        return np.concatenate(found, 1).ravel().tolist()

    assert parts(1) == parts(2) == parts(4)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 3)
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        ShuffledImages(images(7), 3, 4)
