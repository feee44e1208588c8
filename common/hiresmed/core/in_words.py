"""Sizes and durations as text for people."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """A number of bytes in powers of ten.

    >>> format_bytes(424e6), format_bytes(999.6)
    ('424 MB', '1.0 kB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """A duration in its largest units.

    >>> format_duration(3.21), format_duration(245), format_duration(7800)
    ('3.2 s', '4 min 5 s', '2 h 10 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    rounded = round(seconds)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def count_in_words(count: int, plural: str) -> str:
    """A number of things.

    >>> count_in_words(1, "training cases"), count_in_words(3, "epochs")
    ('1 training case', '3 epochs')
    """
    return f"{count} {plural.removesuffix('s') if count == 1 else plural}"
