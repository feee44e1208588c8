"""Labels of BraTS cases: which segmentation is none of a tumour, and what a data set's numbers mean."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..core.errors import InputError
from ..core.packed_size import check_packed
from .brats_names import stem

_TUMOUR = re.compile(r"tumou?r|lesion|glioma|oedema|edema|core|enhanc|(?<![a-z])(wt|tc|et)(?![a-z])")
_OTHER = re.compile(
    r"brain|tissue|skull|mask|vessel|lobe|bone|cortex|cortical|hippocamp|aseg|aparc|parc|synthseg|fast|"
    r"(?<![a-z])(gm|wm|csf|pve|head|atlas|region)(?![a-z])"
)
# before 2023 the enhancing tumour was 4; a 4 in a later name is the cavity of BraTS 2024
_OLD_NAMES = re.compile(r"BraTS(1[7-9]|20|2021)_|BraTS(17|18|19|20)[_-]", re.IGNORECASE)
_NEW_NAMES = re.compile(r"BraTS-(GLI|MET|MEN|PED|SSA|GoAT)", re.IGNORECASE)
DECATHLON = re.compile(r"BRATS_\d{3}")


def is_no_tumour(path: Path, subject: str) -> bool:
    """Whether a segmentation's name tells tissues, a brain mask or another thing that is no tumour.

    >>> is_no_tumour(Path("A_brain_segmentation.nii.gz"), "A"), is_no_tumour(Path("brain_1_seg.nii"), "brain_1")
    (True, False)
    """
    words = stem(path).removeprefix(subject).lower().replace("_", " ")
    return bool(_OTHER.search(words)) and not _TUMOUR.search(words)


def label_codings(cases: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """What the labels' numbers mean in each case, decided for all together: brats2020, brats2023, brats2024 or msd.

    Names of BraTS and of the Decathlon decide where they tell; else all labels' numbers are read, as one case without
    enhancing tumour, or without a cavity, looks like another coding. None: a case without label or not decided here.
    """
    labels = [None if case.get("label") is None else Path(case["label"]) for case in cases]
    codings: list[str | None] = []
    for case, label in zip(cases, labels):
        if label is None:
            codings.append(None)
        elif DECATHLON.fullmatch(str(case["subject"])) and not isinstance(case["image"], list):
            codings.append("msd")
        elif _OLD_NAMES.match(str(case["subject"])):
            codings.append("brats2020")
        else:
            codings.append(None)
    open_cases = [n for n, (label, coding) in enumerate(zip(labels, codings)) if label is not None and coding is None]
    new = [n for n in open_cases if _NEW_NAMES.match(str(cases[n]["subject"]))]
    for members in (new, [n for n in open_cases if n not in new]):
        coding = _coding_of([path for path in (labels[n] for n in members) if path is not None], members is new)
        for n in members:
            codings[n] = coding
    return codings


def _coding_of(labels: Sequence[Path], new_names: bool) -> str | None:
    """The coding of labels that belong together; "unclear" where their numbers do not tell; None without labels."""
    present: set[float] = set()
    for path in labels:
        present |= label_values(path)
    if not labels:
        return None
    if 4 not in present:
        return "brats2023"
    if new_names:
        return "brats2024"
    return "brats2020" if 3 not in present and 1 in present else "unclear"


def label_values(path: Path) -> frozenset[float]:
    """The numbers in a label file; none where it cannot be read, which is said when its case is."""
    try:
        about = path.stat()
        return _values(path, about.st_size, about.st_mtime_ns)
    except OSError:
        return frozenset()


@lru_cache(maxsize=8192)
def _values(path: Path, _size: int, _changed: int) -> frozenset[float]:
    try:
        file: Any = nibabel.load(path)
        if path.name.lower().endswith(".gz"):
            check_packed(path, math.prod(file.shape) * file.get_data_dtype().itemsize)
        values = np.unique(np.asanyarray(file.dataobj))
    except (OSError, EOFError, ValueError, zlib.error, InputError, nibabel.filebasedimages.ImageFileError):
        return frozenset()
    return frozenset(float(v) for v in values[:64])
