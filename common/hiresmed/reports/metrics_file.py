"""metrics.json of an evaluation: every case and their mean."""

from __future__ import annotations

import json
import logging
import numbers
import pathlib
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ..core.errors import InputError
from ..core.output_files import write_then_rename
from .report import to_json_safe

logger = logging.getLogger(__name__)
FILES = (str, pathlib.Path, list)  # what a case's image is, unless it is made on the spot


class MetricsFile:
    """Collects what CaseReport measured and writes output_dir/metrics.json: cases, mean, N, units, protocol.

    Args:
        output_dir: the run's folder.
        units: name -> unit, for the reader.
        protocol: one sentence on what was compared with what.
        truth: key of the truth in a case; None: each case is its own. A case that is no file brings its truth.

    Raises:
        InputError: no case has a truth, before any work.
    """

    def __init__(self, output_dir: str, units: Mapping[str, str], protocol: str, truth: str | None = None) -> None:
        self.path, self.units, self.protocol = pathlib.Path(output_dir) / "metrics.json", dict(units), protocol
        self.truth = truth
        self.cases: dict[str, dict] = {}

    def attach(self, engine: Engine) -> None:
        if self.truth is not None:
            engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _check(self, engine: Engine) -> None:
        loader: Any = engine.state.dataloader
        cases = list(loader.dataset.data)
        without = [case for case in cases if case.get(self.truth) is None and isinstance(case["image"], FILES)]
        if cases and len(without) == len(cases):
            raise InputError(
                f"An evaluation must have the {self.truth} of a case, got none for {without[0]['name']} and the other "
                f"{len(cases) - 1}; give --{self.truth}, add the files, or run inference alone."
            )
        if without:
            logger.warning(
                f"{len(without)} of {len(cases)} cases have no {self.truth} and are not scored, such as "
                f"{without[0]['name']}."
            )

    def _case(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        # a list where the evaluator took the batch apart, else one case
        for case, result in zip(batch, output) if isinstance(batch, list) else [(batch, output)]:
            if result.get("metrics") is not None:
                self.cases[case["name"]] = result["metrics"]

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        content = {
            "protocol": self.protocol,
            "units": self.units,
            "n": len(self.cases),
            "mean": mean_of(list(self.cases.values())),
            "cases": self.cases,
        }
        with write_then_rename(self.path) as aside:
            aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")


def mean_of(cases: list[Mapping]) -> dict:
    """Mean over cases of every number that all have; a nested figure counts by its "value", None is left out.

    >>> mean_of([{"mae": 1.0, "seam_z": {"value": 2.0}}, {"mae": 3.0, "seam_z": {"value": 4.0}}])
    {'mae': 2.0, 'seam_z': 3.0}
    """

    def value(figure):
        return figure.get("value") if isinstance(figure, Mapping) else figure

    means = {}
    for name in cases[0] if cases else {}:
        if all(name in c for c in cases):
            values = [value(c[name]) for c in cases if c[name] is not None]
            if values and all(isinstance(v, numbers.Real) for v in values):
                means[name] = float(np.mean(values))
    return means
