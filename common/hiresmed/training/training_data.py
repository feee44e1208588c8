"""Which images a training learns from, by name and content, so that it is resumed with the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.output_files import files_digest
from ..core.volumes import Volume, content_digest
from ..io.readers import files_of

_MOST_BYTES = 2**31  # read of all images together, some seconds of a disk
_LEAST_BYTES = 2**14  # of each file
_VIEWS = ("images", "items", "data", "dataset")  # where a view of a set holds it


def data_digest(dataset: Any) -> str | None:
    """Tells training sets apart by their files' names and what these hold, wherever the folder lies; None: unknown.

    Of a set of more than 2 GiB each file is read in part, in blocks spread over it; its size counts whole.

    Args:
        dataset: has the list `sources` (paths, Volumes, phantoms), or is a list of {"image", "label"} of such
            ("source" instead of an "image" that was made of it), or a view of one of them.
    """
    sources = [source for source in _sources(dataset) if source is not None]
    if not sources:
        return None
    paths = {Path(source).expanduser() for source in sources if isinstance(source, str | os.PathLike)}
    share = max(_LEAST_BYTES, _MOST_BYTES // max(1, len(paths)))
    content = {(path.name, _of_files(path, share)) for path in paths}
    content |= {(s.name, _of_memory(s)) for s in sources if not isinstance(s, str | os.PathLike)}
    return hashlib.sha256(repr(sorted(content)).encode()).hexdigest()


def _sources(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "sources"):
        yield from dataset.sources
        return
    if isinstance(dataset, list):
        for case in dataset:
            if isinstance(case, Mapping):
                image = case.get("source", case.get("image"))
                yield from image if isinstance(image, list | tuple) else [image]
                yield case.get("label")
        return
    for name in _VIEWS:
        if hasattr(dataset, name):
            yield from _sources(getattr(dataset, name))
            return


def _of_files(path: Path, most_bytes: int) -> str:
    try:
        return files_digest(files_of(path), most_bytes)
    except (OSError, InputError):  # whoever reads the image says what is wrong with it
        return ""


def _of_memory(source: Any) -> str:
    """Of a volume, or of a phantom's settings."""
    return content_digest(source) if isinstance(source, Volume) else repr(sorted(vars(source).items()))
