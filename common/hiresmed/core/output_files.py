"""Files that get their final names only when they are complete, in folders that can be written to."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


def scratch_folder() -> Path:
    """A new folder for what must be unpacked to be read; removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="hiresmed_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def write_then_rename(path: str | os.PathLike, shared: bool = False) -> Iterator[Path]:
    """`<path>.partial` to write to: renamed to `path` when the block ends well, removed when it fails.

    Args:
        shared: several processes may write the same values at once, so each writes to a name of its own; the partial
            file of a killed one is then not overwritten by the next.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def writable_folder(output_dir: str | os.PathLike) -> Path:
    """The folder, created if needed.

    Raises:
        InputError: it cannot be created or written to.
    """
    folder = Path(output_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"output_dir must be a folder that can be written to, got {folder} ({error.strerror}); choose another one."
        ) from error
    return folder


def sha256_of(path: str | os.PathLike) -> str:
    """sha256 of a file as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
