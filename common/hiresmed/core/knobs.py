"""Values of knobs as the command line gives them: parsed, checked, with errors that name the knob."""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from .errors import InputError


def parse_bool(value: Any, name: str) -> bool:
    """A Boolean knob: True or False, also as the text that `--knob true` gives.

    Raises:
        InputError: for anything else (the text "false" would otherwise count as true).

    >>> parse_bool("true", "resume"), parse_bool("False", "resume"), parse_bool(0, "resume")
    (True, False, False)
    """
    known = {"true": True, "false": False, "1": True, "0": False}
    text = str(value).lower()
    if text not in known:
        raise InputError(f"{name} must be true or false, got '{value}'; write --{name} true or false.")
    return known[text]


def parse_int(value: Any, name: str, least: int = 0) -> int:
    """A knob that is a whole number.

    Raises:
        InputError: not a whole number, or less than `least`.

    >>> parse_int("7", "seed")
    7
    """
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise InputError(f"{name} must be a whole number from {least} on, got '{value}'; change it.")
    return number


def parse_positive(value: Any, name: str) -> float:
    """A knob that is a finite number above 0.

    Raises:
        InputError: for any other value, text included.

    >>> parse_positive(2e-4, "learning_rate")
    0.0002
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise InputError(f"{name} must be a number above 0, got {value!r}; change it.")
    return float(value)


def parse_share(value: Any, name: str) -> float:
    """A knob that is a share, a rate or a probability: a number from 0 to 1.

    Raises:
        InputError: for any other value, text included.

    >>> parse_share(0.998, "ema_decay")
    0.998
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}; change it.")
    return float(value)


def parse_range(value: Any, name: str) -> tuple[float, float]:
    """A knob of two rising numbers.

    Raises:
        InputError: for any other value.

    >>> parse_range([-1, 1], "value_range")
    (-1.0, 1.0)
    """
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise InputError(f"{name} must be two rising numbers, got {value!r}; change it.")
    return low, high


def check_kind(value: Any, kind: Any, name: str) -> None:
    """Checks a knob by the type hint of the argument that it is passed on to.

    Args:
        kind: of numbers, text, mappings, sequences of these, None and their unions; any other type takes anything.

    Raises:
        InputError: the value is none of these.

    >>> check_kind([1, 2], float | list[int] | None, "spacing")
    >>> check_kind("small", int, "size")
    Traceback (most recent call last):
        ...
    hiresmed.core.errors.InputError: size must be a whole number, got 'small'; change it.
    """
    if not _is_of_kind(value, kind):
        raise InputError(f"{name} must be {_kind_in_words(kind)}, got {value!r}; change it.")


def _alternatives(kind: Any) -> tuple:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) in (Sequence, Iterable, list, tuple)


def _is_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (Mapping, dict)


