"""What the processor is called and can do, from the system's own words; needs no torch."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

FEATURES = {"AVX2": "avx2", "AVX512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}


def processor_name() -> str:
    """The processor's model, as the system calls it."""
    names = cpuinfo("model name")
    return names[0] if names else platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Which of the instruction sets that matter for speed and for bfloat16 the processor has; empty where unknown."""
    flags = set(" ".join(cpuinfo("flags")[:1]).split())
    return [name for name, flag in FEATURES.items() if flag in flags]


def cpuinfo(field: str) -> list[str]:
    """Values of a field of /proc/cpuinfo, one a core; empty where there is no such file."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field]
    return []
