"""What every training does around its steps, whichever the method."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import TensorBoardStatsHandler, ValidationHandler
from torch import nn

from ..core.distributed import average_buffers
from ..core.knobs import parse_int
from .best_models import BestModels
from .checkpoint import BestModel, Checkpoint
from .history import History
from .output_scalars import scalars
from .peak_memory import PeakMemory
from .pictures import PictureFolder
from .progress import TrainingProgress
from .seeding import Seeding
from .tensorboard import summary_writer
from .training_picture import TrainingPicture


class TrainingRoutine:
    """Seeding, validation, best models, logs and checkpoints: one handler of the trainer, which sets up its validator.

    At each epoch's start it seeds (Seeding). At its end, in this order: processes average their batch statistics; the
    validator runs every `val_interval` epochs and model.pt is written where its key metric is the best so far
    (BestModel); losses, metrics and peak memory go to TensorBoard and to the log (TrainingProgress); pictures, the
    picture of the training (TrainingPicture) and the checkpoint (Checkpoint) are written. The trainer's output is a
    dict.

    Args:
        output_dir: the training's folder.
        validator: computes the key metric; it gets its loggers here, and which of two metrics is better.
        network: whose weights are written: the network, or the AveragedModel around it.
        mode: "min" where a smaller key metric is better, "max" where a larger is.
        val_interval: epochs between two validations.
        save_interval: epochs between two checkpoints.
        best_models: so many of the best models are written to best/; 0: only model.pt, the best of all.
        seed: of the whole training.
        resume, overwrite, also: see Checkpoint.
        resume_rates: learning rates after resuming, "saved" or "configured"; Checkpoint's `rates`.
        pictures: a SampleGrid, or another that draws; into samples/ and TensorBoard at every validation.
        log_interval: a line of the log every so many iterations; None: now and then.

    Raises:
        InputError: a val_interval below 1; see Checkpoint, BestModel and BestModels.
    """

    def __init__(
        self,
        output_dir: str | Path,
        validator: Evaluator,
        network: nn.Module,
        mode: str,
        val_interval: int = 1,
        save_interval: int = 1,
        best_models: int = 0,
        seed: int = 0,
        resume: bool | str = False,
        overwrite: bool | str = False,
        resume_rates: str = "saved",
        also: Mapping[str, Any] | None = None,
        pictures: Any = None,
        log_interval: int | None = None,
    ) -> None:
        writer = summary_writer(output_dir)
        self.pictures = pictures
        self.folder = PictureFolder(output_dir, writer)
        self.interval = parse_int(val_interval, "val_interval", least=1)
        self.validator = validator
        validator.metric_cmp_fn = operator.lt if mode == "min" else operator.gt
        saved: dict[str, BestModel | BestModels] = {"best": BestModel(output_dir, network, mode=mode)}
        if parse_int(best_models, "best_models"):
            saved["kept"] = BestModels(output_dir, network, mode=mode, count=best_models)
        self.history = history = History(validator, self.interval, mode)
        every = parse_int(save_interval, "save_interval", least=1)
        saved_too = {**saved, "history": history, **(also or {})}
        self.checkpoint = Checkpoint(output_dir, every, resume, overwrite, saved_too, resume_rates)
        self.validator_handlers: list[Any] = list(saved.values())
        self.handlers: list[Any] = [
            Seeding(seed),
            ValidationHandler(self.interval, validator),
            PeakMemory(),
            history,
            TrainingProgress(output_dir, validator, history, log_interval),
            self.checkpoint,
        ]
        if writer is not None:
            self.validator_handlers.append(TensorBoardStatsHandler(writer, iteration_log=False))
            self.handlers.append(TensorBoardStatsHandler(writer, output_transform=scalars))
        self.training_picture = TrainingPicture(output_dir, history)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._average_buffers)
        for handler in self.validator_handlers:
            handler.attach(self.validator)
        for handler in self.handlers:
            handler.attach(engine)
        if self.pictures is not None:
            self.pictures.attach(engine, self.validator, self.folder, self.interval)
        self.training_picture.attach(engine, self.interval)  # last, as it shows the samples of this epoch

    def _average_buffers(self, engine: Engine) -> None:
        # DistributedDataParallel could send rank 0's at every forward, but then two forwards of a critic before its
        # backward change what the backward needs
        objects = self.checkpoint.objects(engine).values()
        average_buffers([value for value in objects if isinstance(value, nn.Module)])
