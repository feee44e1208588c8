"""Which configs are those that this library ships, unmodified.

MONAI says before each run that a config can run any code. Of a bundle from elsewhere that is worth knowing; of a config
that came with this library, and is as it came, it is a false alarm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .shipped_hashes import SHA256

NOTICE = "parsing config_file"  # how MONAI's warning begins


def digest(path: Path) -> str:
    """sha256 of a config, whatever its line ends."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def are_shipped(files: Sequence[Path]) -> bool:
    """Whether all of these configs are as they were shipped, wherever they lie."""
    known = set(SHA256.values())
    return all(digest(path) in known for path in files)


def without_notice(environment: Mapping[str, str], files: Sequence[Path]) -> dict[str, str]:
    """The environment of a process that runs these configs: without MONAI's notice where all of them are shipped."""
    if not are_shipped(files):
        return dict(environment)
    options = [environment.get("PYTHONWARNINGS", ""), f"ignore:{NOTICE}"]
    return {**environment, "PYTHONWARNINGS": ",".join(filter(None, options))}
