"""From numbered latents to a gallery or series of images, and the comparison of two sets."""

from .gallery import SampleGallery
from .gallery_report import GalleryReport
from .series import LatentBlocks, PictureFolder, SampleSeries, count_samples
from .series_report import SeriesReport
from .set_comparison import CompareBatches, SetComparison

__all__ = [
    "CompareBatches",
    "GalleryReport",
    "LatentBlocks",
    "PictureFolder",
    "SampleGallery",
    "SampleSeries",
    "SeriesReport",
    "SetComparison",
    "count_samples",
]
