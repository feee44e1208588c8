"""Names that come from a disk: shown in one line, and short enough to be made longer."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, one_line

LOGGER = logging.getLogger(__name__)
MOST_BYTES = 160  # of a case's name: disks take 255, and up to 60 are added to it


def result_name(name: str) -> str:
    """A case's name as results may be called: what cannot be shown becomes `_`, a long one is cut and told apart.

    Example:
        >>> result_name("a\\nb"), result_name("caf\\udce9"), len(result_name("n" * 250))
        ('a_b', 'caf_', 160)
    """
    shown = "".join(c if c.isprintable() else "_" for c in name)
    if len(shown.encode()) <= MOST_BYTES:
        return shown
    tail = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return shown.encode()[: MOST_BYTES - len(tail)].decode(errors="ignore") + tail


def result_names(names: Sequence[str]) -> list[str]:
    """`result_name` of each, those that become alike numbered; what is called otherwise than its file is logged.

    Example:
        >>> result_names(["a\\nb", "a\\tb", "b"])
        ['a_b', 'a_b_2', 'b']
    """
    results: list[str] = []
    for name in names:
        result = wanted = result_name(name)
        number = 1
        while result != name and (result in results or result in names):
            number += 1
            result = f"{wanted}_{number}"
        if result != name:
            LOGGER.warning(
                "Results of %s are called %s: its name is too long or cannot be shown.", one_line(name), result
            )
        results.append(result)
    return results


def check_utf8(path: str | Path) -> None:
    """InputError where a path is not UTF-8, which libraries in C++ want."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{one_line(Path(path).name)} must lie at a path in UTF-8 to be read by ITK, got one with other bytes; "
            "rename it, or its folder."
        ) from error
