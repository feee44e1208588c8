"""One file per paper's network."""

from .critic import PatchCritic
from .dcgan import DcganCritic, DcganGenerator
from .image_only import ImageOnly
from .inr import ImplicitGenerator
from .lean import lean_forward
from .multiscale import MultiScaleGenerator, PatchGenerator
from .noise_start import start_as_noise
from .patchddm import PatchDDMUNet
from .residual_critic import ResidualCritic

__all__ = [
    "DcganCritic",
    "DcganGenerator",
    "ImageOnly",
    "ImplicitGenerator",
    "MultiScaleGenerator",
    "PatchCritic",
    "PatchDDMUNet",
    "PatchGenerator",
    "ResidualCritic",
    "lean_forward",
    "start_as_noise",
]
