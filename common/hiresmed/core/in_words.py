"""Sizes and durations in words."""

from __future__ import annotations


def in_bytes(count: float) -> str:
    """A number of bytes in powers of ten.

    >>> in_bytes(424e6), in_bytes(999.6)
    ('424 MB', '1.0 kB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def in_time(seconds: float) -> str:
    """A duration.

    >>> in_time(3.21), in_time(245), in_time(7800)
    ('3.2 s', '4 min 5 s', '2 h 10 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    rounded = round(seconds)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"
