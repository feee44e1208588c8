"""Fixtures that tests of several rooms share."""

import contextlib
import ctypes
import os
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Sums in one order, whatever the machine: for tests of equal bytes, and quicker for tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def full_disk():
    """A context in which no file may grow beyond so many bytes, as on a disk that fills up."""
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX")

    @contextlib.contextmanager
    def limited(most_bytes: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def plain_user():
    """Permissions count in this thread, which root's capabilities would pass over."""
    if sys.platform == "win32":
        pytest.skip("permissions are POSIX")
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 capabilities
    if libc.capget(header, sets) != 0:
        pytest.skip("root's capabilities cannot be told")
    before = list(sets)
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, sets) != 0:
        pytest.skip("root's capabilities cannot be laid down")
    yield
    libc.capset(header, (ctypes.c_uint32 * 6)(*before))
