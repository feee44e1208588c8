"""Ignite handlers of training and inference."""

from .best_models import BestModels
from .case_report import CaseReport
from .checkpoint import BestModel, Checkpoint
from .ema import averaged
from .metrics_file import MetricsFile
from .peak_memory import PeakMemory
from .sample_grid import SampleGrid
from .sample_report import SampleReport
from .scalars import scalars
from .seeding import Seeding
from .segmentation_pictures import SegmentationPictures
from .segmentation_report import SegmentationReport
from .shared_buffers import SharedBuffers
from .tensorboard import summary_writer

__all__ = [
    "BestModel",
    "BestModels",
    "CaseReport",
    "Checkpoint",
    "MetricsFile",
    "PeakMemory",
    "SampleGrid",
    "SampleReport",
    "Seeding",
    "SegmentationPictures",
    "SegmentationReport",
    "SharedBuffers",
    "averaged",
    "scalars",
    "summary_writer",
]
