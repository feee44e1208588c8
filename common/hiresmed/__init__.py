"""Patches that know where they lie: the shared library of the hiresmed bundles."""

__version__ = "0.1.0"
