"""The bundles from Python, in one line: run a workflow, or load a generator and its images.

>>> from hiresmed import bundles
>>> brains = bundles.load("dcgan_mri")
>>> brains.generate(2, seed=0).shape
torch.Size([2, 1, 128, 128])

In an installed package the bundles' folders lie here, too.
"""

from ..core.errors import InputError
from .calls import load, names, run, synthetic_images

__all__ = ["InputError", "load", "names", "run", "synthetic_images"]
