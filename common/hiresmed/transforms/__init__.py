"""MONAI dictionary transforms of the collection."""

from .load import LoadImageStreamd
from .save import SaveImageStreamd
from .sketch import GradientSketch, GradientSketchd

__all__ = ["GradientSketch", "GradientSketchd", "LoadImageStreamd", "SaveImageStreamd"]
