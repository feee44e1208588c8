"""Batch statistics averaged over all processes at an epoch's end."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from torch import nn

from ..core.distributed import average_buffers


class SharedBuffers:
    """At each epoch's end averages the networks' float buffers over the processes; list it before what uses them.

    DistributedDataParallel could send rank 0's at every forward, but then two forwards of a critic before its backward
    change what the backward needs.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = list(networks)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        average_buffers(self.networks)
