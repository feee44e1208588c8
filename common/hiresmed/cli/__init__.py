"""The command `hiresmed` and the entrance of every bundle's run."""

from .door import open_door

__all__ = ["open_door"]
