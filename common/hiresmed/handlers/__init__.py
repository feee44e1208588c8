"""Ignite handlers of training and inference."""

from .checkpoint import BestModel, Checkpoint
from .ema import averaged
from .peak_memory import PeakMemory
from .sample_grid import SampleGrid
from .scalars import scalars
from .seeding import Seeding

__all__ = ["BestModel", "Checkpoint", "PeakMemory", "SampleGrid", "Seeding", "averaged", "scalars"]
