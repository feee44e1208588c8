"""BraTS cases: four sequences of one patient found by their names, and split as PatchDDM did (reading: brats_read).

File names of BraTS 2018-2024 and their relatives: the last word of a name that is a sequence's tells which one it is
(`x_t1ce.nii.gz`, `x-t1c.nii`, `x_fla.nii.gz`), what stands before it is the subject. Words that begin with `seg`
mark labels. A sequence may also be a folder of DICOM images, known by its name or by its series' description. The
order is always t1, t1ce, t2, flair.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..phantoms.brain import BrainPhantom
from .brats_dicom import dicom_series, open_mr_series, series_folders, series_sequence
from .brats_names import ALIASES, SEQUENCES, named, stem
from .sections import section_of

Case = dict[str, Any]


def brats_case(source, label: str | Path | None = None) -> Case:
    """One case: {"image": four paths in order or one of a 4-channel NIfTI, "label": path if any, "subject", "name"}.

    Args:
        source: a case folder, the path of one sequence (its siblings are found beside it), a dict or list of four
            paths, a 4-channel NIfTI, or a BrainPhantom. A list whose names tell nothing is taken in order. A sequence
            is a NIfTI file or a folder of DICOM images.
        label: the path of the segmentation, or, if several lie there, the end of the wanted one's stem (`seg_mav`).

    Raises:
        InputError: nothing there, a sequence missing or doubled, several cases, not four channels.
    """
    if isinstance(source, BrainPhantom):
        return {"image": source, "subject": source.name, "name": source.name}
    if isinstance(source, Mapping):
        return _of_files({ALIASES.get(str(k).lower(), str(k)): Path(p) for k, p in source.items() if p is not None})
    if isinstance(source, (list, tuple)):
        return _of_list([Path(p) for p in source])
    path = Path(source).expanduser()
    if not str(source).strip() or not path.exists():
        raise InputError(f"image should be a case folder or a file of one, but there is no '{source}'; check the path.")
    if dicom_series(path) and not (path.is_dir() and _niftis(path)):  # one of four beside one another
        open_mr_series(path)  # two series in one folder are told here, not as a case without sequences
        path = (path if path.is_dir() else path.parent).resolve().parent
    if path.is_dir():
        groups = _groups(path)
        if len(groups) > 1:
            raise InputError(
                f"{path} should hold one case, but holds {len(groups)} ({', '.join(list(groups)[:3])} ...); name one "
                "of their files as image, or the folder as dataset_dir."
            )
        subject, files = next(iter(groups.items()))
        return _complete(subject or path.name, files, path, label)
    subject, sequence = named(path)
    if sequence in SEQUENCES:
        return _complete(subject or path.parent.name, _groups(path.parent)[subject], path.parent, label)
    return {"image": path, "subject": stem(path), "name": stem(path)}  # four channels; checked when read


def brats_cases(dataset_dir: str | Path, label: str | None = None) -> list[Case]:
    """All cases below a folder, sorted: case folders (any depth), or files of several subjects side by side.

    Raises:
        InputError: no folder, nothing in it, or any error of brats_case.
    """
    root = Path(dataset_dir).expanduser()
    if not root.is_dir():
        raise InputError(f"dataset_dir should be a folder of cases, but {dataset_dir} is none; check the path.")
    folders = sorted({p.parent for p in root.rglob("*.nii*") if named(p)[1] in SEQUENCES})
    folders = folders or sorted(p for p in [root, *root.rglob("*")] if p.is_dir() and series_folders(p))
    if not folders:
        raise InputError(
            f"dataset_dir should hold cases of four NIfTI files or DICOM folders (t1, t1ce, t2, flair), but none is in "
            f"{root}; check the path and the names."
        )
    return [
        _complete(subject or folder.name, files, folder, label)
        for folder in folders
        for subject, files in _groups(folder).items()
    ]


def brats2020_split() -> dict[str, list[int]]:
    """Numbers of BraTS20_Training_NNN in PatchDDM's sections: 295 training, 37 validation, 37 test, each sorted."""
    numbers = np.arange(1, 370)
    np.random.RandomState(0).shuffle(numbers)  # NumPy promises that this legacy stream never changes
    cut = {"training": numbers[:295], "validation": numbers[295:332], "test": numbers[332:]}
    return {section: sorted(int(n) for n in part) for section, part in cut.items()}


