"""A stand-in for a card, for tests on a machine that has none: `load(); torch.ones(3, device="card")`.

Its memory is the host's and its kernels are the CPU's, but it refuses what a card refuses: numpy() of its tensors, and
tensors of two devices in one operation. Autocast casts convolutions and products; the bytes in use are counted.
Not like a card: its speed, its generator (the CPU's), its rounding, streams that never wait.

It is compiled once (some 20 s) into torch's folder of extensions ($TORCH_EXTENSIONS_DIR), for each torch and source.
torch's own loader wants ninja and Python's headers, and keeps one build for all versions of torch.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import torch
from filelock import FileLock

NAME = "card"
SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC"]
WRITTEN_FOR = "2.13."  # torch's headers in ATen/native change from version to version


class CardUnavailableError(Exception):
    """Why there can be no stand-in card on this machine."""


def compiler() -> str:
    """Path of a C++ compiler ($CXX, c++, g++ or clang++)."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise CardUnavailableError("no C++ compiler (c++, g++, clang++ or $CXX) to build the stand-in card with")


def build() -> Path:
    """Path of the compiled card; the first of several processes compiles it, the others wait.

    Raises:
        CardUnavailableError: no compiler; headers of a torch that the source was not written for.
        RuntimeError: the compiler's words, where it should have worked.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + f"{torch.__version__} {FLAGS}".encode()).hexdigest()[:16]
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    library = root / "hiresmed_stand_in_card" / f"{key}.so"
    if library.exists():
        return library
    words = [compiler(), *FLAGS, str(SOURCE)]
    torch_folder = Path(torch.__file__).parent
    words += [f"-I{torch_folder / 'include'}", f"-I{torch_folder / 'include/torch/csrc/api/include'}"]
    words += [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    library.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(library.with_suffix(".lock")):
        if library.exists():
            return library
        aside = library.with_suffix(f".{os.getpid()}.so")
        done = subprocess.run([*words, "-o", str(aside)], capture_output=True, text=True)
        if done.returncode != 0:
            reason = f"the stand-in card could not be compiled for torch {torch.__version__}"
            if not torch.__version__.startswith(WRITTEN_FOR):
                raise CardUnavailableError(reason)
            raise RuntimeError(f"{reason}:\n{done.stderr[-3000:]}")
        os.replace(aside, library)
    return library


def load() -> None:
    """Makes the device "card" known to this process, once and for good."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    compiled = ctypes.CDLL(str(build()))
    for function in (compiled.card_bytes_in_use, compiled.card_bytes_at_peak):
        function.restype = ctypes.c_size_t

    class Card:
        """What torch and its users ask of the module of a device, torch.card."""

        is_available = staticmethod(lambda: True)
        is_initialized = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 1)
        current_device = staticmethod(lambda: 0)
        synchronize = staticmethod(lambda device=None: None)
        manual_seed_all = staticmethod(lambda seed: None)  # its generator is the CPU's
        get_rng_state = staticmethod(lambda device=0: torch.get_rng_state())
        set_rng_state = staticmethod(lambda state, device=0: None)
        get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
        _is_in_bad_fork = staticmethod(lambda: False)
        memory_allocated = staticmethod(lambda device=None: compiled.card_bytes_in_use())
        max_memory_allocated = staticmethod(lambda device=None: compiled.card_bytes_at_peak())
        reset_peak_memory_stats = staticmethod(lambda device=None: compiled.card_reset_peak())
        limit_memory = staticmethod(lambda size: compiled.card_limit(ctypes.c_size_t(size)))  # in bytes; 0: no limit

    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, Card)
    torch.utils.generate_methods_for_privateuse1_backend()
    # or autograd's thread, begun a moment ago, may meet an interpreter that is gone: exit status 134
    atexit.register(time.sleep, 0.2)
