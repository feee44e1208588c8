"""Folders of images to lists of cases: sections, BraTS, slices, sets of images."""

from .brain_mr import mri_cases
from .brats import brain_cases, brats2020_split, brats_case, brats_cases
from .brats_cache import cached_dataset
from .brats_read import read_brats
from .datalists import list_cases
from .image_sets import ImageSet, ImagesOnly, ShuffledImages, image_loader
from .mri_slices import MriSlices
from .read_image import ReadImage
from .whole_images import image_cases

__all__ = [
    "ImageSet",
    "ImagesOnly",
    "MriSlices",
    "ReadImage",
    "ShuffledImages",
    "brain_cases",
    "brats2020_split",
    "brats_case",
    "brats_cases",
    "cached_dataset",
    "image_cases",
    "image_loader",
    "list_cases",
    "mri_cases",
    "read_brats",
]
