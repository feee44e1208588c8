"""Ignite handlers of training and inference."""

from .case_report import CaseReport
from .checkpoint import BestModel, Checkpoint
from .ema import averaged
from .metrics_file import MetricsFile
from .peak_memory import PeakMemory
from .sample_grid import SampleGrid
from .sample_report import SampleReport
from .scalars import scalars
from .seeding import Seeding
from .set_metrics import SetMetrics
from .tensorboard import summary_writer

__all__ = [
    "BestModel",
    "CaseReport",
    "Checkpoint",
    "MetricsFile",
    "PeakMemory",
    "SampleGrid",
    "SampleReport",
    "Seeding",
    "SetMetrics",
    "averaged",
    "scalars",
    "summary_writer",
]
