"""Folders of images -> lists of cases, split into training and validation once and for all."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.names import result_name
from ..core.volumes import Volume
from ..io.readers import cases
from ..phantoms.thorax import ThoraxPhantom
from ..phantoms.xray import ChestXrayPhantom
from .sections import sections_of, subject_of

_THORAX_SHAPES = ((128, 128, 128), (128, 128, 96), (128, 112, 128), (128, 128, 40), (112, 128, 72), (128, 128, 24))
_XRAY_SHAPES = ((512, 512), (768, 640), (640, 512), (1024, 768), (576, 640), (768, 768))
_XRAY_AREA_MM2 = 340.0**2  # what every X-ray phantom shows, square pixels whatever its shape


def list_cases(
    dataset_dir: str | None,
    section: str,
    cases_list: Sequence[Mapping] | None = None,
    phantoms: int = 12,
    phantom: str = "thorax",
    subject: str | None = None,
    split: str = "name",
) -> list[dict]:
    """Cases of one section, each {"image": path or Volume, "name", "subject", "region", "stages", "weight"}.

    Args:
        dataset_dir: folder of images; None gives phantoms (the last quarter of them for validation).
        section: training, validation, or test where the list or the split has one.
        cases_list: explicit list of {"image": path below dataset_dir, "region": box or nothing, "stages": list or
            nothing, "weight": how often it is drawn against others (1), "section": training or validation}; instead
            of the split by name. {"phantom": seed} is one, too, and {"phantom": seed, "count": n} are n of them.
        phantoms: how many, without dataset_dir.
        phantom: their kind, thorax (3-D CT) or xray (2-D).
        split: of a folder: name or tenths, see sections.sections_of.
        subject: regular expression that finds the patient in a case's name (its first group, if it has one), so that
            all images of a patient come into one section; None: every case is a patient of its own.

    Raises:
        InputError: the section is empty; an unknown phantom; a bad or an unmatched `subject`.
    """
    if cases_list is None and dataset_dir is None:
        phantoms = parse_int(phantoms, "phantoms", least=1)
        cases_list = [
            {"phantom": n, "section": "validation" if 4 * n >= 3 * phantoms else "training"} for n in range(phantoms)
        ]
    if cases_list is None:
        patients = [(subject_of(c["name"], subject), c) for c in cases(dataset_dir=dataset_dir)]
        sections = sections_of((patient for patient, _ in patients), split)
        in_section = [c | {"subject": patient} for patient, c in patients if sections[patient] == section]
    else:
        in_section = [
            _listed(entry, dataset_dir, phantom, subject)
            for entry in _each(cases_list)
            if entry.get("section", "training") == section
        ]
    if not in_section:
        raise InputError(f"the {section} section must hold at least one case, got none; add images or a list.")
    return in_section


def _each(cases_list: Sequence[Mapping]) -> Iterator[Mapping]:
    """The list with every entry of several phantoms unfolded."""
    for entry in cases_list:
        count = parse_int(entry.get("count", 1), "count", least=1)
        for n in range(count):
            yield {**entry, "phantom": int(entry["phantom"]) + n} if "phantom" in entry else entry


def _listed(entry: Mapping, dataset_dir: str | None, phantom: str, subject: str | None) -> dict:
    case = {"region": entry.get("region"), "stages": entry.get("stages"), "weight": _weight(entry.get("weight", 1.0))}
    if "phantom" in entry:
        seed = int(entry["phantom"])
        name = f"phantom_{seed}"
        return case | {"image": _phantom(phantom, seed, entry.get("shape")), "name": name, "subject": name}
    path = pathlib.Path(dataset_dir or ".") / entry["image"]
    name = path.name.split(".")[0]
    return case | {"image": path, "name": result_name(name), "subject": subject_of(name, subject)}


def _phantom(kind: str, seed: int, shape: Sequence[int] | None) -> Volume:
    if kind == "thorax":
        return ThoraxPhantom(shape or _THORAX_SHAPES[seed % len(_THORAX_SHAPES)], seed=seed)
    if kind != "xray":
        raise InputError(f"phantom must be thorax or xray, got {kind!r}; choose one of them.")
    shape = shape or _XRAY_SHAPES[seed % len(_XRAY_SHAPES)]
    pixel = math.sqrt(_XRAY_AREA_MM2 / math.prod(shape))
    return ChestXrayPhantom(shape, seed=seed, field_of_view_mm=[pixel * n for n in shape])


def _weight(weight) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise InputError(f"the weight of a case must be a number above 0, got {weight!r}; change it.")
    return float(weight)
