"""Ignite handlers of training and inference."""

from .best_models import BestModels
from .case_report import CaseReport
from .checkpoint import BestModel, Checkpoint
from .ema import averaged
from .gallery_report import GalleryReport
from .metrics_file import MetricsFile
from .output_scalars import scalars
from .peak_memory import PeakMemory
from .sample_grid import SampleGrid
from .seeding import Seeding
from .segmentation_pictures import SegmentationPictures
from .segmentation_report import SegmentationReport
from .series_report import SeriesReport
from .set_comparison import CompareBatches, SetComparison
from .shared_buffers import SharedBuffers
from .tensorboard import summary_writer

__all__ = [
    "BestModel",
    "BestModels",
    "CaseReport",
    "Checkpoint",
    "CompareBatches",
    "GalleryReport",
    "MetricsFile",
    "PeakMemory",
    "SampleGrid",
    "Seeding",
    "SegmentationPictures",
    "SegmentationReport",
    "SeriesReport",
    "SetComparison",
    "SharedBuffers",
    "averaged",
    "scalars",
    "summary_writer",
]
