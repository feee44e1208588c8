"""The front door of every config: plain errors, checked knobs, paths as they were written, a steady allocator."""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, get_type_hints

import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver

from ..core.errors import InputError, end_on_sigterm, install_error_hook, install_warning_hook
from ..core.knobs import (
    MONAI_OWN,
    TEXT_KNOBS,
    as_expression,
    check_kind,
    is_null,
    names_in,
    nearest_name,
    parse_int,
    parse_positive,
    parse_share,
    parse_text,
    unknown_knob,
)
from ..core.memory import keeping_allocator, steady_allocator
from ..reports.run_report import SHOWN
from .bundle_folders import SUFFIXES, ids_of, loaded

# arguments of a training's components, most of them torch's and ignite's, which meet a mistake late, with a traceback
COUNTS = (
    "max_epochs", "epoch_length", "iterations", "interval", "every", "val_interval", "batch_size", "n_critic",
    "accumulation_steps",
)  # fmt: skip
CONFIG_BYTES = 1_000_000  # a larger file beside the configs is none


def open_door(workflow: str = "infer") -> None:
    """First step of each config's `initialize`: errors become one sentence, wrong knobs are refused before any work.

    Args:
        workflow: train or infer; inference gets the allocator that keeps the resident size flat, training the faster
            one that keeps what was freed for the next step.

    Raises:
        InputError: an override, by whichever way it came, that the config has no use for; in training a count or a
            rate that is none.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show ends no run
            stream.reconfigure(errors="backslashreplace")
    assert SHOWN is not None  # loaded here, so that what is warned of while cases are listed is reported, too
    install_error_hook()
    install_warning_hook()
    end_on_sigterm()
    if workflow == "infer":
        steady_allocator()
    else:
        keeping_allocator()
    running = running_workflow()
    if running is None:
        return
    check_ids(running.parser.get(), config_contents(running.config_root_path, running.parser))
    restore_text(running.parser, options_of(sys.argv))
    check_device(running.parser)
    track_all_losses(running.parser)
    check_kinds(running.parser)
    if workflow != "infer":
        check_limits(running.parser)


def running_workflow() -> ConfigWorkflow | None:
    """The workflow whose `initialize` or `finalize` is running; None where there is none.

    MONAI gives a component its arguments and nothing of the config around it, and keeps no list of what was overridden
    in Python: so the callers are searched for it, here and nowhere else.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigWorkflow):
            return owner
        frame = frame.f_back
    return None


def config_contents(folder: Path, parser: ConfigParser) -> list[dict]:
    """What the config files in a folder define, of those that were read.

    MONAI does not say which were: a file counts if all its names are there, one of them at least with its value.
    """
    contents = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.suffix in SUFFIXES and path.name != "metadata.json":
            try:
                content = loaded(path) if path.stat().st_size < CONFIG_BYTES else None
            except (yaml.YAMLError, UnicodeDecodeError, OSError):
                continue
            if not isinstance(content, dict):
                continue
            names = {name.split("::")[0] for name in ids_of(content)}
            values = (parser.get(name.lstrip("+~")) == value for name, value in content.items())
            if names <= parser.get().keys() and any(values):
                contents.append(content)
    return contents


def check_ids(config: Mapping, contents: Sequence[Mapping]) -> None:
    """Refuse what an override added to a config although nothing reads it; MONAI would take it silently.

    At the top that is what no file defines and nothing refers to; in a component what its signature does not have; in a
    section of plain values what no file defines and looks like a name that one does.

    Args:
        config: all that is to be run.
        contents: of the files that it was read from, where they are known.

    Raises:
        InputError: the first such id, with the nearest right one.
    """
    known = {name for content in contents for name in ids_of(content)}
    top = names_in("", known)
    references = (reference for text in _texts(config) for reference in ReferenceResolver.match_refs_pattern(text))
    read = {reference.split("::")[0] for reference in references}
    for name in config:
        if not name.startswith("_") and name not in top | read:
            raise unknown_knob(name, top | read)
    for section, content in _sections(config):
        for key, value in content.items():
            name = f"{section}::{key}"
            if name in known:
                continue
            arguments = _arguments_of(content)
            if arguments is not None and key not in arguments:
                raise unknown_knob(name, arguments - ConfigComponent.non_arg_keys)
            if "_target_" not in content and not isinstance(value, dict) and not re.search(r"::\d+(::|$)", section):
                # such a section may take more than it shows: only what is nearly the same is a mistake (fine_width and
                # width are two names)
                names = {other for other in names_in(section, known) if not set(other.split("_")) < set(key.split("_"))}
                if nearest_name(key, names, likeness=0.8):
                    raise unknown_knob(name, names)


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _texts(value)


def _sections(config: Mapping | list, prefix: str = "") -> Iterator[tuple[str, Mapping]]:
    """(id, content) of all that a config nests, but for MONAI's own `_meta_`."""
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        name = f"{prefix}{key}"
        if isinstance(value, dict) and key != ConfigParser.meta_key:
            yield name, value
        if isinstance(value, dict | list) and key != ConfigParser.meta_key:
            yield from _sections(value, f"{name}::")


