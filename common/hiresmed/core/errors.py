"""Errors that a user can act on: one sentence that says what is required, what was given, and what to do."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# MONAI's warning about a `_target_` that is neither class nor function; it goes on with the module and fails later
MODULE_AS_TARGET = r"Component <module '(?P<name>[\w.]+)'.*> is not callable"

# torch's error for a convolution of less than it reads, deep in a network whose depth no patch's size can know
PATCH_BELOW_KERNEL = r"input size.*: \((?P<size>[\d x]+)\)\. Kernel size: \((?P<kernel>[\d x]+)\)\. Kernel size can't"

# what the system refuses, and neither we nor a library can help
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_OCCUPIED = {errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST}
_BROKEN = {errno.EIO, errno.ENXIO, errno.ENODEV, getattr(errno, "ESTALE", errno.EIO)}


def one_line(text: str) -> str:
    """A text with escapes for what breaks a line or cannot be shown: names of files may hold any bytes.

    >>> one_line("caf\\udce9\\n.png")
    'caf\\\\udce9\\\\n.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class InputError(ValueError):
    """A user's mistake (a bad file, knob or folder); its text is one complete sentence that ends with what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class FullDiskError(InputError):
    """A disk, quota or limit that is used up: the next case will find no room either."""


def first_input_error(error: BaseException | None) -> InputError | None:
    """The InputError inside a chain of exceptions, or None: MONAI and ignite wrap what a component raises.

    Without one, what the system refused (a permission, a full disk) counts as one: see `system_refusal`. So does
    MONAI's warning that a `_target_` is a module, where `install_error_hook` has made an error of it.
    """
    return _input_error_within(error) or system_refusal(error)


def system_refusal(error: BaseException | None) -> InputError | None:
    """The sentence for a file that may not be read or written, or a full disk; None for any other error.

    Only what caused the error is looked at, not what was already being handled when it was raised.

    Example:
        >>> str(system_refusal(PermissionError(errno.EACCES, "Permission denied", "/data/ct.nii")))
        '/data/ct.nii must be open to this user, got Permission denied; change its permissions, or choose another one.'
    """
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        if isinstance(error, OSError) and error.errno is not None:
            return _refusal_in_words(error)
        error = error.__cause__ or (error.__context__ if isinstance(error, OSError) else None)
    return None


@contextmanager
def system_refusals() -> Iterator[None]:
    """What the system refuses inside the block is raised as an InputError, as where other cases are to go on."""
    try:
        yield
    except OSError as error:
        refusal = system_refusal(error)
        raise (refusal or error) from (error if refusal else None)


def _refusal_in_words(error: OSError) -> InputError | None:
    # of a rename the second name is where something cannot be put
    path = error.filename2 or error.filename
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    said = error.strerror or type(error).__name__
    if error.errno in _FORBIDDEN:
        return InputError(
            f"{name or 'A file or folder of this run'} must be open to this user, got {said}; change its permissions, "
            "or choose another one."
        )
    if error.errno in _FULL:
        return FullDiskError(
            f"The disk must have room for {name or 'the results'}, got {said}; free some space and go on with "
            "resume true, or choose another output_dir."
        )
    if error.errno in _BROKEN:
        return InputError(f"{name or 'A file of this run'} must be readable, got {said}; check its disk or network.")
    if error.errno in _OCCUPIED:
        # a file stands where a folder of the path should be
        name = next((str(p) for p in Path(name).parents if name and p.exists() and not p.is_dir()), name)
        return InputError(
            f"{name or 'A place in output_dir'} must be free for what this run writes, got {said}; move away what lies "
            "there, or choose another output_dir."
        )
    if error.errno == errno.ENAMETOOLONG:
        return InputError(
            f"A file's name must be short enough for its disk (255 bytes on most), got {len(os.fsencode(name))} bytes "
            "of path; rename the input, or choose a shorter output_dir."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return InputError(f"This process must be allowed more open files, got {said}; raise the limit (ulimit -n).")
    return None


def _input_error_within(error: BaseException | None) -> InputError | None:
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
        patch = re.search(PATCH_BELOW_KERNEL, str(error)) if isinstance(error, RuntimeError) else None
        if patch:
            return InputError(
                f"An image or patch must be larger than the kernels of the network that it goes through, got "
                f"{patch['size']} for a kernel of {patch['kernel']}; raise patch_size, base_patch or the image's size."
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