def brain_cases(
    dataset_dir: str | Path | None = None,
    section: str | None = None,
    phantoms: int = 12,
    phantom: Mapping | None = None,
    label: str | None = None,
    cases_list: Sequence[Mapping] | None = None,
) -> list[Case]:
    """Cases of one section (training, validation, test), or all of them.

    Args:
        dataset_dir: a folder of cases: BraTS 2020 is split as PatchDDM did, other names by their hash (a fifth for
            validation); None: phantoms, the last quarter of them for validation, other seeds for test.
        phantoms: how many, without dataset_dir.
        phantom: arguments of BrainPhantom, e.g. {"shape": [64, 64, 64], "contrast": "random"}.
        label: which segmentation, if a case has several (see brats_case).
        cases_list: instead of the split: list of {"case": folder or file below dataset_dir, "label": as above} or
            {"phantoms": [first seed, last seed], further arguments of BrainPhantom}, each with "section" (training if
            it has none) and "repeat" (how often it counts). "tumour": false where nothing is tumour, whatever a label
            there marks; "lesion": filled where what it marks is to become healthy tissue (patchddm.FillLesiond).

    Raises:
        InputError: an unknown or empty section; a case without label for training or validation.
    """
    if section not in (None, "training", "validation", "test"):
        raise InputError(f"section should be training, validation or test, but is {section!r}; choose one of them.")
    if cases_list is not None:
        wanted = [e for e in cases_list if section in (None, e.get("section", "training"))]
        found = [case for entry in wanted for case in _listed(entry, dataset_dir, phantom, label)]
    elif dataset_dir is None:
        phantoms = parse_int(phantoms, "phantoms", least=1)
        first = phantoms - phantoms // 4
        spans = {"training": range(first), "validation": range(first, phantoms), "test": range(1000, 1000 + phantoms)}
        seeds = spans.get(section or "", range(phantoms))
        found = [brats_case(BrainPhantom(**{"shape": (64, 64, 64), **(phantom or {}), "seed": seed})) for seed in seeds]
    else:
        found = [
            c for c in brats_cases(dataset_dir, label) if section is None or _section(str(c["subject"])) == section
        ]
    if not found:
        raise InputError(f"the {section} section should hold at least one case, but holds none; add cases.")
    for case in found:
        known = "label" in case or isinstance(case["image"], BrainPhantom) or case.get("tumour") is False
        if section in ("training", "validation") and not known:
            raise InputError(f"{case['name']} should have a label for {section}, but has none; add its *_seg.nii.gz.")
    return found


def _listed(entry: Mapping, dataset_dir: str | Path | None, phantom: Mapping | None, label: str | None) -> list[Case]:
    """The cases of one entry of a cases_list, as often as it says."""
    repeat = parse_int(entry.get("repeat", 1), "repeat", least=1)
    if "phantoms" in entry:
        first, last = (int(seed) for seed in entry["phantoms"])
        own = {k: v for k, v in entry.items() if k not in ("phantoms", "section", "repeat")}
        options = {"shape": (64, 64, 64), **(phantom or {}), **own}
        return [brats_case(BrainPhantom(**options, seed=seed)) for seed in range(first, last + 1)] * repeat
    if "case" not in entry:
        raise InputError(
            f"Each entry of cases_list must name a case or phantoms, got {sorted(entry)}; give {{case: folder}} or "
            "{phantoms: [first seed, last seed]}."
        )
    case = brats_case(Path(dataset_dir or ".") / str(entry["case"]), entry.get("label", label))
    if entry.get("tumour", True) is False:
        case = {k: v for k, v in case.items() if k != "label"} | {"tumour": False}
    if entry.get("lesion") is not None:
        case = case | {"lesion": str(entry["lesion"])}
    return [case] * repeat


def _niftis(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith((".nii", ".nii.gz")))


