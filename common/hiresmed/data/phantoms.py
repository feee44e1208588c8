"""Procedural patients: images of any size, made on the spot, for tests, demos and training without data."""

from __future__ import annotations

from .phantom_brain import BrainPhantom
from .phantom_thorax import ThoraxPhantom
from .phantom_xray import ChestXrayPhantom

__all__ = ["BrainPhantom", "ChestXrayPhantom", "ThoraxPhantom"]
