"""What a training's epochs were like: mean losses and validation metrics, kept with the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events

from .output_scalars import scalars

NO_LOSSES = {"skipped_steps"}


class History:
    """Collects each epoch's mean losses (of this process) and, after a validation, its metrics.

    Attributes:
        losses: {name: [(epoch, mean over the epoch's iterations)]}.
        metrics: {name: [(epoch, value)]} of the validator.
        key: name of the metric that chooses the model; None before the first validation.

    Args:
        validator: the evaluator whose metrics are collected.
        interval: epochs between two validations.
        mode: "min" where a smaller key metric is better, "max" where a larger is.
    """

    optional = True  # in a checkpoint: earlier versions wrote none

    def __init__(self, validator: Engine, interval: int, mode: str) -> None:
        self.validator = validator
        self.interval = interval
        self.mode = mode
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.metrics: dict[str, list[tuple[int, float]]] = {}
        self.key: str | None = None
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._sums = {}
        self._counts = {}

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for name, value in output.items():
            if name not in NO_LOSSES and (isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0):
                # sums stay on the device: a GPU need not wait for each of them
                value = value.detach().double() if isinstance(value, torch.Tensor) else value
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The epoch's losses so far, each over the iterations that had it."""
        return {name: total / self._counts[name] for name, total in scalars(self._sums).items()}

    def _end(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        for name, value in self.means().items():
            self.losses.setdefault(name, []).append((epoch, value))
        state: Any = self.validator.state
        if epoch % self.interval == 0:
            self.key = getattr(state, "key_metric_name", None)
            for name, value in scalars(state.metrics).items():
                self.metrics.setdefault(name, []).append((epoch, value))

    def latest(self, epoch: int) -> dict[str, float]:
        """The metrics of the validation after that epoch; empty where there was none."""
        return {name: values[-1][1] for name, values in self.metrics.items() if values[-1][0] == epoch}

    @property
    def best(self) -> tuple[int, float] | None:
        """(epoch, value) of the best validation, the first of equal ones; None before one."""
        values = [(epoch, value) for epoch, value in self.metrics.get(self.key or "", []) if not math.isnan(value)]
        if not values:
            return None
        choose = min if self.mode == "min" else max
        return choose(values, key=lambda entry: entry[1])

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "metrics": self.metrics, "key": self.key}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = {name: list(values) for name, values in state["losses"].items()}
        self.metrics = {name: list(values) for name, values in state["metrics"].items()}
        self.key = state["key"]
