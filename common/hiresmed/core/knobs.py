"""Knobs as a command line hands them over."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that a mistyped word most likely means, or None.

    >>> nearest("tile_sise", ["seed", "tile_size"]), nearest("qqq", ["seed"])
    ('tile_size', None)
    """
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1)), None)


MONAI_OWN = ("config_file", "meta_file", "logging_file", "tracking", "args_file", "run_id", "init_id", "final_id")


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse knobs (say, tile_size or network_def#width) whose first name is not among a config's top-level `known`.

    MONAI's own arguments of `monai.bundle run` pass.

    Raises:
        InputError: the first that is not, with the nearest name.
    """
    known = set(known)
    for name in given:
        root = name.replace("#", "::").split("::")[0]
        if root not in known and root.replace("-", "_") not in (*MONAI_OWN, "workflow_type"):
            near = nearest(root, known)
            hint = f"did you mean --{near}?" if near else "its knobs are the first lines of the config."
            raise InputError(f"--{name} is no knob of this config; {hint}")
