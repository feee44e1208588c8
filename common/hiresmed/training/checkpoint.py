"""Checkpoints from which a killed training continues, and the flat weights of the best model.

MONAI's CheckpointSaver and CheckpointLoader store neither the random states of all ranks nor the engine's position
under one name, and answer a damaged file with a traceback.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from ..core.distributed import gather_objects, unwrap
from ..core.errors import InputError
from ..core.knobs import parse_bool
from ..core.output_files import lock_folder, sha256_of, write_then_rename
from .seeding import random_state, set_random_state
from .training_data import data_digest

logger = logging.getLogger(__name__)


def save_atomically(value: Any, path: Path) -> None:
    """torch.save that gives a file its name only when complete: written aside, flushed to the disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_then_rename(path) as aside, open(aside, "wb") as file:
        stream = _WatchedFile(file)
        try:
            torch.save(value, cast(BinaryIO, stream))
        except RuntimeError as error:
            raise (stream.refusal or error) from None
        file.flush()
        os.fsync(file.fileno())


class _WatchedFile:
    """A file to write to that remembers what the system refused: torch says only at which position it noticed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.refusal: OSError | None = None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """A weight file with its sha256 beside it, so that damage on the way to its use is noticed."""
    note = path.with_name(path.name + ".sha256")
    note.unlink(missing_ok=True)  # between the two there is none, rather than that of other weights
    save_atomically(dict(state), path)
    with write_then_rename(note) as aside:
        aside.write_text(f"{sha256_of(path)}  {path.name}\n")


def load_safely(path: Path) -> Any:
    """Loads a file of `save_atomically` on the CPU; runs no code that the file may hold.

    Raises:
        InputError: the file is damaged, or holds anything but tensors and plain types.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, from EOFError to UnpicklingError
        kind = type(error).__name__
        raise InputError(
            f"{path} must be a complete checkpoint of this library, got a damaged or other file of "
            f"{path.stat().st_size} bytes ({kind}); delete it, or start again with resume set to false."
        ) from error


