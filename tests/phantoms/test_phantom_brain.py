"""Laws of the procedural brain: a seed is a patient, regions nest, only the place tells a tumour from its double."""

from __future__ import annotations

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.phantoms.brain import BrainPhantom
from hiresmed.phantoms.brain_contrast import draw_contrast
from hiresmed.phantoms.brain_lesions import draw_lesions

SMALL = (44, 52, 40)  # 4 mm voxels


@pytest.fixture(scope="module")
def patients():
    return [BrainPhantom(SMALL, seed=seed, noise=False) for seed in range(6)]


@pytest.fixture(scope="module")
def read(patients):
    return [p.read() for p in patients]


def test_a_seed_gives_the_same_bytes_and_another_seed_another_patient():
    first, again, other = (BrainPhantom((20, 22, 18), seed=s).read() for s in (3, 3, 4))
    assert first[0].tobytes() == again[0].tobytes() and first[1].tobytes() == again[1].tobytes()
    assert (first[0] != other[0]).mean() > 0.1


@pytest.mark.parametrize("contrast", ["standard", "varied", "random"])
def test_images_are_finite_never_negative_and_zero_exactly_outside_one_brain_of_plausible_volume(contrast):
    for seed in (0, 5):
        phantom = BrainPhantom(SMALL, seed=seed, contrast=contrast)
        image, label = phantom.read()
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert np.isfinite(image).all() and image.min() == 0
        inside = image[0] > 0
        assert all(((channel > 0) == inside).all() for channel in image)
        assert not label[~inside].any()
        assert 0.9 < inside.sum() * np.prod(phantom.spacing) / 1e6 < 2.2  # litres
        assert not np.concatenate([inside[[0, -1]].ravel(), inside[:, [0, -1]].ravel(), inside[..., -1:].ravel()]).any()


@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 12, 9), (3, 70, 20)])
def test_any_shape_shows_the_same_field_of_view(shape):
    phantom = BrainPhantom(shape, seed=1)
    image, _ = phantom.read()
    assert image.shape == (4, *shape)
    np.testing.assert_allclose(np.array(phantom.spacing) * shape, (176, 208, 160))
    share = (image[0] > 0).mean()
    assert 0.15 < share < 0.4
    middle = phantom.affine @ [*(np.array(shape) - 1) / 2, 1]
    np.testing.assert_allclose(middle[:3], 0, atol=1e-9)


def test_a_finer_grid_shows_the_same_patient():
    coarse, fine = (BrainPhantom((n * 22, n * 26, n * 20), seed=2, noise=False).read() for n in (1, 2))
    mean = fine[0].reshape(4, 22, 2, 26, 2, 20, 2).mean(axis=(2, 4, 6))
    share = (fine[1] > 0).reshape(22, 2, 26, 2, 20, 2).mean(axis=(1, 3, 5))
    for channel, expected in zip(coarse[0], mean):
        assert np.corrcoef(channel.ravel(), expected.ravel())[0, 1] > 0.93
    assert np.corrcoef((coarse[1] > 0).ravel(), share.ravel())[0, 1] > 0.8


