"""GANs of implicit neural representations, trained by patches in stages (Lee et al. 2022, arXiv:2207.01395)."""

from .critic import ResidualCritic
from .exact import ExactTrainer
from .generator import ImplicitGenerator
from .implicit import Frame, ImplicitInferer
from .patch_consistency import PatchConsistency
from .sample_checks import CheckSampled
from .samples import SampleInferer, TiledSampler, output_frame, sample_cases
from .sampling_places import StageBatch, read_stages
from .stages import StageClock, StagedTraining, plan_stages

__all__ = [
    "CheckSampled",
    "ExactTrainer",
    "Frame",
    "ImplicitGenerator",
    "ImplicitInferer",
    "PatchConsistency",
    "ResidualCritic",
    "SampleInferer",
    "StageBatch",
    "StageClock",
    "StagedTraining",
    "TiledSampler",
    "output_frame",
    "plan_stages",
    "read_stages",
    "sample_cases",
]
