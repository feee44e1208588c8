"""MONAI dictionary transforms of the collection."""

from .sketch import GradientSketch, GradientSketchd

__all__ = ["GradientSketch", "GradientSketchd"]