def _arguments_of(component: Mapping) -> set[str] | None:
    """What a component takes by name; None where that cannot be said."""
    target = component.get("_target_")
    if not isinstance(target, str) or target.startswith(("$", "@")):
        return None
    try:
        function = locate(target)
        parameters = inspect.signature(function).parameters.values() if callable(function) else []
    except (ErrorDuringImport, TypeError, ValueError):
        return None
    if not callable(function) or any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} | ConfigComponent.non_arg_keys


def options_of(argv: Sequence[str]) -> dict[str, str]:
    """The `--name value` and `--name=value` of a `python -m monai.bundle` command line, words as they were typed."""
    if not argv or "monai" not in argv[0] or "bundle" not in argv[0]:
        return {}
    options = {}
    for n, word in enumerate(argv):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            following = argv[n + 1] if n + 1 < len(argv) else ""
            options[name.replace("#", "::").replace("-", "_")] = value if equals else following
    return options


def restore_text(parser: ConfigParser, options: Mapping[str, str]) -> None:
    """Give knobs back what fire and MONAI's parser took from them: null, and the characters of paths.

    Args:
        parser: of the workflow; nothing of what is changed may have been resolved.
        options: of the command line, see `options_of`.
    """
    written = {}
    if "args_file" in options:
        values = ConfigParser.load_config_file(options["args_file"])
        written = {name: value for name, value in values.items() if isinstance(value, str)}
    for name in parser.get():
        value = parser[name]
        if name in TEXT_KNOBS and name in written:
            parser[name] = as_expression(written[name])
        elif is_null(value):
            parser[name] = None
        elif name in TEXT_KNOBS and isinstance(value, str) and "::" in value:
            parser[name] = as_expression(_with_hashes(value)) if not value.startswith("$") else value
    for name, word in options.items():
        if name in parser and name not in MONAI_OWN:
            if name in TEXT_KNOBS:
                parser[name] = as_expression(parse_text(word))
            elif is_null(word):
                parser[name] = None


def _with_hashes(path: str) -> str:
    """A path of which MONAI turned # into ::, where one exists so; others, and expressions, as they are."""
    original = path.replace("::", "#")
    return original if os.path.exists(original) and not os.path.exists(path) else path


def check_device(parser: ConfigParser) -> None:
    """Refuse a device by name that torch cannot use here; torch would say so from deep inside.

    Raises:
        InputError: no name of a device, or a GPU that there is not.
    """
    name = parser.get("device") if "device" in parser else None
    if not isinstance(name, str) or name.startswith(("$", "@")):
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device must be such as cpu or cuda:0, got {name!r}; correct it, or leave it out.") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"device must be one of this machine, got {name}, where torch finds {count} GPUs; leave it out, set it to "
            "cpu, or install the build of torch for the GPU."
        )


def track_all_losses(parser: ConfigParser) -> None:
    """MONAI's `--tracking mlflow` logs an output's "loss", which not every trainer has: let it log what there is.

    Raises:
        InputError: mlflow is not installed.
    """
    for engine in ("train::handlers", "validate::handlers", "handlers"):
        handlers = parser.get(engine) if engine.partition("::")[0] in parser.get() else None
        for n, handler in enumerate(handlers or []):
            if not isinstance(handler, Mapping) or not str(handler.get("_target_")).endswith("MLFlowHandler"):
                continue
            if find_spec("mlflow") is None:
                raise InputError("tracking must find the package mlflow, got none; run: pip install mlflow.")
            if "from_engine(['loss']" in str(handler.get("output_transform")):
                from ..training.output_scalars import scalars

                parser[f"{engine}::{n}::output_transform"] = scalars


def check_kinds(parser: ConfigParser) -> None:
    """Refuse a knob that is a word where a number is wanted, or the like, by the arguments that it is passed on to.

    Only arguments of this library's own components count, by their type hints.

    Raises:
        InputError: the first that is of no kind that its argument takes.
    """
    for _, component in list(_sections(parser.get())):
        hints = _type_hints_of(component)
        for argument, reference in component.items():
            if argument not in hints or not re.fullmatch(r"@\w+", str(reference)):
                continue
            knob = reference[1:]
            value = parser.get(knob)
            is_made = isinstance(value, str) and value.startswith(("$", "@", "%"))
            if not is_made and not (isinstance(value, dict) and "_target_" in value):
                check_kind(value, hints[argument], knob)


def _type_hints_of(component: Mapping) -> dict[str, Any]:
    """The types of what one of this library's components takes; none of another component."""
    target = component.get("_target_")
    if not isinstance(target, str) or target.partition(".")[0] != __name__.partition(".")[0]:
        return {}
    try:
        function = locate(target)
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (ErrorDuringImport, AttributeError, NameError, TypeError):
        return {}


def check_limits(parser: ConfigParser) -> None:
    """Refuse knobs of training that are no counts or rates, before data is read.

    Engines check again what they are given; here every knob is named as the user gave it.

    Raises:
        InputError: the first that is not.
    """
    for _, component in list(_sections(parser.get())):
        for argument, reference in component.items():
            if "_target_" not in component or not re.fullmatch(r"@\w+", str(reference)):
                continue
            value = parser.get_parsed_content(reference[1:]) if argument in ("lr", "decay", *COUNTS) else None
            if argument == "lr":
                parse_positive(value, reference[1:])
            elif argument == "decay":
                parse_share(value, reference[1:])
            elif value is not None:
                parse_int(value, reference[1:], least=1)
