"""Trainers on MONAI's and ignite's engines, and the batches they take."""

from .adversarial import AdversarialTrainer
from .batches import ConditionalBatch, GanBatch, LatentBatch, LatentEvaluation
from .cases import case_batch, single_case
from .diffusion import DiffusionTrainer, LabelBatch
from .exact import ExactTrainer
from .inr_sampling import StageBatch, read_stages
from .inr_stages import StageClock, StagedTraining, plan_stages
from .multiscale import EvaluationBatch, MultiScaleBatch

__all__ = [
    "AdversarialTrainer",
    "ConditionalBatch",
    "DiffusionTrainer",
    "EvaluationBatch",
    "ExactTrainer",
    "GanBatch",
    "LabelBatch",
    "LatentBatch",
    "LatentEvaluation",
    "MultiScaleBatch",
    "StageBatch",
    "StageClock",
    "StagedTraining",
    "case_batch",
    "plan_stages",
    "read_stages",
    "single_case",
]
