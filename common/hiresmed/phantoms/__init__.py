"""Procedural patients of any size, for tests, demos and training without data."""

from .brain import BrainPhantom
from .thorax import ThoraxPhantom
from .xray import ChestXrayPhantom
