"""How far a long work has come: a bar on a terminal, a line now and then elsewhere; only the first process speaks."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import ignite.distributed as idist
from tqdm import tqdm

from .in_words import count_in_words, format_duration

EVERY_S = 30.0  # between two lines where there is no terminal
Item = TypeVar("Item")


class Progress:
    """One work of `total` steps: `advance` after each of them, `close` at its end, even where it was interrupted.

    Args:
        total: number of steps; None: not known.
        title: a few words, such as "epoch 3 of 50".
        name: of the logger that gets the lines.
        every: a line after so many steps, terminal or not; None: every EVERY_S seconds, without a terminal.
    """

    def __init__(self, total: int | None, title: str, name: str, every: int | None = None) -> None:
        self.total = total
        self.title = title
        self.every = every
        self.logger = logging.getLogger(name)
        self.speaks = idist.get_rank() == 0
        self.done = 0
        self.started = time.monotonic()
        self.spoken = self.started
        shown = self.speaks and total != 0 and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=title, leave=False, dynamic_ncols=True) if shown else None

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Whether something will be shown after the next step: a note made earlier would be made for nothing."""
        if not self.speaks:
            return False
        if self.every is not None and (self.done + 1) % self.every == 0:
            return True
        wait = EVERY_S if self.bar is None else 0.5
        return time.monotonic() - self.spoken >= wait

    def advance(self, note: str = "") -> None:
        """One step is done.

        Args:
            note: what is said of it, such as "loss 0.31", where it is due.
        """
        due = self.is_due
        self.done += 1
        if self.bar is not None:
            if due and note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
        if due:
            self.spoken = time.monotonic()
            by_number = self.every is not None and self.done % self.every == 0
            if by_number or (self.bar is None and self.every is None):
                self.say(f"{self._state()}{': ' if note else ''}{note}")

    def _state(self) -> str:
        if self.total is None:
            return f"{self.title}, {self.done}"
        left = self.seconds / self.done * (self.total - self.done)
        return f"{self.title}, {self.done} of {self.total}, {format_duration(left)} left"

    def say(self, line: str) -> None:
        """A line of its own, on the first process."""
        if not self.speaks:
            return
        if self.bar is not None:
            self.bar.clear()
        self.logger.info(line)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def with_progress(items: Sequence[Item], title: str, name: str = "prepare") -> Iterator[Item]:
    """The items, while it is shown how many of them are done, and at the end how many there were.

    Args:
        title: what they are, such as "training cases".
        name: of the logger.

    >>> list(with_progress([3, 4], "numbers"))
    [3, 4]
    """
    shown = Progress(len(items), title, name)
    try:
        for item in items:
            yield item
            shown.advance()
        shown.say(f"{count_in_words(len(items), title)}, {format_duration(shown.seconds)}")
    finally:
        shown.close()


def announce(line: str, name: str = "prepare") -> None:
    """A line of the log, on the first process."""
    if idist.get_rank() == 0:
        logging.getLogger(name).info(line)


class Counted(Sequence[Item]):
    """A sequence that shows how far reading it has come, inside `with`.

    >>> with Counted([3, 4], "numbers") as items:
    ...     sum(items)
    7
    """

    def __init__(self, items: Sequence[Item], title: str, total: int | None = None, name: str = "prepare") -> None:
        self.items = items
        self.title = title
        self.total = len(items) if total is None else total
        self.name = name
        self.shown: Progress | None = None  # of this process and now: a copy in a data loader shows nothing

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        if self.shown is not None:
            self.shown.advance()
        return item

    def __enter__(self) -> Counted[Item]:
        self.shown = Progress(self.total, self.title, self.name)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        assert self.shown is not None
        if error is None:
            self.shown.say(f"{count_in_words(len(self.items), self.title)}, {format_duration(self.shown.seconds)}")
        self.shown.close()
        self.shown = None
