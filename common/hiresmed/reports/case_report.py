"""What a run leaves beside each case's result: preview.png, report.json and a last line in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events

from .preview import Panel
from .run_report import RunReport


@dataclass
class CaseContent:
    """What a method shows and says of one finished case.

    Attributes:
        panels: of the preview.
        input: "file", "shape" and "spacing" of the input.
        output: "files", "shape" and "dtype" of the result.
        truth: arguments of the `metrics`, where the truth is known.
        window: values shown as black and white in the preview; None: see write_preview.
        footer: of the preview, after the bundle's name and version.
        synthetic: the result is an image that a network generated.
        sequences: {sequence: file, or series number and description} of the input, where they are told apart.
    """

    panels: Sequence[Panel]
    input: Mapping
    output: Mapping
    truth: tuple | None = None
    window: tuple[float, float] | None = None
    footer: str = ""
    synthetic: bool = True
    sequences: Mapping[str, str] | None = None


class CaseReport(RunReport):
    """Writes preview and report of each finished case and says in one line what was made.

    Args:
        output: the run's CaseOutput.
        bundle_root: the bundle's folder; its metadata.json gives name and version for the report.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
        content: callable (case dict with the results) -> CaseContent.
        metrics: callable (*truth) -> dict, where the truth is known; None: none.
    """

    def __init__(
        self,
        output,
        bundle_root: str,
        config: Mapping,
        content: Callable[[Mapping], CaseContent],
        weights_sha256: str | None = None,
        metrics: Callable[..., dict] | None = None,
    ) -> None:
        super().__init__(output, bundle_root, config, weights_sha256)
        self.content = content
        self.metrics = metrics

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _begin(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.output.begin_case(cast(Mapping, engine.state.batch))

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        cases: Any = engine.state.batch  # a dict, or a list of dicts where the batch was taken apart
        results: Any = engine.state.output
        for case, result in zip(cases, results) if isinstance(results, list) else [(cases, results)]:
            self._case(case, result, engine)

    def _case(self, case: Mapping, result: dict, engine: Engine) -> None:
        """Of one case, whose metrics are added to its results."""
        content = self.content({**case, **result})
        if self.metrics is not None and content.truth is not None:
            result["metrics"] = self.metrics(*content.truth)
            print(f"{case['name']}: {scores_in_words(result['metrics'])}.", flush=True)
        if content.sequences:
            assignment = ", ".join(f"{sequence} from {where}" for sequence, where in content.sequences.items())
            print(f"{case['name']}: {assignment}.", flush=True)
        self.publish(
            self.output.case_folder(case["name"]),
            engine,
            content.panels,
            content.window,
            content.footer,
            input={**content.input, "sha256": self.output.input_digest(case)},
            output=content.output,
            metrics=result.get("metrics"),
            synthetic=content.synthetic,
            sequences=content.sequences,
        )
        self.output.finish(case)


def scores_in_words(metrics: Mapping, most: int = 2) -> str:
    """The first figures of a case's metrics.

    >>> scores_in_words({"dice_WT": 0.69123, "hd95_WT": 13.4, "auroc_WT": None})
    'dice_WT 0.691, hd95_WT 13.4 (all in report.json)'
    """
    figures = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    words = [f"{name} {value:.3g}" for name, value in list(figures.items())[:most]]
    return f"{', '.join(words)} (all in report.json)"
