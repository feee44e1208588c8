"""MONAI dictionary transforms of the collection."""

from .brain import LabelsToRegionsd, LoadImageBraind, NormalizeBraind, RegionsToLabelsd
from .crops import CoordinateCropd
from .load import LoadImageStreamd
from .samples import CheckSampled
from .save import SaveImageStreamd, SaveSamplesd
from .sketch import GradientSketch, GradientSketchd

__all__ = [
    "CheckSampled",
    "CoordinateCropd",
    "GradientSketch",
    "GradientSketchd",
    "LabelsToRegionsd",
    "LoadImageBraind",
    "LoadImageStreamd",
    "NormalizeBraind",
    "RegionsToLabelsd",
    "SaveImageStreamd",
    "SaveSamplesd",
]
