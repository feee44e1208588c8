"""Ignite handlers of training and inference."""

from .case_report import CaseReport
from .checkpoint import BestModel, Checkpoint
from .ema import averaged
from .metrics_file import MetricsFile
from .peak_memory import PeakMemory
from .sample_grid import SampleGrid
from .scalars import scalars
from .seeding import Seeding
from .segmentation_pictures import SegmentationPictures
from .segmentation_report import SegmentationReport
from .tensorboard import summary_writer

__all__ = [
    "BestModel",
    "CaseReport",
    "Checkpoint",
    "MetricsFile",
    "PeakMemory",
    "SampleGrid",
    "Seeding",
    "SegmentationPictures",
    "SegmentationReport",
    "averaged",
    "scalars",
    "summary_writer",
]
