"""Figures for generated images; one idea a file, each streamed box by box."""

from .diversity import memorisation, ms_ssim_diversity
from .feature_distance import FeatureDistance
from .features import build_extractor, compare_features, slice_features
from .image_quality import image_quality
from .image_sets import ImageSetMetrics, SetFeatures
from .kernel_distance import kernel_distance
from .moments import FeatureMoments, frechet_distance
from .prdc import FeatureReservoir, prdc
from .reconstruction import ReconstructionMetrics
from .seams import retile_discrepancy, seam_z
from .spectrum import radial_spectrum, spectral_distance

__all__ = [
    "FeatureDistance",
    "FeatureMoments",
    "FeatureReservoir",
    "ImageSetMetrics",
    "ReconstructionMetrics",
    "SetFeatures",
    "build_extractor",
    "compare_features",
    "frechet_distance",
    "image_quality",
    "kernel_distance",
    "memorisation",
    "ms_ssim_diversity",
    "prdc",
    "radial_spectrum",
    "retile_discrepancy",
    "seam_z",
    "slice_features",
    "spectral_distance",
]
