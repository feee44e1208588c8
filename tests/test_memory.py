"""The process's memory is measured in bytes and given back."""

from __future__ import annotations

import platform
import threading

import pytest
import torch
from hiresmed.memory import peak_device_bytes, peak_rss_bytes, reset_peak_rss, steady_allocator

MIB = 1 << 20


def test_the_peak_counts_touched_bytes_and_outlives_them_until_it_is_reset():
    resettable = reset_peak_rss()
    before = peak_rss_bytes()
    block = torch.ones(96 * MIB, dtype=torch.uint8)
    assert 90 * MIB < peak_rss_bytes() - before < 140 * MIB
    del block
    high = peak_rss_bytes()
    assert high - before > 90 * MIB
    if not resettable:
        pytest.skip("this system does not permit to reset the peak")
    assert reset_peak_rss()
    assert peak_rss_bytes() < high - 60 * MIB


def test_a_cpu_has_no_device_memory():
    assert peak_device_bytes("cpu") == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_with_the_steady_allocator_blocks_freed_by_threads_leave_the_process():
    assert steady_allocator()
    assert steady_allocator(), "twice is harmless"

    def work():
        # each block above the mmap threshold of 64 KiB, so that freeing unmaps it
        blocks = [bytearray(b"x" * 100_000) for _ in range(400)]
        pins.append(bytearray(b"x" * 100))
        del blocks

    pins: list[bytearray] = []
    before = resident()
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert resident() - before < 12 * MIB, "240 MB came and went"


def resident() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))
