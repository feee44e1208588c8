"""Knobs as a command line hands them over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import InputError


def flag(value: Any, name: str) -> bool:
    """A yes-or-no knob: True and False, also as the text that `--knob true` arrives as.

    Raises:
        InputError: for anything else (the text "false" would otherwise count as true).

    >>> flag("true", "resume"), flag("False", "resume"), flag(0, "resume")
    (True, False, False)
    """
    known = {"true": True, "false": False, "1": True, "0": False}
    text = str(value).lower()
    if text not in known:
        raise InputError(f"{name} should be true or false, but is '{value}'; write --{name} true or false.")
    return known[text]


def whole_number(value: Any, name: str, least: int = 0) -> int:
    """A knob that counts something.

    Raises:
        InputError: not a whole number, or less than `least`.

    >>> whole_number("7", "seed")
    7
    """
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise InputError(f"{name} should be a whole number from {least} on, but is '{value}'; change it.")
    return number


def check_knobs(counts: Mapping[str, Any] | None = None, positive: Mapping[str, Any] | None = None) -> None:
    """A config's check before any work: `counts` are whole numbers from 1 on, `positive` are numbers above 0.

    torch and ignite meet such mistakes late, with a traceback.

    Raises:
        InputError: the first that is not.
    """
    for name, value in (counts or {}).items():
        whole_number(value, name, least=1)
    for name, value in (positive or {}).items():
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not 0 < value < math.inf:
            raise InputError(f"{name} should be a number above 0, but is {value!r}; change it.")


def choice(table: Mapping[str, Any], name: Any, knob: str) -> Any:
    """The entry of a table of settings that a knob names.

    Raises:
        InputError: the table has no such entry.

    >>> choice({"fast": 5, "paper": 20}, "paper", "recipe")
    20
    """
    if name not in table:
        raise InputError(f"{knob} should be one of {', '.join(table)}, but is '{name}'; choose one of these.")
    return table[name]
