"""How many bytes of tensors are alive at once: counted, not sampled, and also for tensors without memory.

A run under torch's FakeTensorMode computes shapes only; the bytes that it would hold are the same, so the memory of a
256^3 training step is known in seconds on any machine. What a kernel allocates and frees inside itself (a convolution's
workspace) is not counted. torch.distributed._tools.MemTracker is similar, but private, and rounds to CUDA's blocks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the distinct live storages that operations touch: `now` and `peak`, in bytes.

    A storage counts once, however many views it has, from the first operation that uses it until it is freed.

    Args:
        held: tensors that count from the start, such as a network's parameters.
        device: count only storages on this kind of device ("cuda": what is offloaded to the host no longer counts).

    >>> with LiveBytes() as live:
    ...     a = torch.zeros(1000)
    ...     b = a[:10]
    ...     c = a + 1
    ...     del a, c
    >>> live.peak, live.now
    (8000, 4000)
    """

    def __init__(self, held: Iterable[torch.Tensor] = (), device: str | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._device = device
        self._known: set[int] = set()
        self._count(held)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self._count(tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        self._count(tree_leaves(result))
        return result

    def _count(self, values: Iterable[Any]) -> None:
        for tensor in values:
            if not isinstance(tensor, torch.Tensor) or self._device not in (None, tensor.device.type):
                continue
            storage = tensor.untyped_storage()
            address = storage._cdata  # of the storage itself: data_ptr is 0 for every fake one
            if address in self._known:
                continue
            self._known.add(address)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, address, storage.nbytes()).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size