def test_every_label_lies_in_the_left_half_and_every_patient_has_a_tumour(read):
    for _, label in read:
        assert set(np.unique(label)) <= {0, 1, 2, 3}
        assert (label > 0).sum() > 40
        assert not label[: SMALL[0] // 2].any()


def test_enhancement_lies_around_necrosis_inside_oedema_in_high_grade_patients(patients, read):
    checked = 0
    for phantom, (_, label) in zip(patients, read):
        if phantom.lesions[0].low_grade:
            continue
        codes = [np.argwhere(label == c) for c in (1, 3, 2)]
        assert all(len(c) for c in codes)
        centre = codes[0].mean(axis=0)
        near = [np.linalg.norm((c - centre) * phantom.spacing, axis=1).mean() for c in codes]
        assert near[0] < near[1] < near[2]
        checked += 1
    assert checked >= 3


def test_the_double_has_the_tumours_own_look_and_no_label():
    """Left out or put in, the lesion on the right changes the image there and never the label."""
    ratios = []
    for seed in range(6):
        both = BrainPhantom(SMALL, seed=seed, noise=False)
        image, label = both.read()
        alone = BrainPhantom(SMALL, seed=seed, noise=False, tumour=False)
        only_double, none = alone.read()
        assert not none.any() and alone.lesions[0] is not None
        np.testing.assert_array_equal(alone.lesions[0].centre, both.lesions[1].centre)
        assert both.lesions[1].centre[0] < 0 < both.lesions[0].centre[0]
        right = only_double[:, : SMALL[0] // 2]
        flair = right[3][right[3] > 0]
        white = np.median(flair)
        tumour = np.median(image[3][label == 2])
        double = np.percentile(flair, 99)
        ratios.append(((double - white) / white, (tumour - white) / white))
    assert all(d > 0.3 and t > 0.3 for d, t in ratios)


def test_lesions_of_both_sides_come_from_one_distribution():
    drawn = [draw_lesions(seed, True, True) for seed in range(400)]
    for value in ("radius", "halo", "rim", "push", "low_grade"):
        left, right = (np.array([getattr(pair[k], value) for pair in drawn], dtype=float) for k in (0, 1))
        assert abs(left.mean() - right.mean()) < 4 * np.sqrt((left.var() + right.var()) / 400)
    left, right = (np.array([pair[k].centre for pair in drawn]) for k in (0, 1))
    assert (left[:, 0] > 0).all() and (right[:, 0] < 0).all()
    assert (np.abs(np.abs(left).mean(0) - np.abs(right).mean(0)) < 3).all()


def test_without_the_double_tumours_lie_on_either_side():
    sides = [np.sign(draw_lesions(seed, True, False)[0].centre[0]) for seed in range(60)]
    assert 15 < sides.count(1.0) < 45
    assert draw_lesions(0, False, False) == []


def test_tissues_keep_the_textbook_order_of_each_sequence(patients, read):
    """Ventricle, white matter and tumour parts: dark and bright where a radiologist expects them."""
    for phantom, (image, label) in zip(patients[:4], read):
        at = lambda code, m: np.median(image[m][label == code])  # noqa: E731, B023
        healthy = [v[(v > 0) & (label == 0)] for v in image]
        usual, bright = [np.median(v) for v in healthy], [np.percentile(v, 90) for v in healthy]
        assert at(2, 3) > 1.5 * usual[3]  # oedema: bright in flair
        assert at(2, 2) > 1.25 * np.percentile(healthy[2], 20)  # and in t2, where white matter is dark
        assert at(2, 0) < 0.9 * bright[0]  # darker than white matter in t1
        liquid = image[2] > np.percentile(healthy[2], 97)
        assert np.median(image[3][liquid]) < 0.75 * usual[3]  # bright in t2, dark in flair
        if not phantom.lesions[0].low_grade:
            assert at(3, 1) / bright[1] > 1.25 * at(3, 0) / bright[0]  # the rim takes up contrast agent
            assert at(1, 1) < 0.9 * bright[1]


def kept_order(contrast: str) -> float:
    """Share of examinations whose liquor is darkest in t1 and flair, brightest in t2, and oedema brightest in flair."""
    kept = []
    for seed in range(300):
        means = draw_contrast(seed, contrast).means
        t1, t2, flair = ({tissue: float(values[n, 0]) for tissue, values in means.items()} for n in (0, 2, 3))
        brain = ("grey", "white")
        kept.append(
            all(t1["csf"] < t1[b] and flair["csf"] < flair[b] for b in brain)
            and all(t2["csf"] > t2[b] and flair["oedema"] > flair[b] for b in brain)
        )
    return sum(kept) / len(kept)


def test_varied_contrast_varies_and_keeps_what_a_sequences_name_promises():
    assert kept_order("standard") == 1 and kept_order("varied") > 0.95 and kept_order("random") < 0.4
    greys = [float(draw_contrast(seed, "varied").means["grey"][3, 0]) for seed in range(300)]
    assert np.std(greys) > 0.05, "the textbook's own deviation is .02"


def test_random_contrast_changes_the_looks_but_remains_a_brain_with_the_same_lesions():
    standard, wild = (BrainPhantom(SMALL, seed=7, contrast=c) for c in ("standard", "random"))
    np.testing.assert_array_equal(standard.lesions[0].centre, wild.lesions[0].centre)
    (a, la), (b, lb) = standard.read(), wild.read()
    overlap = 2 * ((la > 0) & (lb > 0)).sum() / ((la > 0).sum() + (lb > 0).sum())
    assert overlap > 0.5
    both = (a[0] > 0) & (b[0] > 0)
    assert min(np.corrcoef(x[both], y[both])[0, 1] for x, y in zip(a, b)) < 0.6


def test_noise_is_rician_at_its_level_and_can_be_left_out():
    phantom, quiet = (BrainPhantom((40, 48, 40), seed=1, noise=n) for n in (True, False))
    (loud, _), (still, _) = phantom.read(), quiet.read()
    for n in range(4):
        bright = still[n] > np.percentile(still[n][still[n] > 0], 50)
        sigma = float(phantom.contrast.noise[n, 0] * phantom.contrast.gain[n, 0])
        assert (loud[n] - still[n])[bright].std() == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"shape": (16, 16)}, {"shape": (16, 0, 16)}, {"spacing": (1, 1, -1)}, {"contrast": "vivid"}]
)
def test_impossible_requests_are_refused_in_a_sentence(wrong):
    with pytest.raises(InputError, match=r"(correct them|choose one of them)\.$"):
        BrainPhantom(**{"shape": (16, 16, 16), **wrong})


@pytest.mark.parametrize("look_alike", [True, False])
def test_the_law_of_place_holds_for_bent_heads_too_and_only_with_the_double(look_alike):
    halves = []
    for seed in range(8):
        _, label = BrainPhantom((30, 26, 20), seed=seed, contrast="random", look_alike=look_alike, noise=False).read()
        halves += [(half > 0).any() for half in (label[:15], label[15:])]
    right, left = halves[::2], halves[1::2]
    assert not any(r and v for r, v in zip(right, left))
    assert all(left) and not any(right) if look_alike else any(left) and any(right)
