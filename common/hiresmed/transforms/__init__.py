"""MONAI dictionary transforms of the collection."""

from .brain import LabelsToRegionsd, LoadImageBraind, NormalizeBraind, RegionsToLabelsd, SplitEnsembled, region_codes
from .crops import CoordinateCropd
from .host import ToHostd
from .load import LoadImageStreamd
from .samples import CheckSampled
from .save import SaveImageSegmentedd, SaveImageStreamd, SaveSamplesd
from .served import RequestedLatentd, ServedImaged
from .sketch import GradientSketch, GradientSketchd
from .working_grid import WorkingGridd

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
    "RequestedLatentd",
    "SaveImageSegmentedd",
    "SaveImageStreamd",
    "SaveSamplesd",
    "ServedImaged",
    "SplitEnsembled",
    "ToHostd",
    "WorkingGridd",
    "region_codes",
]