def _is_of_kind(value: Any, kind: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    for one in _alternatives(kind):
        if one is NoneType:
            fits = value is None or is_null(value)
        elif one is bool:
            fits = str(value).lower() in ("true", "false", "1", "0")
        elif one is int:
            fits = (isinstance(value, int) and is_number) or (isinstance(value, str) and value.lstrip("-").isdecimal())
        elif one is float:
            fits = is_number and math.isfinite(value)
        elif one is str:
            fits = isinstance(value, str)
        elif _is_mapping(one):
            fits = isinstance(value, Mapping)
        elif _is_sequence(one) and not isinstance(value, str):
            parts = get_args(one)
            fits = isinstance(value, list | tuple) and all(_is_of_kind(part, parts[0]) for part in value)
        else:
            fits = not _is_sequence(one)
        if fits:
            return True
    return False


_KINDS = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _kind_in_words(kind: Any) -> str:
    told = []
    for one in _alternatives(kind):
        if _is_mapping(one):
            told.append("a mapping")
        elif _is_sequence(one):
            part = get_args(one)[0]
            told.append(f"a list ({_kind_in_words(part)} each)")
        else:
            told.append(_KINDS.get(one, "another value"))
    return " or ".join(told)


def check_training(max_epochs: Any, epoch_length: Any) -> None:
    """Checks the knobs that all trainers have: ignite notices such mistakes late, with a traceback.

    Args:
        max_epochs: the knob `max_epochs`.
        epoch_length: the knob `iterations`, batches an epoch; None: all of the data loader's.

    Raises:
        InputError: one of them is no whole number from 1 on.
    """
    parse_int(max_epochs, "max_epochs", least=1)
    if epoch_length is not None:
        parse_int(epoch_length, "iterations", least=1)


def parse_choice(table: Mapping[str, Any], name: Any, knob: str) -> Any:
    """The entry of a table of settings whose name a knob gives.

    Raises:
        InputError: the table has no such entry.

    >>> parse_choice({"fast": 5, "paper": 20}, "paper", "recipe")
    20
    """
    if name not in table:
        raise InputError(f"{knob} must be one of {', '.join(table)}, got '{name}'; choose one of these.")
    return table[name]


def nearest_name(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of `known` that a mistyped word most likely means, or None.

    >>> nearest_name("tile_sise", ["seed", "tile_size"]), nearest_name("qqq", ["seed"])
    ('tile_size', None)
    """
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=likeness)), None)


MONAI_OWN = ("config_file", "meta_file", "logging_file", "tracking", "args_file", "run_id", "init_id", "final_id")


def unknown_knob(name: str, known: Iterable[str]) -> InputError:
    """The error for a mistyped knob, with the nearest of the `known` names of its section."""
    section, separator, key = name.rpartition("::")
    near = nearest_name(key, known)
    hint = f"did you mean --{section}{separator}{near}?" if near else "its knobs are the first lines of the config."
    return InputError(f"--{name} is no knob of this config; {hint}")


def check_knob_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuses knobs (say, tile_size or network_def#width) whose sections are not among a config's ids.

    What a section may hold is checked by the bundle, which knows its components. MONAI's own arguments of
    `monai.bundle run` are accepted.

    Args:
        names: of the knobs.
        known: ids of the config, `train::trainer::max_epochs` as well as `train` and `train::trainer`.

    Raises:
        InputError: for the first unknown one, with the nearest name.
    """
    known = set(known)
    for name in names:
        parts = name.replace("#", "::").split("::")
        if parts[0].replace("-", "_") in (*MONAI_OWN, "workflow_type"):
            continue
        for depth in range(1, max(len(parts), 2)):
            section = "::".join(parts[:depth])
            above = section.rpartition("::")[0]
            if section not in known:
                raise unknown_knob(section, names_in(above, known))


def names_in(section: str, ids: Iterable[str]) -> set[str]:
    """The last parts of those ids that lie directly in a section; "" is the top.

    >>> sorted(names_in("train", ["train", "train::trainer", "train::dataset", "train::dataset::data"]))
    ['dataset', 'trainer']
    """
    return {name.rpartition("::")[2] for name in ids if name.rpartition("::")[0] == section}


# knobs whose value is a path or a pattern: text, whatever characters it holds
TEXT_KNOBS = (
    "bundle_root", "image", "sketch", "mask", "label", "dataset_dir", "output_dir", "weights_path", "warm_start",
    "cache_dir", "subjects", "subject",
)  # fmt: skip


def is_null(word: Any) -> bool:
    """Whether a word of the command line means null: MONAI passes `null` on as text and drops `None`."""
    return isinstance(word, str) and word in ("null", "None")


def parse_text(word: str) -> str | list[str] | None:
    """The value of one of TEXT_KNOBS from a word of the command line; nothing in it is ever evaluated.

    The name of an existing file is taken as it is. Otherwise null is None, a quoted text loses its quotes (also if
    `as_expression` wrote it), a list of quoted texts is a list, and any other word is taken as it is.

    >>> parse_text("/data/$(a),#1.png"), parse_text("'/data/a.png'"), parse_text("null")
    ('/data/$(a),#1.png', '/data/a.png', None)
    >>> parse_text("['t1.nii', 't2.nii']")
    ['t1.nii', 't2.nii']
    """
    if os.path.exists(word):
        return word
    if is_null(word):
        return None
    value = _literal(word)
    if isinstance(value, str):
        return _expressed(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return [_expressed(item) for item in value]
    return word


def as_expression(text: str | list[str] | None) -> Any:
    """Text written so that MONAI's ConfigParser passes it on unchanged.

    The parser evaluates text that begins with $, looks up @ and %, and turns # into :: everywhere; so text with such
    characters becomes an expression, a Python literal that escapes them.

    >>> print(as_expression("/data/a.png"), as_expression("$a#1.png"))
    /data/a.png $'$a\\x231.png'
    """
    if isinstance(text, list):
        return [as_expression(item) for item in text]
    if text is None or (re.fullmatch(r"[^$@%#:]*", text) and not is_null(text)):
        return text
    return "$" + re.sub("[#@%:]", lambda match: f"\\x{ord(match[0]):02x}", ascii(text))


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _expressed(text: str) -> str:
    """The text of an expression by `as_expression`; any other text as it is."""
    value = _literal(text[1:]) if text.startswith("$") else None
    return value if isinstance(value, str) else text
