"""Knobs as a command line hands them over."""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
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


def positive_number(value: Any, name: str) -> float:
    """A knob that is a finite number above 0.

    Raises:
        InputError: any other value; text, too.

    >>> positive_number(2e-4, "learning_rate")
    0.0002
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise InputError(f"{name} should be a number above 0, but is {value!r}; change it.")
    return float(value)


def check_training(max_epochs: Any, epoch_length: Any, handlers: Iterable[Any]) -> None:
    """What every trainer checks of its knobs first: ignite meets such mistakes late, with a traceback.

    Args:
        max_epochs: the knob `max_epochs`.
        epoch_length: the knob `iterations`, batches an epoch; None: all of the data loader's.
        handlers: of the trainer; the `interval` of validations and the `every` of sample grids are the knob
            `val_interval`.

    Raises:
        InputError: the first that is no whole number from 1 on.
    """
    whole_number(max_epochs, "max_epochs", least=1)
    if epoch_length is not None:
        whole_number(epoch_length, "iterations", least=1)
    for handler in handlers:
        interval = getattr(handler, "interval", getattr(handler, "every", 1))
        whole_number(interval, "val_interval", least=1)


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


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of `known` that a mistyped word most likely means, or None.

    >>> nearest("tile_sise", ["seed", "tile_size"]), nearest("qqq", ["seed"])
    ('tile_size', None)
    """
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=likeness)), None)


MONAI_OWN = ("config_file", "meta_file", "logging_file", "tracking", "args_file", "run_id", "init_id", "final_id")


def unknown_knob(name: str, known: Iterable[str]) -> InputError:
    """The error for a mistyped knob, with the nearest of the `known` names of its section."""
    section, separator, key = name.rpartition("::")
    near = nearest(key, known)
    hint = f"did you mean --{section}{separator}{near}?" if near else "its knobs are the first lines of the config."
    return InputError(f"--{name} is no knob of this config; {hint}")


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse knobs (say, tile_size or network_def#width) whose sections are not among a config's ids.

    What a section may hold is for the bundle to say, which can look at its components. MONAI's own arguments of
    `monai.bundle run` pass.

    Args:
        names: of the knobs.
        known: ids of the config, `train::trainer::max_epochs` as well as `train` and `train::trainer`.

    Raises:
        InputError: the first that is not, with the nearest name.
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


# what these say is a path or a pattern: text, whatever characters it holds
TEXT_KNOBS = (
    "bundle_root", "image", "sketch", "mask", "label", "dataset_dir", "output_dir", "weights_path", "warm_start",
    "cache_dir", "subjects", "subject",
)  # fmt: skip


def is_null(word: Any) -> bool:
    """Whether a word of the command line stands for null: MONAI hands `null` on as text and drops `None`."""
    return isinstance(word, str) and word in ("null", "None")


def text_of(word: str) -> str | list[str] | None:
    """What a word of the command line says of one of TEXT_KNOBS; nothing in it is ever evaluated.

    The name of a file that exists is that name. Else null is None; a quoted text is what stands in the quotes, also if
    `as_expression` wrote it; a list of quoted texts is a list; and any other word is itself.

    >>> text_of("/data/$(a),#1.png"), text_of("'/data/a.png'"), text_of("['t1.nii', 't2.nii']"), text_of("null")
    ('/data/$(a),#1.png', '/data/a.png', ['t1.nii', 't2.nii'], None)
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
    """Text as MONAI's ConfigParser must get it to hand it on unchanged.

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
