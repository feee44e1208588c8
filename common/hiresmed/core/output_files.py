"""Files that get their final names only when they are complete, in folders that can be written to."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_locked: dict[str, int] = {}  # folder -> open handle, which the system closes when the process ends


def scratch_folder() -> Path:
    """A new folder for what must be unpacked to be read; removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="hiresmed_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def files_digest(files: Iterable[Path], most_bytes: int = 2**28) -> str:
    """sha256 of files' sizes and content; of one above `most_bytes` about as many bytes in blocks spread over it."""
    block = min(2**20, max(2**12, most_bytes // 2**8))
    most = max(1, most_bytes // block)
    content = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        content.update(str(size).encode())
        with open(path, "rb") as file:
            for start in range(0, size, max(block, size // most)):
                file.seek(start)
                content.update(file.read(block))
    return content.hexdigest()


def remove_path(path: str | os.PathLike) -> None:
    """Removes a file, a link (not what it leads to) or a folder with its content; nothing where nothing is."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_no_folder(path: str | os.PathLike) -> None:
    """Removes what lies in a working folder's place and is none: a file, or a link, which would lead elsewhere."""
    path = Path(path)
    if path.is_symlink() or not path.is_dir():
        with suppress(FileNotFoundError, NotADirectoryError):  # of the latter writing will tell
            path.unlink()


def new_file(path: str | os.PathLike) -> None:
    """An empty new file; what lay there is removed first, so that nothing is written through a link."""
    remove_path(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


@contextmanager
def write_then_rename(path: str | os.PathLike, shared: bool = False) -> Iterator[Path]:
    """`<path>.partial`, empty and new, to write to: renamed to `path` when the block ends well, removed when it fails.

    Args:
        shared: several processes may write the same values at once, so each writes to a name of its own; the partial
            file of a killed one is then not overwritten by the next.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    new_file(aside)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove_folder(folder: str | os.PathLike) -> None:
    """Removes a folder, if there is one, in such a way that a kill never leaves a part of it under its name."""
    folder = Path(folder)
    finish_removal(folder)
    try:
        os.replace(folder, _removed(folder))
    except FileNotFoundError:
        return
    except OSError:  # a name that is as long as a disk allows
        remove_path(folder)
    finish_removal(folder)


def finish_removal(folder: str | os.PathLike) -> None:
    """Removes what a process left that was killed in `remove_folder`."""
    with suppress(OSError):
        remove_path(_removed(Path(folder)))


def _removed(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.removed")


def rename_folder(aside: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Gives a folder that is whole its final name; an earlier one of that name is removed."""
    remove_folder(folder)
    os.replace(aside, folder)


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


def lock_folder(folder: str | os.PathLike) -> None:
    """Keeps a folder for this process until `unlock_folders`: two runs would mix their tiles in one result.

    Rank 0 holds the lock for its group. The lock is the system's, on the folder itself: it leaves no file and does not
    outlive a killed process. Where the system has none (Windows, some network disks) nothing is locked.

    Raises:
        InputError: another process has it.
    """
    import ignite.distributed as idist  # here, as it loads torch, which the command's list does not need

    key = os.path.realpath(folder)
    if fcntl is None or idist.get_rank() != 0 or key in _locked:
        return
    handle = os.open(key, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(
            f"output_dir must be one run's alone, got {folder}, where another run is at work; wait for its end, or "
            "choose another output_dir."
        ) from error
    except OSError:  # this disk knows no locks
        os.close(handle)
        return
    _locked[key] = handle


def unlock_folders() -> None:
    """Gives back the folders that `lock_folder` keeps: a run has ended, but not its process (a notebook's)."""
    while _locked:
        os.close(_locked.popitem()[1])


def sha256_of(path: str | os.PathLike) -> str:
    """sha256 of a file as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
