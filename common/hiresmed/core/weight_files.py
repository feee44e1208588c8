"""The file of trained weights, told by its sha256; without torch, so that a command can ask at once."""

from __future__ import annotations

import pathlib

from .errors import InputError
from .output_files import sha256_of


def weights_sha256(path: str | pathlib.Path) -> str:
    """sha256 of a weight file, compared with `<file>.sha256` beside it where there is one.

    Raises:
        InputError: the file is missing or not the one that its sha256 names.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(
            f"the weights should lie in {path}, but nothing is there; run from the bundle's folder, give "
            "--bundle_root, or train with configs/train.yaml and give --weights_path."
        )
    found = sha256_of(path)
    note = path.with_name(path.name + ".sha256")
    noted = "".join(note.read_text().split()[:1]) if note.is_file() else found
    if noted != found:
        raise InputError(
            f"{path.name} should have the sha256 {noted[:12]}... of {note.name}, but has {found[:12]}...: "
            "the file is damaged or was replaced; copy it anew, or delete the .sha256 file if you meant to replace it."
        )
    return found
