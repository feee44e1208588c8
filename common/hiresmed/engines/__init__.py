"""Trainers on MONAI's and ignite's engines, and the batches they take."""

from .adversarial import AdversarialTrainer
from .batches import ConditionalBatch, GanBatch, LatentBatch
from .multiscale import EvaluationBatch, MultiScaleBatch, stage_input

__all__ = [
    "AdversarialTrainer",
    "ConditionalBatch",
    "EvaluationBatch",
    "GanBatch",
    "LatentBatch",
    "MultiScaleBatch",
    "stage_input",
]
