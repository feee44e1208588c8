"""What a training says while it runs: where it stands, how good it is, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..core.in_words import count_in_words, format_bytes, format_duration
from ..core.knobs import parse_int
from ..core.memory import peak_rss_bytes
from ..core.progress import Progress, announce
from .history import History


class TrainingProgress:
    """A bar or a line for each epoch and validation, and a last line: what was trained, how well, and where it is.

    The first process of several speaks. List it after the History.

    Args:
        output_dir: the training's folder.
        validator: computes the key metric.
        history: of this training.
        every: a line every so many iterations; None: every half minute, where there is no terminal.
    """

    def __init__(self, output_dir: str | Path, validator: Engine, history: History, every: int | None = None) -> None:
        self.folder = Path(output_dir)
        self.validator = validator
        self.history = history
        self.every = None if every is None else parse_int(every, "log_interval", least=1)
        self.epoch: Progress | None = None
        self.validation: Progress | None = None
        self.first_epoch = 0
        self.started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)
        self.validator.add_event_handler(Events.STARTED, self._begin_validation)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._validated)
        self.validator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _begin_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        if self.first_epoch == 0:  # not at the start, when a checkpoint may not be loaded yet
            self.first_epoch = state.epoch
            self.started = time.monotonic()
            iterations = count_in_words(state.epoch_length, "iterations")
            epochs = f"epochs {state.epoch} to {state.max_epochs} of {iterations}"
            announce(f"{epochs} on {state.device}; results in {self.folder}", "train")
        title = f"epoch {state.epoch} of {state.max_epochs}"
        self.epoch = Progress(state.epoch_length, title, "train", self.every)

    def _iteration(self, engine: Engine) -> None:
        if self.epoch is not None:
            note = in_words(self.history.means()) if self.epoch.is_due else ""
            self.epoch.advance(note)

    def _end_epoch(self, engine: Engine) -> None:
        state: Any = engine.state
        if self.epoch is None:
            return
        words = [in_words(self._means_of(state.epoch))]
        metrics = self.history.latest(state.epoch)
        if metrics:
            best = self.history.best
            mark = " (the best so far)" if best is not None and best[0] == state.epoch else ""
            words.append(f"validation {in_words(metrics)}{mark}")
        if state.epoch < state.max_epochs:
            words.append(f"about {format_duration(self._seconds_left(state))} left")
        self.epoch.close()
        self.epoch.say(f"{self.epoch.title}, {format_duration(self.epoch.seconds)}: {'; '.join(filter(None, words))}")
        self.epoch = None

    def _means_of(self, epoch: int) -> dict[str, float]:
        means = {name: values[-1][1] for name, values in self.history.losses.items() if values[-1][0] == epoch}
        if means.get("adversarial") == means.get("loss_g"):
            means.pop("adversarial", None)  # where it is all of the generator's loss
        return means

    def _seconds_left(self, state: Any) -> float:
        done = state.epoch - self.first_epoch + 1
        return (time.monotonic() - self.started) / done * (state.max_epochs - state.epoch)

    def _begin_validation(self, engine: Engine) -> None:
        loader: Any = engine.state.dataloader
        count = len(loader) if isinstance(loader, Sized) else None
        self.validation = Progress(count, "validation", "validate")

    def _validated(self, engine: Engine) -> None:
        if self.validation is not None:
            self.validation.advance()

    def _end_validation(self, engine: Engine) -> None:
        if self.validation is not None:
            self.validation.close()
            self.validation = None

    def _stop(self, engine: Engine, error: BaseException) -> None:
        for shown in (self.validation, self.epoch):
            if shown is not None:
                shown.close()
        raise error

    def _end(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            print(self.last_line(engine), flush=True)

    def last_line(self, engine: Engine) -> str:
        """The sentence that ends a training: what was made, where, how good it is, in what time and memory."""
        state: Any = engine.state
        count = state.epoch - self.first_epoch + 1 if self.first_epoch else 0
        text = f"Trained {count_in_words(count, 'epochs')} in {format_duration(time.monotonic() - self.started)}"
        text += f" and {format_bytes(peak_rss_bytes())} of memory"
        best = self.history.best
        if best is None:
            return f"{text}; no validation, so {self.folder} has checkpoints but no new model.pt."
        goal = "lower" if self.history.mode == "min" else "higher"
        text += f": best {self.history.key} {best[1]:.4g} ({goal} is better), after epoch {best[0]}"
        return f"{text}. Weights: {self.folder / 'model.pt'}; curves and samples: {self.folder / 'training.png'}."


def in_words(values: Mapping[str, float]) -> str:
    """Names and numbers for people.

    >>> in_words({"loss_d": 1.38629, "loss_g": 0.69315})
    'loss_d 1.386, loss_g 0.6932'
    """
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
