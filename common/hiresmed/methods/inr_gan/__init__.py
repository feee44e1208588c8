"""GANs of implicit neural representations, trained by patches in stages (Lee et al. 2022, arXiv:2207.01395)."""

from .critic import ResidualCritic
from .exact import ExactTrainer
from .generator import ImplicitGenerator
from .implicit import Frame, ImplicitInferer
from .patch_consistency import PatchConsistency
from .samples import FramedSamples, SampleInferer, TiledSampler, output_frame
from .sampling_places import StageBatch, read_stages
from .stages import StageClock, StagedTraining, plan_stages
