"""What may be opened as an input at all."""

from __future__ import annotations

import stat
from pathlib import Path

from .errors import InputError, system_refusals

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_exists(path: Path) -> bool:
    """Whether something lies at a path.

    Raises:
        InputError: that cannot be found out: the path is too long for the disk, or a folder may not be entered.

    Example:
        >>> path_exists(Path(__file__)), path_exists(Path(__file__) / "nothing")
        (True, False)
    """
    try:
        return path.exists()
    except OSError as error:
        name = path.name if len(path.name) < 40 else f"{path.name[:37]}..."
        raise InputError(
            f"{name} must be an existing file or folder, got a path that cannot be looked for ({error.strerror}); "
            "check the path."
        ) from error


def check_openable(path: Path) -> None:
    """InputError where a path is neither a file nor a folder, or a file that may not be read.

    A pipe would be waited for without end, and other libraries take a file that is closed to them for a damaged one.

    Example:
        >>> check_openable(Path(__file__))
    """
    try:
        kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):  # not there: said where it is opened
        return
    if kind is not None:
        raise InputError(f"{path.name} must be a file or a folder, got {kind}; write what it gives to a file first.")
    if path.is_file():
        with system_refusals():
            path.open("rb").close()
