"""What all trainings share: the alternating trainer, batches, losses, checkpoints, seeding, logging."""

from .augmentation import ImageAugmentation
from .averaging import averaged_model
from .batches import GanBatch, LatentBatch, LatentEvaluation
from .best_models import BestModels
from .checkpoint import BestModel, Checkpoint
from .objectives import BinaryCrossEntropy, LeastSquares, NonSaturating, Wasserstein
from .output_scalars import scalars
from .peak_memory import PeakMemory
from .penalties import GradientPenalty, R1Penalty
from .routine import TrainingRoutine
from .sample_grid import SampleGrid
from .seeding import Seeding
from .tensorboard import summary_writer
from .trainer import AdversarialTrainer
