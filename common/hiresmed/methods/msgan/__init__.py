"""Multi-scale patch GANs (Uzunova et al., MICCAI 2019, arXiv:1907.01376)."""

from .batches import EvaluationBatch, MultiScaleBatch
from .cascade import CascadeInferer
from .cascade_run import Rendering
from .critic import PatchCritic
from .generator import MultiScaleGenerator, PatchGenerator
from .patches import MultiScalePatches, PreparedCase, prepare_case
from .prepared_cases import training_cases
from .rendering_content import RenderingContent
from .sketch import GradientSketch, GradientSketchd, SignedSketch, sketcher_of
from .views import RandomViews