def _groups(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """{subject: {sequence or "label": paths}} of one folder; InputError where no sequence lies in it."""
    groups: dict[str, dict[str, list[Path]]] = {}
    labels = []
    for path in _niftis(folder):
        subject, sequence = named(path)
        if sequence == "label":
            labels.append((subject, path))
        elif sequence is not None and not path.name.startswith("."):
            groups.setdefault(subject, {}).setdefault(sequence, []).append(path)
    if not groups:
        series = series_folders(folder)
        groups = {folder.resolve().name: series} if series else {}
    if not groups:
        raise InputError(
            f"{folder} should hold the NIfTI files or DICOM folders of t1, t1ce, t2 and flair of one case, but none is "
            "named so; check the path, or give the four as a list."
        )
    for subject, path in labels:  # some labels bear another name than their images
        owner = subject if subject in groups else next(iter(groups)) if len(groups) == 1 else None
        if owner is not None:
            groups[owner].setdefault("label", []).append(path)
    return groups


def _complete(subject: str, files: Mapping[str, list[Path]], folder: Path, wanted: str | Path | None) -> Case:
    for sequence in SEQUENCES:
        if len(files.get(sequence, [])) > 1:
            raise InputError(
                f"{subject} should have one {sequence}, but has {', '.join(p.name for p in files[sequence])} in "
                f"{folder}; remove one, or give the four files as a list."
            )
    case = _of_files({s: files[s][0] for s in SEQUENCES if s in files}, subject, folder)
    label = _label(subject, files.get("label", []), wanted)
    return case | ({} if label is None else {"label": label})


def _label(subject: str, found: Sequence[Path], wanted: str | Path | None) -> Path | None:
    """The one label, the one asked for, or the one called plainly `seg`."""
    if wanted is not None and Path(wanted).is_file():
        return Path(wanted)
    chosen = [p for p in found if wanted is None or stem(p).endswith(str(wanted))]
    if wanted is not None and len(chosen) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{subject} should have one label named {wanted}, but has {names}; correct the name.")
    plain = [p for p in chosen if re.search(r"(^|[-_. ])segm?$", stem(p), re.IGNORECASE)]
    if len(chosen) > 1 and len(plain) != 1:
        text = (
            f"{subject} has {len(chosen)} segmentations and none is plainly seg: no label is used; name one as label."
        )
        warnings.warn(text, stacklevel=4)
        return None
    if len(chosen) > 1:
        return plain[0]
    return chosen[0] if chosen else None


def _of_files(files: Mapping[str, Path], subject: str | None = None, folder: Path | None = None) -> Case:
    missing = [s for s in SEQUENCES if s not in files]
    if missing or len(files) != 4:
        where = f" in {folder}" if folder else ""
        found = ", ".join(f"{s} ({p.name})" for s, p in files.items()) or "nothing"
        raise InputError(
            f"{subject or 'A case'} should have t1, t1ce, t2 and flair, but {', '.join(missing) or 'none'} is missing"
            f"{where} (found: {found}); add the file, or rename it as BraTS does."
        )
    paths = [files[s] for s in SEQUENCES]
    for path in paths:
        if not path.exists():
            raise InputError(f"image should name existing files, but there is no {path}; check the path.")
    beside = paths[0].resolve().parent.name
    subject = subject or (beside if paths[0].is_dir() else named(paths[0])[0]) or beside
    return {"image": paths, "subject": subject, "name": subject}


def _of_list(paths: Sequence[Path]) -> Case:
    if len(paths) == 1:
        return brats_case(paths[0])
    known = [series_sequence(p) if p.is_dir() else named(p)[1] for p in paths]
    if len(paths) != 4 or len(set(known)) not in (1, 4) or (len(set(known)) == 1 and known[0] is not None):
        raise InputError(
            f"image should be four files (t1, t1ce, t2, flair), each once, but is {[p.name for p in paths]}; correct "
            "the list, or give a dict of sequence and path."
        )
    return _of_files(dict(zip(SEQUENCES if known[0] is None else [name or "unknown" for name in known], paths)))


def _section(subject: str) -> str:
    number = re.fullmatch(r"BraTS20_Training_(\d+)", subject)
    if number is None:
        return section_of(subject)
    return next((s for s, numbers in brats2020_split().items() if int(number[1]) in numbers), "training")
