"""What the reports of all runs share: bundle, weights, knobs, seed, time and memory."""

from __future__ import annotations

import bisect
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from ..core.memory import peak_device_bytes, peak_rss_bytes
from .preview import Panel, write_preview
from .report import last_line, without_folders, write_report


class ShownWarnings(logging.Handler):
    """Collects what the loggers of this package say from level WARNING on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []
        self.times: list[float] = []

    def count_before(self, time_s: float) -> int:
        """How many sentences were shown before a time of time.time()."""
        return bisect.bisect_left(self.times, time_s)

    def emit(self, record: logging.LogRecord) -> None:
        self.sentences.append(record.getMessage())
        self.times.append(record.created)
        if not logging.getLogger().handlers and logging.lastResort is not None:
            logging.lastResort.handle(record)  # logging does so only where there is no handler at all


SHOWN = ShownWarnings()
logging.getLogger(__name__.partition(".")[0]).addHandler(SHOWN)


class RunReport:
    """Base of the handlers that write report.json; its time runs from when it is built, or from `_start`.

    Args:
        output: the run's output folder, as its handler wants it.
        bundle_root: the bundle's folder; its metadata.json gives name and version.
        config: resolved knobs to report.
        weights_sha256: of the weight file.
    """

    def __init__(self, output, bundle_root: str | Path, config: Mapping, weights_sha256: str | None = None) -> None:
        self.output, self.config = output, dict(config)
        self.bundle = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text())
        self.about = {"bundle": self.bundle["name"], "version": self.bundle["version"]}
        self.about |= {"weights_sha256": weights_sha256, "seed": self.config.get("seed", 0)}
        self.started = time.perf_counter()
        # the cases may have been listed, and some left out, before this handler was built
        self._warned = SHOWN.count_before(getattr(output, "begun", time.time()))
        self._general: list[str] | None = None  # shown before the first case: of all cases of this run

    def _start(self, engine: Engine) -> None:
        """A case begins: what was said of the one before is not said of it."""
        self.started = time.perf_counter()
        if self._general is None:
            self._general = SHOWN.sentences[self._warned :]
        self._warned = len(SHOWN.sentences)

    def warnings(self) -> list[str]:
        """The sentences shown for the run as a whole and for the case at hand, each once."""
        return list(dict.fromkeys([*(self._general or []), *SHOWN.sentences[self._warned :]]))

    def write_report(self, folder: Path, engine: Engine, **fields) -> dict:
        """folder/report.json of these fields and the run's own; returns what it says.

        Args:
            fields: input, output, metrics, and synthetic where the result is not an image that a network made up.
        """
        state: Any = engine.state  # MONAI's, with a device
        return write_report(
            folder / "report.json",
            **self.about,
            config=self.config,
            seconds=round(time.perf_counter() - self.started, 2),
            peak_rss_bytes=peak_rss_bytes(),
            peak_device_bytes=peak_device_bytes(state.device),
            warnings=self.warnings(),
            **{"synthetic": True, **fields},
        )

    def publish(
        self,
        folder: Path,
        engine: Engine,
        panels: Sequence[Panel],
        window: tuple[float, float] | None = None,
        footer: str = "",
        **fields,
    ) -> dict:
        """Write folder/preview.png and folder/report.json, print the last line; returns what the report says.

        Args:
            panels: of the preview.
            window: values shown as black and white in the preview; see write_preview.
            footer: of the preview, after the bundle's name and version.
            fields: of the report; see write_report.
        """
        name = f"{self.bundle['name']} {self.bundle['version']}"
        # the last is of this case rather than of the run
        warned = f"   WARNING: {without_folders(self.warnings()[-1])}" if self.warnings() else ""
        write_preview(folder / "preview.png", panels, window, f"{name}   {footer}{warned}")
        report = self.write_report(folder, engine, **fields)
        print(last_line(report, folder), flush=True)
        return report
