"""Errors that a user can act on: one sentence that says what is required, what was given, and what to do."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable

# MONAI's warning about a `_target_` that is neither class nor function; it goes on with the module and fails later
MODULE_AS_TARGET = r"Component <module '(?P<name>[\w.]+)'.*> is not callable"


class InputError(ValueError):
    """A user's mistake (a bad file, knob or folder); its text is one complete sentence that ends with what to do."""


def first_input_error(error: BaseException | None) -> InputError | None:
    """The InputError inside a chain of exceptions, or None: MONAI and ignite wrap what a component raises.

    MONAI's warning that a `_target_` is a module counts as one, where `install_error_hook` has made an error of it.
    """
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        if isinstance(error, InputError):
            return error
        module = re.match(MODULE_AS_TARGET, str(error)) if isinstance(error, UserWarning) else None
        if module:
            return InputError(
                f"_target_ must name a class or a function, got the module {module['name']}; name what it defines, and "
                "if the module hides a function of the same name in its package, rename the file."
            )
        visited.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def install_error_hook() -> None:
    """From now on an uncaught InputError ends the program with its sentence on stderr; no traceback is shown or logged.

    A hook, not SystemExit where the mistake is noticed: the same components also run in a MONAI Label server and in
    notebooks, which must be able to catch the error and continue.
    """

    def hook(kind, error, traceback):
        mistake = first_input_error(error)
        if mistake is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {mistake}", file=sys.stderr)

    sys.excepthook = hook
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _WithoutTraceback):
        logging.setLogRecordFactory(_WithoutTraceback(factory))
    warnings.filterwarnings("error", message=MODULE_AS_TARGET, category=UserWarning)


def end_on_sigterm() -> None:
    """SIGTERM (a scheduler's time limit, `kill`) ends this process as an error does: what is half written is removed.

    A handler of the program around this library is left alone.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _Termination())


class _Termination:
    """Handler of a signal, in the process that installed it; a forked one (a data loader's) just ends."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def __call__(self, number: int, frame: object) -> None:
        if os.getpid() != self.process:
            os._exit(128 + number)
        print("Stopped by SIGTERM; the same command with --resume true goes on.", file=sys.stderr, flush=True)
        # zarr's tasks that wait at this moment are dropped when Python ends, which asyncio reports with tracebacks
        logging.getLogger("asyncio").disabled = True
        sys.unraisablehook = lambda unraisable: None
        raise SystemExit(128 + number)


def install_warning_hook() -> None:
    """From now on what this package warns of goes to its loggers: one line on the screen, and into report.json."""
    package = __name__.partition(".")[0]
    previous = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == "warnings":
            frame = frame.f_back
        module = str(frame.f_globals.get("__name__"))  # whoever called warnings.warn, whatever its stacklevel
        if module.partition(".")[0] == package:
            logging.getLogger(module).warning(str(message))
        else:
            previous(message, category, filename, lineno, file, line)

    show.of_package = package  # type: ignore[attr-defined]
    if getattr(previous, "of_package", None) != package:
        warnings.showwarning = show


class _WithoutTraceback:
    """Makes log records; those of an InputError have no traceback, which MONAI's StatsHandler logs inside engines."""

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self.factory = factory

    def __call__(self, *args, **kwargs) -> logging.LogRecord:
        record = self.factory(*args, **kwargs)
        if record.exc_info and first_input_error(record.exc_info[1]) is not None:
            record.exc_info = None
        return record
