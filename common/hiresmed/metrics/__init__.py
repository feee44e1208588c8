"""Metrics of single images, image pairs and sets of images."""

from .calibration import auroc, expected_calibration_error, filtered_dice
from .diversity import memorisation, ms_ssim_diversity
from .feature_distance import FeatureDistance
from .features import build_extractor, compare_features, slice_features
from .image_sets import ImageSetMetrics, SetFeatures
from .image_similarity import image_quality
from .mmd import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .neighbourhoods import FeatureReservoir, prdc
from .reconstruction import ReconstructionMetrics
from .seams import retile_discrepancy, seam_z
from .spectrum import radial_spectrum, spectral_distance
