"""How much memory this process has used, and how to keep glibc from hoarding it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from .errors import InputError

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_MADV_NOHUGEPAGE = 15  # Linux's mman.h
_MAPPED_FROM = 2**25  # bytes; a block from that size on is the system's, a smaller one the heap's
_steady = False  # the settings are in force


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far (or since `reset_peak_rss`), in bytes; 0 where unknown."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_rss() -> bool:
    """Resets `peak_rss_bytes` to the present resident set; False where the system does not permit it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_device_bytes(device: str | torch.device) -> int:
    """Largest sum of tensor bytes on a device (max_memory_allocated of CUDA, XPU ...); 0 where none counts it."""
    device = torch.device(device)
    largest = getattr(getattr(torch, device.type, None), "max_memory_allocated", None)
    return 0 if largest is None else largest(device)


def steady_allocator() -> bool:
    """Makes glibc keep one arena and fixed thresholds; returns whether it did (a no-op without glibc).

    Threads that read and write a store would otherwise each fill an arena of their own, and the resident set would grow
    with the number of tiles. The settings are those of MALLOC_ARENA_MAX=1, MALLOC_MMAP_THRESHOLD_ of 32 MiB and
    MALLOC_TRIM_THRESHOLD_ of 128 MiB, made here so that users need not set them: high enough that the temporaries of a
    128^3 tile are not fetched from the system one by one, which doubles the time of a sketch; `release_heap` gives them
    back. Call it before threads start: arenas that exist remain. Large tensors get huge pages (torch's
    THP_MEM_ALLOC_ENABLE), which shorten the networks' time by a fifth.
    """
    global _steady
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    libc = _glibc()
    if libc is None:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _MAPPED_FROM), (_M_TRIM_THRESHOLD, 2**27))
    _steady = all([libc.mallopt(name, value) == 1 for name, value in settings])
    return _steady


def keeping_allocator() -> bool:
    """Makes glibc keep freed memory for the next step of a training; returns whether it did (a no-op without glibc).

    A training's steps allocate the same blocks again and again. By default each large one is a mapping of its own whose
    pages the kernel clears at every step: up to a tenth of a step's time on a CPU. The price is fragmentation: the
    resident set may be larger by a few of the largest blocks, but does not grow with the number of steps.
    """
    libc = _glibc()
    return libc is not None and all(
        [libc.mallopt(_M_MMAP_MAX, 0) == 1, libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) == 1]
    )


@contextmanager
def map_large_blocks() -> Iterator[None]:
    """Inside, blocks of 4 MiB and more are mapped one by one, and go back to the system as soon as they are free.

    For a network's activations: on the heap, whether the next one fits a hole or lengthens the heap depends on what was
    there before, and so does the peak (20 MB of 640 MB in two dimensions). Active where `steady_allocator` is.
    """
    libc = _glibc() if _steady else None
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**22)
    try:
        yield
    finally:
        if libc is not None:
            libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)


def release_heap() -> None:
    """Gives freed blocks back to the system, also those below blocks in use; a no-op without glibc.

    Called before the network computes a tile, when memory is most needed, and after each level of sketches: what stays
    on the heap would otherwise grow with the number of tiles. The heap is also barred from huge pages: where a small
    block remains of one, the kernel would gradually fill the hole again (up to 16 MB every 10 seconds). MKL's matrix
    products keep a buffer of 12 MB for each thread; it is freed, since whether it lies in resident pages, and thus
    counts, would depend on the order of all blocks before it.
    """
    libc = _glibc()
    free_mkl_buffers = _mkl_free_buffers()
    if free_mkl_buffers is not None:
        free_mkl_buffers()
    if libc is None:
        return
    libc.malloc_trim(0)
    try:
        heap = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    except OSError:
        return
    for span in heap:
        low, high = (int(address, 16) for address in span.split("-"))
        libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _MADV_NOHUGEPAGE)


@contextmanager
def out_of_memory(cure: str) -> Iterator[None]:
    """Turns a failed allocation inside the block, on the device or the host, into one sentence that ends with `cure`.

    Raises:
        InputError: the code inside ran out of memory.

    >>> with out_of_memory("lower tile_size"):
    ...     raise MemoryError
    Traceback (most recent call last):
    ...
    hiresmed.core.errors.InputError: The work must fit into memory, but ran out of it (MemoryError); lower tile_size.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        # the host's allocator raises a plain RuntimeError
        if type(error) is RuntimeError and "not enough memory" not in text and "out of memory" not in text:
            raise
        request = re.search(r"(?:allocate|tried to allocate) [\d.]+ ?\w+", text)
        reason = request.group() if request else type(error).__name__
        raise InputError(f"The work must fit into memory, but ran out of it ({reason}); {cure}.") from error


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (another libc may define mallopt as an empty shell)
        libc.mallopt, libc.malloc_trim, libc.madvise  # noqa: B018
        libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
        libc.mallopt.restype = ctypes.c_int
    except (AttributeError, OSError, TypeError):
        return None
    return libc


@lru_cache(maxsize=1)
def _mkl_free_buffers() -> Callable[[], None] | None:
    """MKL_Free_Buffers of the MKL that torch was built with; None where it has none (or hides it)."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.mkl_serv_free_buffers  # its name in the static MKL of torch's wheels
    except (AttributeError, OSError):
        return None