class Checkpoint:
    """Writes output_dir/checkpoints/latest.pt after an epoch, atomically, and with `resume` continues from it.

    The file holds all of engine.checkpoint_objects() (networks, optimisers, EMA; of a SupervisedTrainer its network and
    optimizer), the `also` objects (schedulers, the best metric), the engine's epoch and iteration, the random states of
    every rank, and a digest of the training images. With seeding.Seeding a run that is killed at any moment and resumed
    ends with the same weights, bit for bit, as an uninterrupted one. It saves after all other handlers of the epoch's
    end, whatever its place in the list.

    Args:
        output_dir: the training's folder.
        every: epochs between two checkpoints; the last epoch is always saved.
        resume: continue from latest.pt; without the file, start from the beginning.
        overwrite: without `resume`, replace an existing latest.pt.
        also: name -> further object with state_dict and load_state_dict.
        rates: on resume, learning rates are those "saved" (an uninterrupted run's), or those "configured" now (for a
            later phase of training at another rate, which may have other images, too).

    Raises:
        InputError: latest.pt exists and neither `resume` nor `overwrite` is set; it is damaged; it belongs to other
            networks, settings or (unless rates are configured) images; the folder cannot be written.
    """

    def __init__(
        self,
        output_dir: str | Path,
        every: int = 1,
        resume: bool | str = False,
        overwrite: bool | str = False,
        also: Mapping[str, Any] | None = None,
        rates: str = "saved",
    ) -> None:
        if rates not in ("saved", "configured"):
            raise InputError(f"rates must be saved or configured, got {rates!r}; choose one of the two.")
        self.rates = rates
        self.path = Path(output_dir) / "checkpoints" / "latest.pt"
        self.every = every
        self.resume = parse_bool(resume, "resume")
        self.overwrite = parse_bool(overwrite, "overwrite")
        self.also = dict(also or {})
        self.data: str | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Continues from an existing checkpoint or refuses it; then registers for the epochs' ends."""
        dataset = getattr(getattr(engine, "data_loader", None), "dataset", None)
        # of rank 0: the others may read from disks of their own
        self.data = gather_objects(data_digest(dataset) if idist.get_rank() == 0 else None)[0]
        if self.path.exists():
            if self.resume:
                self.load(engine)
            elif not self.overwrite:
                raise InputError(
                    f"A new training must have a folder without checkpoints, got {self.path}; set resume to true to "
                    "continue from it, overwrite to true to replace it, or choose another output_dir."
                )
        _make_writable(self.path.parent)
        lock_folder(self.path.parent)
        # registered only here, so that schedulers, validation and EMA of the epoch run before it
        if not engine.has_event_handler(self.epoch_completed, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_completed(self, engine: Engine) -> None:
        if engine.state.epoch % self.every == 0 or engine.state.epoch == engine.state.max_epochs:
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Writes latest.pt on rank 0; all ranks must call it."""
        states = gather_objects(random_state())
        if idist.get_rank() == 0:
            content = {
                "epoch": engine.state.epoch,
                "iteration": engine.state.iteration,
                "epoch_length": engine.state.epoch_length,
                "objects": {name: value.state_dict() for name, value in self.objects(engine).items()},
                "random": states,
                "data": self.data,
            }
            save_atomically(content, self.path)

    def load(self, engine: Engine) -> None:
        """Restores objects, this rank's random state, and the engine's epoch and iteration from latest.pt."""
        content = load_safely(self.path)
        objects = self.objects(engine)
        self._check(content, objects, engine.state.epoch_length)
        for name, value in objects.items():
            if name not in content["objects"]:
                continue  # optional, and the checkpoint was written by a version without it
            configured = [group["lr"] for group in getattr(value, "param_groups", [])]
            try:
                value.load_state_dict(content["objects"][name])
                if self.rates == "configured":
                    for group, rate in zip(getattr(value, "param_groups", []), configured):
                        group["lr"] = rate
            except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(
                    f"The '{name}' of {self.path} must fit this configuration, got another one ({reason}); "
                    "resume with the configuration that wrote the checkpoint, or choose another output_dir."
                ) from error
        rank = idist.get_rank()
        if rank < len(content["random"]):
            set_random_state(content["random"][rank])
        engine.state.epoch = content["epoch"]
        engine.state.iteration = content["iteration"]
        logger.info("Resumed from %s after epoch %d.", self.path, engine.state.epoch)

    def objects(self, engine: Engine) -> dict[str, Any]:
        """All that a checkpoint holds of the engine and beside it, by name."""
        if hasattr(engine, "checkpoint_objects"):
            return {**engine.checkpoint_objects(), **self.also}
        if isinstance(engine, SupervisedTrainer):
            return {"network": unwrap(engine.network), "optimizer": engine.optimizer, **self.also}
        return self.also

    def _check(self, content: Any, objects: Mapping[str, Any], epoch_length: int | None) -> None:
        expected = {"epoch", "iteration", "epoch_length", "objects", "random"}
        if not isinstance(content, dict) or set(content) - {"data"} != expected:  # early versions had no "data"
            raise InputError(
                f"{self.path} must be a training checkpoint with {sorted(expected)}, got something else; delete it, or "
                "start again with resume set to false."
            )
        required = {name for name, value in objects.items() if not getattr(value, "optional", False)}
        if not required <= set(content["objects"]) <= set(objects):
            raise InputError(
                f"The checkpoint {self.path} must hold {sorted(objects)}, got {sorted(content['objects'])}; "
                "resume with the configuration that wrote it, or choose another output_dir."
            )
        data = content.get("data")
        if self.rates == "saved" and None not in (data, self.data) and data != self.data:
            raise InputError(
                f"resume must have the training images that {self.path} was begun with, got another set (files added, "
                "removed, renamed or changed); restore them, go on with the new ones with --resume_rates configured, "
                "or start anew with --resume false --overwrite true."
            )
        if content["epoch_length"] != epoch_length:
            raise InputError(
                f"The checkpoint {self.path} must have {epoch_length} iterations per epoch as this run, got "
                f"{content['epoch_length']}; keep batch size, epoch length and data when resuming, or choose another "
                "output_dir."
            )


class BestModel:
    """Writes output_dir/model.pt, a flat float32 state_dict, whenever the validation metric is the best so far.

    Attach it to the evaluator (its `val_handlers`), and name it in `Checkpoint(also=...)` so that a resumed run
    remembers the best. Attached to an engine without metrics it writes the newest model.

    Args:
        output_dir: the training's folder.
        network: what is written: the generator, or the AveragedModel around it (its averaged network is written).
        metric: a key of engine.state.metrics; None: the engine's key metric.
        mode: "max" if larger is better, "min" if smaller is.
        name: file name.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        metric: str | None = None,
        mode: str = "max",
        name: str = "model.pt",
    ) -> None:
        if mode not in ("min", "max"):
            raise InputError(f"BestModel's mode must be 'min' or 'max', got '{mode}'; choose one of the two.")
        self.path = Path(output_dir) / name
        self.network = network
        self.metric = metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        name = self.metric or getattr(engine.state, "key_metric_name", None)
        if name is not None:
            if name not in engine.state.metrics:
                raise InputError(
                    f"BestModel's metric must be one of {sorted(engine.state.metrics)}, which the engine computes, got "
                    f"'{name}'; name one of these."
                )
            value = float(engine.state.metrics[name])
            if math.isnan(value) or (self.best is not None and self.sign * value <= self.sign * self.best):
                return
            self.best = value
        if idist.get_rank() == 0:
            save_weights(flat_weights(self.network), self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]


def flat_weights(network: nn.Module) -> dict[str, Tensor]:
    """state_dict of the network inside AveragedModel or DistributedDataParallel, on the CPU, floats as float32."""
    state = {name: value.detach().cpu() for name, value in unwrap(network).state_dict().items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output_dir must be a folder that can be written to, got {folder} ({error.strerror}); "
            "choose another output_dir."
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"output_dir must be a folder that can be written to, got {folder}; choose another output_dir."
        )
