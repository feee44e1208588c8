"""The few best models of a training, by a validation metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn

from ..core.errors import InputError
from ..core.knobs import parse_int
from .checkpoint import flat_weights

_OWN = re.compile(r"generator_epoch_\d+_[\w.=+-]+\.pt")


class _Flat:
    """The object whose state ignite's Checkpoint saves: a network's flat weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state_dict(self) -> dict[str, torch.Tensor]:
        return flat_weights(self.network)

    def load_state_dict(self, state: Mapping) -> None:
        raise NotImplementedError("saved models are loaded by hiresmed.core.weights.load_weights")


class _Folder(DiskSaver):
    """Ignores a missing file: a training killed between its removal and the checkpoint removes it again."""

    def remove(self, filename: str) -> None:
        if (Path(self.dirname) / filename).exists():
            super().remove(filename)


class BestModels:
    """Keeps the `count` best models in output_dir/best/, flat state_dicts with epoch and metric in their names.

    ignite's Checkpoint with its score function. Attach it to the evaluator, and name it in `Checkpoint(also=...)`, so
    that a resumed run knows which models it has saved.

    Args:
        output_dir: the training's folder.
        network: the generator, or the AveragedModel around it.
        metric: a key of engine.state.metrics; None: the engine's key metric.
        mode: "max" if larger is better, "min" if smaller is.
        count: number of models.

    Raises:
        InputError: another mode, or a count below 1.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        metric: str | None = None,
        mode: str = "min",
        count: int = 3,
    ) -> None:
        if mode not in ("min", "max"):
            raise InputError(f"BestModels' mode must be 'min' or 'max', got '{mode}'; choose one of the two.")
        self.metric = metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.saver = Checkpoint(
            {"generator": _Flat(network)},
            _Folder(str(Path(output_dir) / "best"), atomic=True, create_dir=True, require_empty=False),
            filename_pattern="{name}_epoch_{global_step:04d}_{score_name}_{score}.{ext}",
            score_function=self._score,
            score_name="score",
            global_step_transform=lambda engine, event: engine.state.epoch,
            n_saved=parse_int(count, "count", least=1),
        )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.saver)

    def _score(self, engine: Engine) -> float:
        state: Any = engine.state  # MONAI's, with the key metric's name
        return self.sign * float(state.metrics[self.metric or state.key_metric_name])

    def state_dict(self) -> dict[str, Any]:
        return {"saved": [(item.priority, item.filename) for item in self.saver._saved]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # what is not among the best any more is deleted, so that an edited checkpoint must not name other files
        items = [Checkpoint.Item(float(p), str(f)) for p, f in state["saved"]]
        self.saver._saved = [item for item in items if _OWN.fullmatch(item.filename)]
