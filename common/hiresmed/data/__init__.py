"""Volumes and where they come from: readers, writers, stores, phantoms, training patches."""

from .brats import brain_cases, brats2020_split, brats_case, brats_cases
from .brats_read import read_brats
from .datalists import list_cases, training_cases
from .image_sets import LatentPairs, LatentsOf, ReadImage, ShuffledImages, image_cases
from .mri_slices import MriSlices
from .outputs import CaseOutput
from .patches import MultiScalePatches, PreparedCase, collate_stage, prepare_case
from .phantom_brain import BrainPhantom
from .phantom_thorax import ThoraxPhantom
from .phantom_xray import ChestXrayPhantom
from .readers import cases, open_volume
from .samples import SampleOutput
from .stores import MemoryStores, ZarrStores, open_level
from .writers import save_volume

__all__ = [
    "BrainPhantom",
    "CaseOutput",
    "ChestXrayPhantom",
    "LatentPairs",
    "LatentsOf",
    "MemoryStores",
    "MriSlices",
    "MultiScalePatches",
    "PreparedCase",
    "ReadImage",
    "SampleOutput",
    "ShuffledImages",
    "ThoraxPhantom",
    "ZarrStores",
    "brain_cases",
    "brats2020_split",
    "brats_case",
    "brats_cases",
    "cases",
    "collate_stage",
    "image_cases",
    "list_cases",
    "open_level",
    "open_volume",
    "prepare_case",
    "read_brats",
    "save_volume",
    "training_cases",
]
