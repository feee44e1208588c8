"""BraTS cases: four sequences of one patient found by their names, and split as PatchDDM did (reading: brats_read).

File names of BraTS 2018-2024 and their relatives: the last words of a name that are a sequence's tell which one it is
(`x_t1ce.nii.gz`, `x-t1c.nii`, `x_t1_post.nii.gz`), what stands before them is the subject (brats_names). Words that
begin with `seg` mark labels. A sequence may also be a folder of DICOM images, known by its name and by its header. The
order is always t1, t1ce, t2, flair.
"""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..core.errors import InputError, system_refusals
from ..core.input_files import check_openable, path_exists
from ..core.knobs import parse_int
from ..io.readers import header_of_pair
from ..phantoms.brain import BrainPhantom
from .brats_dicom import dicom_series, open_mr_series, series_folders, series_in_words, told_by_series
from .brats_labels import is_no_tumour, label_codings
from .brats_names import (
    ALIASES,
    SEQUENCES,
    Acquisition,
    Telling,
    checked_by_acquisition,
    named,
    stem,
    told_by_file,
)
from .sections import section_of

Case = dict[str, Any]
ENDS = (".nii", ".nii.gz", ".hdr")
LOGGER = logging.getLogger(__name__)


@dataclass
class Group:
    """The files of one subject in one folder.

    Attributes:
        sequences: {t1, t1ce, t2 or flair: files or folders of DICOM images}.
        labels: segmentations.
        doubts: what may be a sequence of several.
    """

    sequences: dict[str, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    doubts: list[tuple[Path, Telling]] = field(default_factory=list)

    def add(self, path: Path, told: Telling) -> None:
        if told.sequence in SEQUENCES:
            self.sequences.setdefault(told.sequence, []).append(path)
        elif told.candidates:
            self.doubts.append((path, told))


def brats_case(source, label: str | Path | None = None) -> Case:
    """One case: {"image": four paths in order or one of a 4-channel NIfTI, "label": path if any, "subject", "name"}.

    Args:
        source: a case folder, the path of one sequence (its siblings are found beside it), a dict or list of four
            paths, a 4-channel NIfTI, or a BrainPhantom. A list is taken in its order, t1, t1ce, t2, flair, unless the
            names tell all four and another order. A sequence is a NIfTI file or a folder of DICOM images.
        label: the path of the segmentation, or, if several lie there, the end of the wanted one's stem (`seg_mav`).

    Raises:
        InputError: nothing there, a sequence missing, doubled or in doubt, several cases, not four channels.
    """
    if isinstance(source, BrainPhantom):
        return {"image": source, "subject": source.name, "name": source.name}
    if isinstance(source, Mapping):
        return _of_files({ALIASES.get(str(k).lower(), str(k)): Path(p) for k, p in source.items() if p is not None})
    if isinstance(source, (list, tuple)):
        return _of_list([Path(p) for p in source])
    path = Path(source).expanduser()
    if not str(source).strip() or not path_exists(path):
        raise InputError(
            f"image must be a case folder or a file of one, got '{source}', which does not exist; check the path."
        )
    check_openable(path)
    if path.suffix.lower() == ".img":
        path = header_of_pair(path)
    if dicom_series(path) and not (path.is_dir() and _niftis(path)):  # one of four beside one another
        open_mr_series(path)  # two series in one folder are told here, not as a case without sequences
        path = (path if path.is_dir() else path.parent).resolve().parent
    if path.is_dir():
        groups = _groups(path)
        if len(groups) > 1:
            raise InputError(
                f"{path} must hold one case, got {len(groups)} ({', '.join(list(groups)[:3])} ...); name one "
                "of their files as image, or the folder as dataset_dir."
            )
        subject, files = next(iter(groups.items()))
        return _complete(subject or path.resolve().name, files, path, label)
    told = told_by_file(path)
    if told.sequence in SEQUENCES or told.candidates:
        beside = _groups(path.parent)[told.subject]
        return _complete(told.subject or path.resolve().parent.name, beside, path.parent, label)
    return {"image": path, "subject": stem(path), "name": stem(path)}  # four channels; checked when read


def brats_cases(dataset_dir: str | Path, label: str | None = None, keep_refused: bool = False) -> list[Case]:
    """All cases below a folder, sorted: case folders (any depth, links too), or files of several subjects side by side.

    Cases of NIfTI files and of DICOM series may lie beside one another. "coding" is how the data set's labels are to be
    read (brats_labels.label_codings).

    Args:
        keep_refused: a case that is not complete becomes {"image": its folder, "refused": the sentence, "subject",
            "name"} among the others; else the first such one is raised.

    Raises:
        InputError: no folder, nothing in it, or any error of brats_case.
    """
    root = Path(dataset_dir).expanduser()
    if not path_exists(root) or not root.is_dir():
        raise InputError(f"dataset_dir must be a folder of cases, got {dataset_dir}; check the path.")
    found: list[Case] = []
    inside: list[Path] = []  # folders of cases
    left_out: list[Path] = []
    for folder in _folders(root):
        within = any(case in folder.parents for case in inside)
        try:
            with system_refusals():
                cases = list(_cases_of(folder, label, keep_refused))
        except InputError as mistake:
            if within:
                continue
            if not keep_refused:
                raise
            cases = [_refused(folder, folder.name, mistake)]
        if within and cases and all("refused" in case for case in cases):
            left_out.append(folder)
            continue
        if cases:
            inside.append(folder)
        found += cases
    if not found:
        raise InputError(
            f"dataset_dir must hold cases of four NIfTI files or DICOM folders (t1, t1ce, t2, flair), got none in "
            f"{root}; check the path and the names."
        )
    if left_out:
        LOGGER.warning("Folders within a case are left out: %s.", _some([str(p.relative_to(root)) for p in left_out]))
    found.sort(key=lambda case: str(case["folder"]))
    for case, coding in zip(found, label_codings(found)):
        del case["folder"]
        if coding is not None:
            case["coding"] = coding
    return found


def _folders(root: Path) -> Iterator[Path]:
    """The folder and all below it, through links, none twice, hidden ones left out."""
    visited: set[str] = set()
    for here, folders, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield Path(here)


def _cases_of(folder: Path, label: str | None, keep_refused: bool) -> Iterator[Case]:
    """The cases whose images lie in this folder, or in DICOM folders in it.

    Raises:
        InputError: images that belong to no case.
    """
    groups = _told_groups(folder)
    if groups:
        for subject, group in groups.items():
            name = subject or folder.resolve().name
            try:
                yield _complete(name, group, folder, label) | {"folder": folder}
            except InputError as mistake:
                if not keep_refused:
                    raise
                yield _refused(folder, name, mistake)
        return
    files = [p for p in _niftis(folder) if named(p)[1] != "label"]
    if files and not folder.name.lower().startswith(("label", "derivatives")):
        stacks = [p for p in files if _is_stack(p)]
        for path in stacks:
            beside = folder.parent / folder.name.replace("images", "labels") / path.name
            truth = {"label": beside} if beside != path and beside.is_file() else {}
            yield {"image": path, "subject": stem(path), "name": stem(path), "folder": folder} | truth
        if not stacks:
            raise InputError(
                f"{folder} must hold t1, t1ce, t2 and flair of a case, but no name in it tells a sequence "
                f"({_some([p.name for p in files])}); rename them as BraTS does."
            )
    elif any(dicom_series(p) for p in folder.iterdir() if p.is_dir()) and not dicom_series(folder):
        raise InputError(
            f"{folder} must hold t1, t1ce, t2 and flair of a case, but none of its series tells a sequence "
            f"({_some([series_in_words(p) for p in sorted(series_folders(folder))])}); rename their folders to t1, "
            "t1ce, t2 and flair."
        )


def _refused(folder: Path, name: str, mistake: InputError) -> Case:
    return {"image": folder, "subject": name, "name": name, "refused": str(mistake), "folder": folder}


def _is_stack(path: Path) -> bool:
    """Whether a NIfTI holds four channels, by its header."""
    try:
        shape = [n for n in nibabel.load(path).shape if n != 1]  # type: ignore[attr-defined]
    except Exception:  # any damage: said when it is read, but then as a case
        return False
    return len(shape) == 4 and shape[3] == 4


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


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
    keep_refused: bool = False,
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
        keep_refused: see brats_cases.

    Raises:
        InputError: an unknown or empty section; a case without label for training or validation.
    """
    if section not in (None, "training", "validation", "test"):
        raise InputError(f"section must be training, validation or test, got {section!r}; choose one of them.")
    if cases_list is not None:
        entries = [e for e in cases_list if section in (None, e.get("section", "training"))]
        cases = [case for entry in entries for case in _listed(entry, dataset_dir, phantom, label)]
    elif dataset_dir is None:
        phantoms = parse_int(phantoms, "phantoms", least=1)
        first = phantoms - phantoms // 4
        spans = {"training": range(first), "validation": range(first, phantoms), "test": range(1000, 1000 + phantoms)}
        seeds = spans.get(section or "", range(phantoms))
        cases = [brats_case(BrainPhantom(**{"shape": (64, 64, 64), **(phantom or {}), "seed": seed})) for seed in seeds]
    else:
        every = brats_cases(dataset_dir, label, keep_refused)
        sections = [_section(str(case["subject"])) for case in every]
        cases = [case for case, own in zip(every, sections) if section in (None, own)]
        if not cases:
            others = ", ".join(f"{case['name']} is for {own}" for case, own in list(zip(every, sections))[:4])
            raise InputError(
                f"the {section} section must hold at least one of the {len(every)} cases of {dataset_dir}, but their "
                f"names put none into it ({others}); add cases, or give a cases_list with their sections."
            )
    if not cases:
        raise InputError(f"the {section} section must hold at least one case, got none; add cases.")
    for case in cases:
        known = "label" in case or isinstance(case["image"], BrainPhantom) or case.get("tumour") is False
        if section in ("training", "validation") and not known:
            raise InputError(f"{case['name']} must have a label for {section}, got none; add its *_seg.nii.gz.")
    return cases


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
    """NIfTI files in a folder, sorted, and of pairs the header; hidden ones (`._x` of macOS) are none."""
    files = (p for p in folder.iterdir() if p.name.lower().endswith(ENDS) and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def _told_groups(folder: Path) -> dict[str, Group]:
    """{subject: its files} of one folder, NIfTI or else DICOM; empty where no name tells a sequence."""
    groups: dict[str, Group] = {}
    labels = []
    for path in _niftis(folder):
        told = told_by_file(path)
        if told.sequence == "label":
            labels.append((told.subject, path))
        elif not told.silent:
            told = checked_by_acquisition(told, _acquisition_beside(path))
            groups.setdefault(told.subject, Group()).add(path, told)
    groups = {subject: group for subject, group in groups.items() if group.sequences or group.doubts}
    if not groups:
        series = Group()
        for path, told in series_folders(folder).items():
            series.add(path, told)
        groups = {folder.resolve().name: series} if series.sequences or series.doubts else {}
    for subject, path in labels:  # some labels bear another name than their images
        owner = subject if subject in groups else next(iter(groups)) if len(groups) == 1 else None
        if owner is not None:
            groups[owner].labels.append(path)
    return groups


def _groups(folder: Path) -> dict[str, Group]:
    """{subject: its files} of one folder; InputError where no sequence lies in it."""
    groups = _told_groups(folder)
    if not groups:
        raise InputError(
            f"{folder} must hold the NIfTI files or DICOM folders of t1, t1ce, t2 and flair of one case, got none "
            "of such a name; check the path, or give the four as a list."
        )
    return groups


def _acquisition_beside(path: Path) -> Acquisition:
    """What the JSON beside a NIfTI says (BIDS, dcm2niix: times in seconds); nothing where there is none."""
    beside = path.with_name(f"{stem(path)}.json")
    try:
        said = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        agent = said.get("ContrastBolusIngredient") or said.get("ContrastBolusAgent") or ""
        times = [float(said[name]) * 1000 if name in said else None for name in ("EchoTime", "InversionTime")]
    except (OSError, ValueError, TypeError, AttributeError):
        return Acquisition()
    return Acquisition(
        agent="" if str(agent).upper() in ("NONE", "NO") else str(agent), echo_ms=times[0], inversion_ms=times[1]
    )


def _complete(subject: str, group: Group, folder: Path, wanted: str | Path | None) -> Case:
    """The case of a group.

    Raises:
        InputError: a sequence doubled, missing, or in doubt.
    """
    found = group.sequences
    cure = "give the four in the order t1, t1ce, t2, flair as a list"
    for sequence in SEQUENCES:
        if len(found.get(sequence, [])) > 1:
            raise InputError(
                f"{subject} must have one {sequence}, got {', '.join(_in_words(p) for p in found[sequence])} in "
                f"{folder}; remove one, or {cure}."
            )
    missing = [s for s in SEQUENCES if s not in found]
    doubts = [(path, told) for path, told in group.doubts if {*told.candidates} & {*missing}]
    if missing and doubts:
        told = "; ".join(f"{_in_words(p)} may be {' or '.join(t.candidates)}, as {t.why}" for p, t in doubts[:4])
        raise InputError(
            f"{subject} must have t1, t1ce, t2 and flair, but {', '.join(missing)} is in doubt in {folder} ({told}); "
            f"rename it, or {cure}."
        )
    if group.doubts:
        LOGGER.warning(
            "%s: left out, as the four sequences are there without it: %s.",
            subject,
            _some([f"{_in_words(p)} ({t.why})" for p, t in group.doubts]),
        )
    case = _of_files({s: found[s][0] for s in SEQUENCES if s in found}, subject, folder)
    label = _label(subject, group.labels, wanted)
    return case | ({} if label is None else {"label": label})


def _in_words(path: Path) -> str:
    """A file's name; of a folder of DICOM images the name, number and description."""
    words = series_in_words(path) if path.is_dir() else ""
    return (
        f"{path.name} ({words})" if words not in ("", path.name) and not words.endswith(f": {path.name}") else path.name
    )


def sequences_in_words(image: Sequence[Path]) -> dict[str, str]:
    """{sequence: file, or series number and description} of a case's four paths, as it is reported."""
    words = [series_in_words(path) if dicom_series(path) else path.name for path in image]
    return dict(zip(SEQUENCES, words))


def _label(subject: str, found: Sequence[Path], wanted: str | Path | None) -> Path | None:
    """The one label, the one asked for, or the one called plainly `seg`."""
    if wanted is not None and Path(wanted).is_file():
        return Path(wanted)
    chosen = [p for p in found if wanted is None or stem(p).endswith(str(wanted))]
    if wanted is not None and len(chosen) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise InputError(f"{subject} must have one label named {wanted}, got {names}; correct the name.")
    if wanted is None:
        others = [p for p in chosen if is_no_tumour(p, subject)]
        if others:
            LOGGER.warning(
                "%s: %s is no segmentation of a tumour by its name and is not used; name it as label if it is one.",
                subject,
                _some([p.name for p in others]),
            )
        chosen = [p for p in chosen if p not in others]
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
        names = ", ".join(f"{s} ({p.name})" for s, p in files.items()) or "nothing"
        raise InputError(
            f"{subject or 'A case'} must have t1, t1ce, t2 and flair, got no {', '.join(missing) or 'further file'}"
            f"{where} (found: {names}); add the file, or rename it as BraTS does."
        )
    paths = [files[s] for s in SEQUENCES]
    for path in paths:
        if not path.exists():
            raise InputError(f"image must name existing files, got {path}, which does not exist; check the path.")
    beside = paths[0].resolve().parent.name
    subject = subject or (beside if paths[0].is_dir() else named(paths[0])[0]) or beside
    return {"image": paths, "subject": subject, "name": subject}


def _of_list(paths: Sequence[Path]) -> Case:
    """A case of four paths: in the list's order, or, where the names tell all four sequences, in theirs."""
    if len(paths) == 1:
        return brats_case(paths[0])
    if len(paths) != 4 or len({p.resolve() for p in paths}) != 4:
        raise InputError(
            f"image must be four files (t1, t1ce, t2, flair), each once, got {[p.name for p in paths]}; correct "
            "the list, or give a dict of sequence and path."
        )
    known = [told_by_series(p).sequence if p.is_dir() else named(p)[1] for p in paths]
    by_name = {*known} == {*SEQUENCES}
    case = _of_files(dict(zip([str(name) for name in known] if by_name else SEQUENCES, paths)))
    if not by_name:
        others = [f"{p.name} as {s}" for p, k, s in zip(paths, known, SEQUENCES) if k in SEQUENCES and k != s]
        if others:
            LOGGER.warning("The list's order counts, though names tell otherwise: %s.", _some(others))
    return case


def _section(subject: str) -> str:
    number = re.fullmatch(r"BraTS20_Training_(\d+)", subject)
    if number is None:
        return section_of(subject)
    return next((s for s, numbers in brats2020_split().items() if int(number[1]) in numbers), "training")
