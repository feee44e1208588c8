"""Folders of images to lists of cases: sections, BraTS, slices, sets of images."""

from .brain_mr import mri_cases, mri_images
from .brats import brain_cases, brats2020_split, brats_case, brats_cases
from .brats_cache import brain_dataset
from .brats_read import read_brats
from .datalists import list_cases
from .image_sets import ImageSet, ImagesOnly, ShuffledImages
from .loaders import batch_loader, case_loader, image_loader
from .mri_slices import MriSlices
from .read_image import ReadImage, image_dataset
from .whole_images import image_cases
