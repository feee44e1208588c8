"""How much a packed file can unpack to: a header may promise more than its file can hold."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError

DEFLATE = 1032  # deflate writes at most 258 bytes for 2 bits
SLACK = 2**16  # headers and the first block


def check_packed(path: Path, unpacked_bytes: int, ratio: int = DEFLATE) -> None:
    """InputError where a file's header promises more bytes than the file's own size can unpack to.

    Args:
        ratio: of unpacked to packed bytes, the most that the packing reaches.

    Example:
        >>> check_packed(Path(__file__), 2**16)
    """
    size = path.stat().st_size
    if unpacked_bytes > ratio * size + SLACK:
        raise InputError(
            f"{path.name} must hold the {unpacked_bytes} bytes that its header promises, got a file of {size}, which "
            "cannot; it is truncated or damaged: copy or export it again."
        )
