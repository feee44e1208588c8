"""Peak memory among the metrics of an epoch."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

from ..core.memory import peak_device_bytes, peak_rss_bytes, reset_peak_rss


class PeakMemory:
    """Puts "peak_rss_bytes" and "peak_device_bytes" into engine.state.metrics at each epoch's end.

    The latter only where the device counts them (not on a CPU). Both count from the start of the run (the resident set
    from the start of the process where the system permits no reset). List it before a TensorBoardStatsHandler, which
    writes all of engine.state.metrics.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: reset_peak_rss())
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state  # MONAI's, with a device
        state.metrics["peak_rss_bytes"] = peak_rss_bytes()
        on_device = peak_device_bytes(state.device)
        if on_device:
            state.metrics["peak_device_bytes"] = on_device
