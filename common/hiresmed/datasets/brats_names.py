"""Which sequence of which patient a file or a DICOM series of brain MR is, by its name."""

from __future__ import annotations

import re
from pathlib import Path

SEQUENCES = ("t1", "t1ce", "t2", "flair")
ALIASES = {
    "t1": "t1", "t1n": "t1", "t1w": "t1", "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "t1post": "t1ce",
    "t2": "t2", "t2w": "t2", "flair": "flair", "fla": "flair", "t2f": "flair",
}  # fmt: skip
_CONTRAST = re.compile(r"\b(post|gd|gad|gado|contrast|ce|c\+|km|\+c)(?!\w)", re.IGNORECASE)


def named(path: str | Path) -> tuple[str, str | None]:
    """(subject, sequence) in a file's name; the sequence is "label" for a segmentation, None for anything else.

    >>> named("BraTS-GLI-00001-000-t2f.nii.gz"), named("BraTS20_Training_001_seg.nii")
    (('BraTS-GLI-00001-000', 'flair'), ('BraTS20_Training_001', 'label'))
    """
    text = stem(path)
    words = list(re.finditer(r"[^-_.\s]+", text))
    label = next((w for w in words if w.group().lower().startswith("seg")), None)
    if label:
        return text[: label.start()].rstrip("-_. "), "label"
    known = [w for w in words if w.group().lower() in ALIASES]
    if not known or any(w.group().lower() in ("mask", "label", "gt") for w in words):
        return text, None
    return text[: known[-1].start()].rstrip("-_. "), ALIASES[known[-1].group().lower()]


def named_series(title: str) -> str | None:
    """The sequence that a DICOM series' folder or description names; words such as post or Gd make a t1 a t1ce.

    >>> named_series("AX T1 POST"), named_series("t1_dir"), named_series("Sag FLAIR 3D"), named_series("DWI")
    ('t1ce', 't1', 'flair', None)
    """
    sequence = named(title)[1]
    return "t1ce" if sequence == "t1" and _CONTRAST.search(title.replace("_", " ")) else sequence


def stem(path: str | Path) -> str:
    """A file's name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE)
