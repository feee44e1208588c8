"""The front door of every config: plain errors, checked knobs, a steady allocator."""

from __future__ import annotations

import sys

from monai.bundle import ConfigParser

from ..core.errors import speak_plainly
from ..core.knobs import check_names
from ..core.memory import keeping_allocator, steady_allocator


def open_door(workflow: str = "infer") -> None:
    """First step of each config's `initialize`: errors become one sentence, mistyped knobs are refused.

    Args:
        workflow: train or infer; inference gets the allocator that keeps the resident size flat, training the faster
            one that keeps what was freed for the next step.

    Raises:
        InputError: an override on the command line that no config file knows.
    """
    speak_plainly()
    if workflow == "infer":
        steady_allocator()
    else:
        keeping_allocator()
    check_overrides(sys.argv)


def check_overrides(argv: list[str]) -> None:
    """Refuse `--knob value` whose first name stands in none of the `--config_file`s; MONAI would take it silently."""
    if not argv or "monai" not in argv[0] or "bundle" not in argv[0]:
        return
    given = options_of(argv)
    files = given.get("config_file") or given.get("config-file")
    if files is None:
        return
    check_names(given, ConfigParser.load_config_files(_as_list(files)))


def options_of(argv: list[str]) -> dict[str, str]:
    """The `--name value` and `--name=value` of a command line."""
    options = {}
    for n, word in enumerate(argv):
        if word.startswith("--") and len(word) > 2:
            name, _, value = word[2:].partition("=")
            options[name] = value or (argv[n + 1] if n + 1 < len(argv) else "")
    return options


def _as_list(files: str) -> list[str] | str:
    text = files.strip()
    return [part.strip(" '\"") for part in text[1:-1].split(",")] if text.startswith("[") else text
