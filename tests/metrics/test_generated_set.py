"""Sets of images: near sets score better than far ones, every figure says its N, copies are found."""

from __future__ import annotations

import pytest
import torch
from hiresmed.errors import InputError
from hiresmed.metrics.features import build_extractor
from hiresmed.metrics.generated_set import FeatureDistance, GeneratedSetMetrics, planes
from hiresmed.metrics.kernel_distance import kernel_distance


def images(count: int, offset: float = 0.0, seed: int = 0, dims: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, *[16] * dims, generator=random) + offset).clamp(-1, 1)


def test_the_nearer_set_has_the_lower_distances_and_n_stands_beside_each():
    metrics = GeneratedSetMetrics("random")
    near, far = (metrics(list(images(9, offset, 1)), list(images(12))) for offset in (0.0, -0.8))
    for figure in ("random_kernel_distance", "random_frechet_distance"):
        assert near[figure]["value"] < far[figure]["value"]
        assert (near[figure]["n_real"], near[figure]["n_generated"]) == (12, 9)
    assert near["random_prdc"]["coverage"] > far["random_prdc"]["coverage"]


def test_copies_of_the_real_images_are_found():
    found = GeneratedSetMetrics("random")(list(images(5)), list(images(12)))["random_nearest_real"]
    assert found["median"] < 1e-6 and found["closest"][0] == found["closest"][1]


def test_of_a_volume_its_three_middle_planes_are_seen():
    volume = images(1, dims=3)[0]
    seen = planes(volume)
    assert torch.equal(seen[0], volume[:, 8]) and torch.equal(seen[2], volume[..., 8]) and len(seen) == 3
    with pytest.raises(InputError, match="2-D and 3-D"):
        planes(torch.zeros(1, 4))


def test_the_training_metric_is_the_kernel_distance_of_all_batches_together():
    metric = FeatureDistance("random")
    pred, label = images(8, -0.3, 1), images(8)
    for part in (slice(0, 3), slice(3, 8)):
        metric.update((pred[part], label[part]))
    extractor = build_extractor("random")
    assert metric.compute() == pytest.approx(kernel_distance(extractor(label), extractor(pred), subsets=20)["value"])
    metric.reset()
    metric.update((label, label))
    assert abs(metric.compute()) < 1e-3
