"""One training through all stages: each goes on from the weights, optimisers and discriminator of the one before.

Lee et al. 2022 (arXiv:2207.01395), section 3: G_i starts from G_(i-1), and is held to what the frozen average of
G_(i-1) drew. Here a stage is a run of epochs of one engine, so that one checkpoint resumes any of them.

Letters: S = image shape, Z = latent size.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ...core.distributed import unwrap
from ...core.errors import InputError
from ...core.knobs import parse_bool, parse_int
from ...core.tiles import check_size
from ...training.batches import GanBatch
from .sampling_places import StageBatch, read_stages

logger = logging.getLogger(__name__)


def plan_stages(image_size: Sequence[int], num_stages: int = 3, patch_factor: int = 4) -> list:
    """Stages of the paper for any image: grids that double up to S, patches of S / `patch_factor` in all of them.

    Args:
        image_size: S.
        num_stages: 3 in the paper; 1 is training at full resolution alone.
        patch_factor: 4 in the paper; 1 with one stage is image-based training.

    >>> plan_stages([64, 32])
    [([16, 8], [16, 8]), ([32, 16], [16, 8]), ([64, 32], [16, 8])]

    Raises:
        InputError: an image that does not divide so; a first grid smaller than the patch.
    """
    size = check_size(image_size)
    count = parse_int(num_stages, "num_stages", 1)
    factor = parse_int(patch_factor, "patch_factor", 1)
    coarsest = 2 ** (count - 1)
    if coarsest > factor or any(n % factor or n % coarsest for n in size):
        raise InputError(
            f"image_size must be divisible by patch_factor and by 2^(num_stages - 1), which must not be above "
            f"patch_factor, got {list(size)} with patch_factor {factor} and {count} stages; change one of them."
        )
    patch = [n // factor for n in size]
    return [([n // 2**k for n in size], list(patch)) for k in range(count - 1, -1, -1)]


class StagedTraining:
    """prepare_batch of the stage in progress; StageClock has it move on from stage to stage at the epochs' starts.

    What a new stage takes over is everything, as it is the same networks and optimisers that go on: weights, average,
    discriminator (all stages have one patch shape), Adam's moments. With `regularised` the average as it is at the
    end of a stage is kept, frozen, for the next stage's patch regularisation, and goes into the checkpoint.

    Name it in Checkpoint(also=...).

    Args:
        stages: pairs (grid, patch); see inr_sampling.read_stages. All patches have one shape.
        stage_epochs: epochs of each stage.
        latent_size: Z.
        average: the AveragedModel of the generator.
        regularised: give each batch from the second stage on the target of patch_consistency.

    Raises:
        InputError: another number of stage_epochs than stages; patches of several shapes.
    """

    def __init__(
        self,
        stages: Sequence[Sequence],
        stage_epochs: Sequence[int],
        latent_size: int,
        average: nn.Module,
        regularised: bool | str = True,
    ) -> None:
        patches = {stage.patch for stage in read_stages(stages)}
        epochs = [stage_epochs] if isinstance(stage_epochs, int) else list(stage_epochs)
        if len(epochs) != len(stages):
            raise InputError(
                f"stage_epochs must give the epochs of each of the {len(stages)} stages, got {stage_epochs}; "
                "give one number per stage."
            )
        if len(patches) > 1:
            raise InputError(
                f"All stages must have patches of one shape, which the discriminator is built for, got "
                f"{sorted(patches)}; change `stages`."
            )
        self.stages = list(stages)
        self.epochs = [parse_int(n, "stage_epochs", 1) for n in epochs]
        self.latent_size = latent_size
        self.average = average
        self.regularised = parse_bool(regularised, "regularised")
        self.stage = 1
        self.previous: nn.Module | None = None
        self._batch = StageBatch(self.stages, 1, latent_size)

    def begin_epoch(self, epoch: int) -> None:
        """Moves on to the stage that this epoch, from 1, belongs to."""
        stage = self.stage_of(epoch)
        while self.stage < stage:
            self._enter(self.stage + 1, copy.deepcopy(unwrap(self.average)) if self.regularised else None)
            grid, patch = (" x ".join(map(str, shape)) for shape in (self._batch.stage.grid, self._batch.stage.patch))
            logger.info("Stage %d of %d: patches of %s on %s.", self.stage, len(self.stages), patch, grid)

    def stage_of(self, epoch: int) -> int:
        """The stage, from 1, that an epoch, from 1, belongs to; epochs after the last belong to the last."""
        for number, count in enumerate(self.epochs, start=1):
            if epoch <= count:
                return number
            epoch -= count
        return len(self.epochs)

    def _enter(self, stage: int, previous: nn.Module | None) -> None:
        self.stage = stage
        self.previous = None if previous is None else previous.requires_grad_(False).eval()
        self._batch = StageBatch(self.stages, stage, self.latent_size, self.previous)

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False) -> GanBatch:
        return self._batch(batchdata, device, non_blocking)

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "previous": None if self.previous is None else self.previous.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        previous = None
        if state["previous"] is not None:
            previous = copy.deepcopy(unwrap(self.average))
            previous.load_state_dict(state["previous"])
        if not 1 <= state["stage"] <= len(self.stages) or (previous is None) == (
            self.regularised and state["stage"] > 1
        ):
            raise ValueError(f"it stopped in stage {state['stage']}, which these stages do not have alike")
        self._enter(state["stage"], previous)


class StageClock:
    """Handler that tells a StagedTraining each epoch's beginning (MONAI wants every handler of a config as a dict).

    Args:
        staged: the StagedTraining.
    """

    def __init__(self, staged: StagedTraining) -> None:
        self.staged = staged

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.staged.begin_epoch(engine.state.epoch))
