"""The file of trained weights, identified by its sha256; without torch, so that a command starts at once."""

from __future__ import annotations

import pathlib

from .errors import InputError
from .input_files import path_exists
from .output_files import sha256_of


def weights_sha256(path: str | pathlib.Path) -> str:
    """sha256 of a weight file, compared with `<file>.sha256` beside it where there is one.

    Raises:
        InputError: the file is missing or not the one that its sha256 names.
    """
    path = pathlib.Path(path)
    if not path_exists(path) or not path.is_file():
        raise InputError(
            f"the weights must be in {path}, but nothing is there; run from the bundle's folder, give "
            "--bundle_root, or train with configs/train.yaml and give --weights_path."
        )
    digest = sha256_of(path)
    note = path.with_name(path.name + ".sha256")
    expected = "".join(note.read_text().split()[:1]) if note.is_file() else digest
    if expected != digest:
        raise InputError(
            f"{path.name} must have the sha256 {expected[:12]}... of {note.name}, got {digest[:12]}...: "
            "the file is damaged or was replaced; copy it again, or delete the .sha256 file if you meant to replace it."
        )
    return digest
