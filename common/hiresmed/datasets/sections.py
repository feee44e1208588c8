"""Which cases train and which validate: fixed by the patient's name alone."""

from __future__ import annotations

import hashlib
import re

from ..core.errors import InputError


def section_of(name: str, validation_share: float = 0.2) -> str:
    """training or validation: fixed by the case's name alone, so that added cases move no other one."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "validation" if draw < validation_share else "training"


def subject_of(name: str, pattern: str | None) -> str:
    r"""The patient in a case's name.

    >>> subject_of("hannover_p236_APSupine_483f2ad8", r"_(p\d+)_")
    'p236'
    """
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise InputError(
            f"subject should be a regular expression, but {pattern!r} is none ({error}); repair it."
        ) from error
    if match is None:
        raise InputError(
            f"subject should find the patient in every case's name, but {pattern!r} finds none in {name}; change it, "
            "or rename the file."
        )
    return (match.group(1) if match.re.groups else match.group()) or name
