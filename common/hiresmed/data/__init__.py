"""Volumes and where they come from: readers, writers, stores, phantoms, training patches."""

from .brain_mr import mri_cases
from .brats import brain_cases, brats2020_split, brats_case, brats_cases
from .brats_cache import cached_dataset
from .brats_read import read_brats
from .datalists import list_cases
from .image_sets import ImageSet, ImagesOnly, ShuffledImages, image_loader
from .mri_slices import MriSlices
from .multiscale_cases import training_cases
from .outputs import CaseOutput
from .patches import MultiScalePatches, PreparedCase, collate_stage, prepare_case
from .phantom_brain import BrainPhantom
from .phantom_thorax import ThoraxPhantom
from .phantom_xray import ChestXrayPhantom
from .read_image import ReadImage
from .readers import cases, open_volume
from .sample_gallery import SampleGallery
from .sample_series import LatentBlocks, PictureFolder, SampleSeries, count_samples
from .segmentation_output import SegmentationOutput
from .stores import MemoryStores, ZarrStores, open_level
from .whole_images import image_cases
from .writers import save_volume

__all__ = [
    "BrainPhantom",
    "CaseOutput",
    "ChestXrayPhantom",
    "ImageSet",
    "ImagesOnly",
    "LatentBlocks",
    "MemoryStores",
    "MriSlices",
    "MultiScalePatches",
    "PictureFolder",
    "PreparedCase",
    "ReadImage",
    "SampleGallery",
    "SampleSeries",
    "SegmentationOutput",
    "ShuffledImages",
    "ThoraxPhantom",
    "ZarrStores",
    "brain_cases",
    "brats2020_split",
    "brats_case",
    "brats_cases",
    "cached_dataset",
    "cases",
    "collate_stage",
    "count_samples",
    "image_cases",
    "image_loader",
    "list_cases",
    "mri_cases",
    "open_level",
    "open_volume",
    "prepare_case",
    "read_brats",
    "save_volume",
    "training_cases",
]
