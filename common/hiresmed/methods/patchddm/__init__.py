"""PatchDDM: segmentation by diffusion on patches (Bieder et al., MIDL 2023, arXiv:2303.15288)."""

from .baseline import ImageOnly
from .crops import CoordinateCropd
from .frame import Ensemble
from .inferer import DiffusionInferer
from .intensities import RandScannerd
from .lean import lean_forward
from .lesions import FillLesiond, RandImplantLesiond, RandMirrorLesiond
from .noise_start import start_as_noise
from .recipe import by_recipe
from .region_dice import RegionDiceLoss
from .region_metrics import RegionMetrics
from .regions import LabelsToRegionsd, LoadImageBraind, NormalizeBraind, RegionsToLabelsd, SplitEnsembled, region_codes
from .samplers import DDIM, DPMSolver, Heun, build_sampler
from .schedule import NoiseSchedule
from .segmentation import SegmentationInferer
from .segmentation_content import SegmentationContent
from .segmentation_output import SegmentationOutput
from .segmentation_pictures import SegmentationPictures
from .trainer import DiffusionTrainer, LabelBatch
from .unet import PatchDDMUNet
from .working_grid import WorkingGridd
