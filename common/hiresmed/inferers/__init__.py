"""MONAI inferers that need one tile's memory."""

from .cascade import CascadeInferer, Rendering
from .diffusion import DiffusionInferer
from .frame import Ensemble
from .implicit import Frame, ImplicitInferer
from .samples import SampleInferer, TiledSampler, output_frame, sample_cases
from .segmentation import SegmentationInferer
from .tiled import ExactTiledInferer

__all__ = [
    "CascadeInferer",
    "DiffusionInferer",
    "Ensemble",
    "ExactTiledInferer",
    "Frame",
    "ImplicitInferer",
    "Rendering",
    "SampleInferer",
    "SegmentationInferer",
    "TiledSampler",
    "output_frame",
    "sample_cases",
]
