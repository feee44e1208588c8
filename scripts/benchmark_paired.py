"""Times of several ways to do the same, taken in turns. No command of its own: imported by the benchmarks beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def paired(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least processor seconds of each, in turns, so that a busy minute strikes all; a first turn is not counted."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(repeats + 1):
        for name, run in ways.items():
            begun = time.process_time()
            run()
            if turn:
                best[name] = min(best[name], time.process_time() - begun)
    return best
