"""All figures of one rendering: perfect for the truth itself, worse for what is spoilt in the way each one watches."""

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.phantoms import ThoraxPhantom
from scipy.ndimage import gaussian_filter


@pytest.fixture(scope="module")
def truth():
    return ThoraxPhantom((64, 64, 64), seed=4).read((0, 0, 0), (64, 64, 64))


@pytest.fixture(scope="module")
def metrics():
    return ReconstructionMetrics(tile_size=32, extractor="random", patch=32, every=8)


def test_the_truth_itself_scores_perfectly(metrics, truth):
    figures = metrics(truth, truth)
    assert figures["mae"] == 0 and figures["ssim"] == pytest.approx(1)
    assert figures["spectral_distance"]["value"] == 0
    assert figures["random_frechet_distance"]["value"] == pytest.approx(0, abs=1e-6)


def test_blur_shows_in_the_spectrum_and_seams_in_seam_z(metrics, truth):
    blurred = metrics(gaussian_filter(truth, 1.5), truth)
    assert blurred["spectral_distance"]["value"] > 3
    stepped = truth.copy()
    stepped[32:] += 400
    assert metrics(stepped, truth)["seam_z"]["value"] > metrics(truth, truth)["seam_z"]["value"] + 3


def test_an_image_with_an_odd_number_of_voxels_is_measured_in_even_boxes(metrics, truth):
    odd = truth[:33, :40, :35]
    assert metrics(odd, odd)["spectral_distance"]["box"] == 32


def test_another_shape_is_refused(metrics, truth):
    with pytest.raises(InputError):
        metrics(truth[:-1], truth)


def test_without_a_feature_network_the_other_figures_stand(truth):
    figures = ReconstructionMetrics(extractor="none", tile_size=32)(truth, truth)
    assert "mae" in figures and not any("frechet" in name for name in figures)


def test_feature_distance_without_network_is_refused(truth):
    with pytest.raises(InputError, match="extractor"):
        ReconstructionMetrics(extractor="none").feature_distances([np.zeros((8, 8, 8))], [truth])
