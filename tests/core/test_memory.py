"""The process's memory is measured in bytes and given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from hiresmed.core.memory import (
    keeping_allocator,
    peak_device_bytes,
    peak_rss_bytes,
    release_heap,
    reset_peak_rss,
    steady_allocator,
)

MIB = 1 << 20


def test_the_peak_counts_touched_bytes_and_outlives_them_until_it_is_reset():
    release_heap()  # tests before this one may have left a hole in the heap that is large enough for the block
    resettable = reset_peak_rss()
    before = peak_rss_bytes()
    block = torch.ones(96 * MIB, dtype=torch.uint8)
    assert 90 * MIB < peak_rss_bytes() - before < 140 * MIB
    del block
    release_heap()
    high = peak_rss_bytes()
    assert high - before > 90 * MIB
    if not resettable:
        pytest.skip("this system does not permit to reset the peak")
    assert reset_peak_rss()
    assert peak_rss_bytes() < high - 60 * MIB


def test_a_cpu_has_no_device_memory():
    assert peak_device_bytes("cpu") == 0


TWELVE_THREADS = """
import ctypes, re, sys, threading, types

torch = sys.modules["torch"] = types.ModuleType("torch")  # two seconds saved: nothing here needs it
torch.device = object
from hiresmed.core.memory import release_heap, steady_allocator

if sys.argv[1] == "steady":
    assert steady_allocator() and steady_allocator(), "twice is harmless"

def resident():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmRSS:"))

def work():
    blocks = []
    for _ in range(300):
        blocks.append(bytearray(b"x" * 100_000))
        pins.append(bytearray(b"x" * 1_000))  # stays, and pins the heap that it lies in
    together.wait()

pins, together, before = [], threading.Barrier(12), resident()
threads = [threading.Thread(target=work) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
if sys.argv[1] == "steady":
    release_heap()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
print(resident() - before, len(re.findall("<heap nr=", open(sys.argv[2]).read())))
"""


def after_threads(allocator: str, tmp_path) -> tuple[int, int]:
    """MiB that stay after twelve threads made and freed 360 MB, and the number of glibc's arenas."""
    command = [sys.executable, "-c", TWELVE_THREADS, allocator, str(tmp_path / "heaps.xml")]
    kept, arenas = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(kept), int(arenas)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_blocks_freed_by_threads_leave_the_process_when_the_heap_is_released_and_there_is_one_arena(tmp_path):
    kept, arenas = after_threads("usual", tmp_path)
    assert kept > 100 and arenas > 4, "glibc has learned: steady_allocator may go"
    kept, arenas = after_threads("steady", tmp_path)
    assert kept < 20 and arenas == 1


FAULTS = """
import resource, sys, torch
from hiresmed.core.memory import keeping_allocator, peak_rss_bytes

if sys.argv[1] == "keeping":
    assert keeping_allocator() and keeping_allocator(), "twice is harmless"

def step():
    torch.ones(40 * 2**20, dtype=torch.uint8)  # freed at once
    torch.ones(90 * 2**20, dtype=torch.uint8)

[step() for _ in range(12)]  # until the heap is as long as it needs to be
before, peak = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, peak_rss_bytes()
[step() for _ in range(40)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, peak_rss_bytes() - peak)
"""


def faults_and_growth(allocator: str) -> list[int]:
    """Of forty steps of a training that asks for two large blocks: page faults, and bytes that the peak grew by."""
    command = [sys.executable, "-c", FAULTS, allocator]
    return [int(n) for n in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_trainings_next_step_finds_its_memory_as_the_last_one_left_it():
    assert faults_and_growth("usual")[0] > 10_000, "glibc or torch has learned: keeping_allocator may go"
    faults, growth = faults_and_growth("keeping")
    assert faults < 100 and growth < 4 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] == "glibc", reason="a system without glibc")
def test_elsewhere_the_allocators_say_that_they_did_nothing():
    assert not steady_allocator() and not keeping_allocator()


MATRIX_PRODUCT = """
import ctypes, torch
from hiresmed.core.memory import release_heap, steady_allocator

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b c mapped d e used free keep".split()]

def used():
    info = libc.mallinfo2()
    return info.used + info.mapped

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
steady_allocator()
matrix = torch.ones(1024, 1024)
before = used()
matrix @ matrix
kept = used() - before
release_heap()
print(kept, used() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="the buffers are MKL's")
def test_the_buffers_that_matrix_products_keep_are_given_back_too():
    done = subprocess.run([sys.executable, "-c", MATRIX_PRODUCT], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    if kept < 4 * MIB:
        pytest.skip("matrix products keep no buffer on this processor, so there is none to give back")
    assert left < MIB / 2


APART = """
import ctypes
from hiresmed.core.memory import map_large_blocks, steady_allocator

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b c mapped d e used free keep".split()]

def mapped(bytes_):
    before = libc.mallinfo2().mapped
    block = bytearray(bytes_)
    return libc.mallinfo2().mapped - before

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
with map_large_blocks():
    unset = mapped(16 << 20)
steady_allocator()
with map_large_blocks():
    within = mapped(16 << 20)
    small = mapped(1 << 20)
print(within >= 16 << 20, small, mapped(16 << 20), unset >= 16 << 20)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_are_mapped_apart_only_where_asked_for():
    done = subprocess.run([sys.executable, "-c", APART], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0", "0", "True"], "within, small, after, before any setting (glibc's own)"
