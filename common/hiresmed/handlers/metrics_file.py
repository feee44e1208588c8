"""metrics.json of an evaluation: every case and their mean."""

from __future__ import annotations

import json
import numbers
import pathlib
from collections.abc import Mapping

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ..report import to_json_safe, written_aside


class MetricsFile:
    """Collects what CaseReport measured and writes output_dir/metrics.json: cases, mean, N, units, protocol.

    Args:
        output_dir: the run's folder.
        units: name -> unit, for the reader.
        protocol: one sentence on what was compared with what.
    """

    def __init__(self, output_dir: str, units: Mapping[str, str], protocol: str) -> None:
        self.path, self.units, self.protocol = pathlib.Path(output_dir) / "metrics.json", dict(units), protocol
        self.cases: dict[str, dict] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _case(self, engine: Engine) -> None:
        figures = engine.state.output.get("metrics")
        if figures is not None:
            self.cases[engine.state.batch["name"]] = figures

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
        with written_aside(self.path) as aside:
            aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")


def mean_of(cases: list[Mapping]) -> dict:
    """Mean over cases of every number that all have; a nested figure counts by its "value".

    >>> mean_of([{"mae": 1.0, "seam_z": {"value": 2.0}}, {"mae": 3.0, "seam_z": {"value": 4.0}}])
    {'mae': 2.0, 'seam_z': 3.0}
    """

    def value(figure):
        return figure.get("value") if isinstance(figure, Mapping) else figure

    names = [n for n in (cases[0] if cases else {}) if all(isinstance(value(c.get(n)), numbers.Real) for c in cases)]
    return {n: float(np.mean([value(c[n]) for c in cases])) for n in names}
