"""Which cases train and which validate: fixed by the patient's name alone, or by the order of all patients' names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from ..core.errors import InputError

SPLITS = ("name", "tenths")


def section_of(name: str, validation_share: float = 0.2) -> str:
    """training or validation: fixed by the case's name alone, so that added cases move no other one."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "validation" if draw < validation_share else "training"


def sections_of(subjects: Iterable[str], split: str = "name") -> Mapping[str, str]:
    """{subject: section} of a whole data set.

    Args:
        subjects: all patients of the data set, in any order, repeated or not.
        split: name (section_of: training and validation), or tenths, which also holds a test section back: of the
            patients in the order of their names every tenth, from the first on, is for test, and the fifth after each
            for validation. The whole data set must be there, as a missing patient moves those after it.

    >>> sections = sections_of([f"p{n:02d}" for n in range(20)], "tenths")
    >>> [name for name, section in sections.items() if section != "training"]
    ['p00', 'p05', 'p10', 'p15']
    >>> sections["p10"], sections["p15"]
    ('test', 'validation')
    """
    names = sorted(set(subjects))
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}; choose one of them.")
    if split == "name":
        return {name: section_of(name) for name in names}
    places = {0: "test", 5: "validation"}
    return {name: places.get(n % 10, "training") for n, name in enumerate(names)}


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
        raise InputError(f"subject must be a regular expression, got {pattern!r} ({error}); repair it.") from error
    if match is None:
        raise InputError(
            f"subject must find the patient in every case's name, got {pattern!r}, which finds none in {name}; "
            "change it, or rename the file."
        )
    return (match.group(1) if match.re.groups else match.group()) or name
