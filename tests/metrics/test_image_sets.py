"""Laws: the figures of two sets are those of their features; copies are found out; a worse set is further away."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.metrics import FeatureDistance, ImageSetMetrics, build_extractor, kernel_distance, prdc
from hiresmed.metrics.features import extract
from hiresmed.metrics.image_sets import SetFeatures
from hiresmed.metrics.moments import FeatureMoments, frechet_distance


def blobs(count, seed=0, size=32, noise=0.0):
    """Images of one bright spot at a random place, and noise."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.arange(size)
    images = []
    for y, x in 8 + 16 * torch.rand(count, 2, generator=random):
        spot = torch.exp(-((axis[:, None] - y) ** 2 + (axis - x) ** 2) / 18) * 2 - 1
        images.append((spot + noise * torch.randn(size, size, generator=random)).clamp(-1, 1)[None])
    return images


@pytest.fixture(scope="module")
def pixels():
    return build_extractor("pixels")


def test_figures_of_the_sets_are_those_of_their_features(pixels):
    real, made = blobs(30, 0), blobs(25, 1, noise=0.1)
    found = ImageSetMetrics("pixels", pairs=10, batch_size=7)(made, real)
    x, y = extract(real, pixels), extract(made, pixels)
    a, b = (FeatureMoments(pixels.dim).update(z) for z in (x, y))
    assert found["pixels_frechet_distance"]["value"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert found["pixels_frechet_distance"]["n_generated"] == 25
    direct = prdc(x, y)
    assert {k: found["pixels_prdc"][k] for k in direct} == direct
    walked = SetFeatures(real, pixels, batch_size=7).reservoir.features
    assert found["pixels_kernel_distance"]["value"] == pytest.approx(
        kernel_distance(walked, SetFeatures(made, pixels, batch_size=7).reservoir.features)["value"], rel=1e-9
    )
    assert found["ms_ssim_diversity"]["pairs"] == 10
    assert found["made_by"]["extractor"] == "pixels"


class OfPatients(list):
    """Images of which each patient has three."""

    @property
    def subjects(self):
        return [f"p{n // 3}" for n in range(len(self))]


def test_the_error_of_the_distance_is_over_patients_and_volumes_not_over_their_slices(pixels):
    real, generated = blobs(12, 0), blobs(10, 1)
    features = SetFeatures(real, pixels).reservoir
    patients = [n // 3 for n in features.numbers()]
    made = SetFeatures(generated, pixels).reservoir.features
    expected = kernel_distance(features.features, made, patients)["standard_error"]
    figures = ImageSetMetrics("pixels", pairs=0)(generated, OfPatients(real))["pixels_kernel_distance"]
    assert figures["standard_error"] == pytest.approx(expected, rel=1e-9) and figures["groups_real"] == 4
    of_volumes = ImageSetMetrics("pixels", pairs=0)(volumes(4), volumes(5, 1))["pixels_kernel_distance"]
    assert (of_volumes["n_real"], of_volumes["groups_real"], of_volumes["groups_generated"]) == (15, 5, 4)


def test_the_same_set_is_at_distance_0_and_covers_itself():
    real = blobs(40, 0)
    found = ImageSetMetrics("pixels", pairs=0)(real, real)
    assert found["pixels_frechet_distance"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["pixels_prdc"]["recall"] == found["pixels_prdc"]["coverage"] == 1
    assert "ms_ssim_diversity" not in found


def test_noise_that_grows_takes_a_set_further_away_while_another_sample_stays_near():
    metrics = ImageSetMetrics("pixels", pairs=0)
    real = blobs(60, 0)
    found = [metrics(blobs(60, 1, noise=s), real) for s in (0.0, 0.1, 0.3)]
    kernel = [f["pixels_kernel_distance"]["value"] for f in found]
    assert abs(kernel[0]) < kernel[1] < kernel[2] and abs(kernel[0]) < 0.1 * kernel[2]
    ratios = [f["pixels_frechet_ratio"]["value"] for f in found]
    assert ratios[0] > ratios[1] > ratios[2]
    assert found[0]["pixels_frechet_ratio"]["n"] == [30, 30], "both distances of equal numbers"


def test_a_generator_that_copies_its_training_images_is_found_out():
    training, new = blobs(40, 0), blobs(20, 1)
    metrics = ImageSetMetrics("pixels", pairs=0)
    copied = metrics(training[:10], blobs(20, 2), training, new)["pixels_memorisation"]
    assert copied["minimum"] == 0 and copied["median_ratio"] == 0
    assert metrics.nearest.tolist() == list(range(10)), "each one's nearest is itself"
    own = metrics(blobs(10, 3), blobs(20, 2), training, new)["pixels_memorisation"]
    assert own["median_ratio"] > 0.5


def test_parts_of_a_set_add_up_to_the_whole(pixels):
    images = blobs(23)
    parts = SetFeatures(images, pixels, part=lambda n: "ab"[n % 2], first=5, batch_size=4)
    whole = FeatureMoments(pixels.dim).update(extract(images, pixels))
    assert parts.combined_moments("a").n == 12 and parts.combined_moments().n == 23
    assert (parts.combined_moments().covariance - whole.covariance).norm() <= 1e-9 * whole.covariance.norm()
    torch.testing.assert_close(parts.first, extract(images[:5], pixels))


def volumes(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 16, 18, 20, generator=random) * 2 - 1


def test_of_volumes_the_three_middle_planes_are_compared_and_copies_are_found_by_the_volume(pixels):
    real, made = volumes(6), volumes(5, 1)
    metrics = ImageSetMetrics("pixels", pairs=4)
    found = metrics(made, real, training=list(made.flip(0)))
    x, y = (torch.cat([pixels(v[:, :, 8]), pixels(v[:, :, :, 9]), pixels(v[..., 10])]) for v in (real, made))
    a, b = (FeatureMoments(pixels.dim).update(z) for z in (x, y))
    assert found["pixels_frechet_distance"]["value"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert found["pixels_frechet_distance"]["n_real"] == 18 and found["pixels_frechet_ratio"]["n"] == [9, 9]
    assert metrics.nearest.tolist() == [4, 3, 2, 1, 0]
    assert found["ms_ssim_diversity"]["n_generated"] == 5
    with pytest.raises(InputError, match="2 or 3 axes"):
        metrics(volumes(5)[None].unbind(1), real)


def test_the_training_metric_takes_volumes_as_it_takes_their_planes(pixels):
    real, made = volumes(6), volumes(5, 1)
    metric = FeatureDistance("pixels", "frechet_distance")
    metric.update((made[:2], real[:4]))
    metric.update((made[2:], real[4:]))
    x, y = (torch.cat([pixels(v[:, :, 8]), pixels(v[:, :, :, 9]), pixels(v[..., 10])]) for v in (real, made))
    sides = [FeatureMoments(pixels.dim).update(z) for z in (x, y)]
    assert metric.compute() == pytest.approx(frechet_distance(*sides), rel=1e-6)
    kernel = FeatureDistance("pixels")
    kernel.update((made, real))
    assert kernel._kept[0].n == 15 and len(kernel._kept[1].ranks.unique()) == 18, "each plane has a number of its own"


def test_images_of_several_sizes_are_taken_one_by_one(pixels):
    images = [*blobs(2, size=32), *blobs(2, size=40)]
    torch.testing.assert_close(SetFeatures(images, pixels, first=None).first, extract(images, pixels))


def test_the_training_metric_over_batches_is_the_distance_of_the_whole(pixels):
    real, made = torch.stack(blobs(30)), torch.stack(blobs(30, 1, noise=0.2))
    for kind in ("kernel_distance", "frechet_distance"):
        metric = FeatureDistance("pixels", kind)
        for k in range(0, 30, 8):
            metric.update((made[k : k + 8], real[k : k + 8]))
        half_range = FeatureDistance("pixels", kind, value_range=(0, 1))
        half_range.update(((made + 1) / 2, (real + 1) / 2))
        assert metric.compute() == pytest.approx(half_range.compute(), rel=1e-4)
        if kind == "frechet_distance":
            sides = [FeatureMoments(pixels.dim).update(pixels(x)) for x in (real, made)]
            assert metric.compute() == pytest.approx(frechet_distance(*sides), rel=1e-6)
        metric.reset()
        metric.update((real, real))
        # a set against itself: 0, or for the unbiased distance below it, as its images meet themselves
        assert metric.compute() < 1e-6 * half_range.compute()


def test_pixel_features_see_place_grey_and_roughness_and_need_no_weights(pixels):
    flat = torch.zeros(1, 1, 64, 64)
    checks = (torch.arange(64) % 2 * 2.0 - 1).view(1, 1, 1, 64).expand(1, 1, 64, 64) * 0.5
    f, c = pixels(flat)[0], pixels(checks)[0]
    assert f[:64].abs().max() == 0 and torch.allclose(c[:64], f[:64], atol=1e-6), "the same grey"
    assert torch.allclose(c[64:128], torch.full((64,), 1.0)) and c[128:].abs().max() < 1e-5, "details of one pixel"
    assert pixels.describe()["sha256"] is None


def test_a_set_too_small_for_distances_gets_its_other_figures_and_a_warning(caplog):
    figures = ImageSetMetrics("pixels", pairs=3)(blobs(3), blobs(9), training=blobs(5))
    assert set(figures) == {"made_by", "ms_ssim_diversity", "pixels_memorisation"}
    assert "must have at least 4 images on both sides, got 3 generated and 9 real, and are left out" in caplog.text
    whole = ImageSetMetrics("pixels", pairs=3)(blobs(4), blobs(9), training=blobs(5))
    assert set(whole) > set(figures) and "pixels_kernel_distance" in whole
    with pytest.raises(InputError, match="must have images on both sides, got 0 generated"):
        ImageSetMetrics("pixels")([], blobs(9))


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="kernel_distance, frechet_distance, got 'fid'"):
        FeatureDistance("pixels", "fid")


def test_without_weights_the_file_and_its_place_are_named(monkeypatch):
    monkeypatch.delenv("HIRESMED_WEIGHTS", raising=False)
    with pytest.raises(InputError, match=r"squeezenet1_1_imagenet_bgr.pth must be.*HIRESMED_WEIGHTS"):
        ImageSetMetrics()
    assert ImageSetMetrics("random").extractor.describe()["comparable"] is False
