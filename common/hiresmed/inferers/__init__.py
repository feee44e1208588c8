"""MONAI inferers that need one tile's memory."""

from .cascade import CascadeInferer, Rendering
from .tiled import ExactTiledInferer

__all__ = ["CascadeInferer", "ExactTiledInferer", "Rendering"]
