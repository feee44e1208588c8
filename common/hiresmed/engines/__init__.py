"""Trainers on MONAI's and ignite's engines, and the batches they take."""

from .adversarial import AdversarialTrainer
from .batches import ConditionalBatch, GanBatch, LatentBatch
from .cases import case_batch, single_case
from .diffusion import DiffusionTrainer, LabelBatch
from .multiscale import EvaluationBatch, MultiScaleBatch, stage_input

__all__ = [
    "AdversarialTrainer",
    "ConditionalBatch",
    "DiffusionTrainer",
    "EvaluationBatch",
    "GanBatch",
    "LabelBatch",
    "LatentBatch",
    "MultiScaleBatch",
    "case_batch",
    "single_case",
    "stage_input",
]
