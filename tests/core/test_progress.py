"""Progress: a bar on a terminal, lines at a rate elsewhere, nothing from other processes."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from hiresmed.core import progress as module
from hiresmed.core.progress import Counted, Progress, announce, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time in seconds, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_without_a_terminal_there_is_a_line_every_half_minute_with_the_time_left(caplog, clock):
    with caplog.at_level(logging.INFO):
        work = Progress(10, "epoch 1 of 2", "train")
        for second in range(10, 110, 10):
            clock[0] = second
            work.advance("loss 0.5")
    assert lines(caplog) == [
        "epoch 1 of 2, 3 of 10, 1 min 10 s left: loss 0.5",
        "epoch 1 of 2, 6 of 10, 40 s left: loss 0.5",
        "epoch 1 of 2, 9 of 10, 10 s left: loss 0.5",
    ]


def test_a_number_asks_for_a_line_every_so_many_steps_whatever_the_time(caplog, clock):
    with caplog.at_level(logging.INFO):
        work = Progress(None, "epoch 1", "train", every=2)
        for _ in range(5):
            clock[0] += 100
            work.advance()
    assert lines(caplog) == ["epoch 1, 2", "epoch 1, 4"]


def test_on_a_terminal_there_is_a_bar_and_no_line_and_it_is_taken_away(caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO):
        work = Progress(2, "epoch 1 of 2", "train")
        work.advance()
        assert "epoch 1 of 2:" in sys.stderr.getvalue()
        work.close()
    assert lines(caplog) == [] and sys.stderr.getvalue().endswith("\r")


def test_other_processes_are_silent(caplog, monkeypatch, clock):
    monkeypatch.setattr(module.idist, "get_rank", lambda: 1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO):
        for _ in with_progress([1, 2], "cases"):
            clock[0] += 100
        announce("a line")
        with Counted([1, 2], "images") as images:
            assert list(images) == [1, 2]
    assert lines(caplog) == [] and sys.stderr.getvalue() == ""


def test_what_is_prepared_is_counted_and_said_once(caplog, clock):
    with caplog.at_level(logging.INFO):
        for _ in with_progress(["a", "b"], "training cases"):
            clock[0] += 2
        with Counted([5, 6, 7], "training images", total=2) as images:
            assert images[1] == 6
        assert images[2] == 7, "read on later, in silence"
    assert lines(caplog) == ["2 training cases, 4.0 s", "3 training images, 0.0 s"]


def test_of_a_work_that_failed_no_count_is_said(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(ZeroDivisionError):
        for case in with_progress([1, 0], "cases"):
            1 / case
    assert lines(caplog) == []
