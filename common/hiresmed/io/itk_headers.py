"""Headers of NRRD and MetaImage files, before ITK reads them: which file holds the voxels.

Such a header may name any file of the machine, and ITK would read it into the image. Voxels must lie in the file itself
or in one file beside or below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..core.errors import InputError
from ..core.input_files import check_openable

NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")
HEADER_BYTES = 2**20  # of a NRRD, at most
BLOCK = 2**24
META_TEXT = 254  # characters that ITK has room for
_NRRD_FIELD = re.compile(rb"\s*data\s*file\s*:(?!=)\s*(.*)", re.IGNORECASE)
_NUMBERS = re.compile(rb"[-+.eE0-9 \t]*")
_META_AXES = re.compile(rb"ndims\s*[=:][ \t]*([^\r\n]{0,64})", re.IGNORECASE)
_META_FIELD = re.compile(rb"elementdatafile\s*[=:][ \t]*([^\r\n]{0,4096})", re.IGNORECASE)


def data_files(path: Path) -> list[Path]:
    """The file itself, and the one beside or below it that holds its voxels.

    Raises:
        InputError: no header of that kind; voxels in several files, or in one outside the header's folder.
    """
    names = {*(_nrrd_names(path) if path.suffix.lower() in NRRD else _meta_names(path))}
    names.discard("LOCAL")
    voxels = [_beside(path, name) for name in sorted(names)]
    if len(voxels) > 1:
        raise _refused(path, f"{len(voxels)} files")
    return [path, *voxels]


def _nrrd_names(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    if not header.startswith(b"NRRD"):
        raise _no_header(path)
    for line in header.splitlines():
        if not line:
            return
        field = _NRRD_FIELD.match(line)
        if field:
            yield _name(field)
    if len(header) == HEADER_BYTES:
        raise _no_header(path)


def _meta_names(path: Path) -> Iterator[str]:
    """Of the whole file: a header can be written so that ITK takes another line than the first that names a file."""
    _check_fields(path)
    named = False
    before = b""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for field in _META_FIELD.finditer(before + block):
                named = True
                yield _name(field)
            before = block[-8192:]
    if not named:
        raise _no_header(path)


def _check_fields(path: Path) -> None:
    """InputError for axes and texts that ITK would write beyond its arrays, which ends the process."""
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    for field in _META_AXES.finditer(header):
        count = field.group(1).strip()
        if count not in (b"2", b"3", b"4"):
            said = count[:16].decode("latin-1")
            raise InputError(
                f"{path.name} must have 2 to 4 axes, got NDims {said!r}; it is damaged or no image: export it again."
            )
    ends = [field.end() for field in _META_FIELD.finditer(header)]
    for line in header[: max(ends, default=0)].splitlines():
        value = re.split(rb"[=:]", line, maxsplit=1)[-1].strip()
        if len(value) > META_TEXT and not _NUMBERS.fullmatch(value):
            raise InputError(
                f"{path.name} must have fields of at most {META_TEXT} characters in its header, got one of "
                f"{len(value)}; shorten it, or export the image again."
            )


def _name(field: re.Match[bytes]) -> str:
    return field.group(1).strip().decode("utf-8", "surrogateescape")


def _beside(path: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or "\\" in name or ".." in parts
    if outside or not name:
        raise _refused(path, "a file outside its folder")
    if name.split()[0].upper() == "LIST" or "%" in name:
        raise _refused(path, "a list of files")
    data = path.parent / name
    if not data.is_file():
        check_openable(data)
        raise InputError(
            f"{path.name} must have its voxels in {PurePosixPath(name).name} beside it, got no such file; copy both, "
            "or export the image as one file."
        )
    return data


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        f"{path.name} must have its voxels in itself or in one file of its own folder, got {what}; move the data "
        "beside it and name it without folders, or export the image as one file."
    )


def _no_header(path: Path) -> InputError:
    return InputError(
        f"{path.name} must be a NRRD or MetaImage file, got one without such a header; it is damaged or of another "
        "kind: export it again."
    )
