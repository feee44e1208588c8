"""Where the results of segmented BraTS cases go: labels, probability and variance beside one another."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np

from ...core.errors import InputError
from ...core.knobs import parse_bool
from ...core.names import result_names
from ...core.output_files import remove_folder, remove_no_folder, writable_folder, write_then_rename
from ...core.volumes import ArrayVolume
from ...datasets.brats import brain_cases, brats_case
from ...datasets.brats_dicom import dicom_series
from ...io.dicom_seg import check_segmentation_source, highdicom_package, write_segmentation
from ...io.outputs import CaseOutput
from ...io.writers import check_output, write_nifti
from ...phantoms.brain import BrainPhantom

_NOTE = "begun.json"  # in the working folder
_BYTES_PER_VOXEL = 9  # a byte of labels, two float32 maps, each uncompressed for a while


class SegmentationOutput(CaseOutput):
    """The output folder of one run over BraTS cases: `<name>_labels.nii.gz`, `_probability`, `_variance`.

    Labels of a case of DICOM series are a DICOM SEG, `<name>_labels.dcm`, that refers to its FLAIR; the maps are NIfTI.

    The labels are written last, so what has them has all. A case that was broken off is begun anew on resume (it ends
    with the same bytes), but not of another image or with other settings; those that are finished are left alone.

    Args:
        output_dir: created; nothing outside it is written.
        output_format: nii, nii.gz, or dicom where the input is; None: as the input.
        overwrite: replace results that exist.
        resume: go on with a folder of cases at the first one without a result.
        regions: names of the maps' channels; with several of them each map is a file a region.
        keep_patient: a DICOM SEG keeps the source's patient; else it is anonymous.
        fingerprint: what results depend on, weights and knobs; what a run that is resumed has made, or has begun, is
            compared with it.

    Raises:
        InputError: another format.
    """

    def __init__(
        self,
        output_dir: str,
        output_format: str | None = None,
        overwrite: bool | str = False,
        resume: bool | str = False,
        regions: Iterable[str] = ("WT",),
        keep_patient: bool | str = False,
        fingerprint: Mapping | None = None,
    ) -> None:
        if output_format not in (None, "nii", "nii.gz", "dicom"):
            raise InputError(f"output_format must be nii, nii.gz or dicom, got {output_format!r}; choose one.")
        overwrite = parse_bool(overwrite, "overwrite")
        more: dict[str, Any] = {"postfix": "labels", "keep_patient": keep_patient, "fingerprint": fingerprint}
        super().__init__(output_dir, output_format, overwrite, resume, **more)
        self.regions = list(regions)

    def cases(self, image=None, dataset_dir=None, label=None, section=None, phantom=None) -> list[dict]:
        """The run's cases, each {"image", "label" if known, "name", "subject", "format", "header"}.

        Args:
            image: whatever brats_case takes; None with no dataset_dir: a phantom.
            dataset_dir: a folder of cases.
            label: path of the truth, or which one if several lie there (see brats_case).
            section: training, validation or test of dataset_dir; None: all.
            phantom: arguments of the BrainPhantom that is made where neither image nor dataset_dir is given.

        Raises:
            InputError: both image and dataset_dir; what brats_case and brain_cases raise; a result that exists.
        """
        if image is not None and dataset_dir is not None:
            raise InputError(f"Either image or dataset_dir must be given, got both ({image}, {dataset_dir}).")
        if dataset_dir is not None:
            cases = brain_cases(dataset_dir, section, label=label, keep_refused=True)
        else:
            cases = [brats_case(BrainPhantom(**(phantom or {})) if image is None else _listed(image), label)]
            if label is not None and not isinstance(cases[0]["image"], BrainPhantom):
                cases[0].setdefault("label", label)
        self.several = len(cases) > 1
        _name_apart(cases)
        for case, name in zip(cases, result_names([str(case["name"]) for case in cases])):
            case["name"] = name
        for case in cases:
            remove_no_folder(self.work_dir(case["name"]))
            source = _first(case)
            try:
                case["format"] = self._format(source if "refused" not in case else None)
            except InputError as mistake:
                if not self.several:
                    raise
                case |= {"format": "nii.gz", "refused": case.get("refused", str(mistake))}
            case["header"] = str(source or "")
            images = case["image"] if isinstance(case["image"], list) else [source] if source else []
            case["sources"] = "\n".join(str(path) for path in images)  # text, as batches collate it
            # FLAIR, on which the whole tumour shows, is what a DICOM SEG refers to
            case["series"] = str(case["image"][-1]) if isinstance(case["image"], list) else ""
        left = cases if self.overwrite else self._left(cases)
        for case in left:
            if case["format"] != "dcm":
                continue
            try:
                check_segmentation_source(case["series"], self.regions)
            except InputError as mistake:
                if not self.several:
                    raise
                case["refused"] = str(mistake)  # of many cases: said when its turn comes
        return left

    def _format(self, source: str | Path | None) -> str:
        if source is None or not dicom_series(Path(source)):
            if self.output_format == "dicom":
                raise InputError(
                    f"A DICOM SEG must refer to the DICOM series that was segmented, got "
                    f"{Path(source or 'a phantom').name}; set output_format to nii.gz."
                )
            return self.output_format or ("nii" if str(source).endswith(".nii") else "nii.gz")
        if self.output_format is None and importlib.util.find_spec("highdicom") is None:
            warnings.warn("Labels are NIfTI, as a DICOM SEG needs: pip install highdicom.", stacklevel=3)
            return "nii.gz"
        if self.output_format in (None, "dicom"):
            highdicom_package()  # what is missing is said before any work
            return "dcm"
        return str(self.output_format)

    def format_of(self, case: Mapping) -> str:
        return str(case["format"])

    def sources(self, case: Mapping) -> list[str]:
        return [path for path in str(case["sources"]).split("\n") if path]

    def _begun(self, case: Mapping) -> bool:
        return self.work_dir(case["name"]).exists()

    def begin_case(self, batch: Mapping) -> None:
        """Notes what the case is made of and with, before any work on it."""
        case = {key: batch[key][0] for key in ("name", "sources")}
        work = writable_folder(self.work_dir(case["name"]))
        with write_then_rename(work / _NOTE) as aside:
            aside.write_text(json.dumps({"image": self.input_digest(case), "settings": self.settings()}))

    def _check_begun(self, case: Mapping) -> None:
        """InputError: the case was begun with another image, with other weights or other settings."""
        try:
            note = json.loads((self.work_dir(case["name"]) / _NOTE).read_text(encoding="utf-8"))
            other = self._others(case, note["image"], dict(note["settings"]))
        except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: the case is begun anew
            return
        if other:
            raise InputError(
                f"resume must have the settings that {case['name']} was begun with, got another "
                f"{', another '.join(other)}; set them back, or start anew with --overwrite true."
            )

    def save_maps(self, case: Mapping, labels, maps: Mapping[str, Any]) -> list[str]:
        """Writes the maps (R, *S), then the labels (1, *S), on the input's grid; returns the files' names.

        Raises:
            InputError: a folder that cannot be written, a disk too small.
        """
        labels = np.asarray(labels)
        folder, affine = self.case_folder(case["name"]), np.asarray(case["given"].meta["original_affine"])
        check_output(folder, math.prod(labels.shape) * _BYTES_PER_VOXEL * len(self.regions))
        self.work_dir(case["name"]).mkdir(exist_ok=True)
        source = Path(case["header"] or ".")
        header = None
        if source.is_file() and not dicom_series(source):
            header = cast(nibabel.Nifti1Image, nibabel.load(source)).header
        written = []
        for kind, values in maps.items():
            for region, channel in zip(self.regions, np.asarray(values)):
                end = kind if len(self.regions) == 1 else f"{kind}_{region}"
                path = folder / f"{case['name']}_{end}.{'nii.gz' if case['format'] == 'dcm' else case['format']}"
                write_nifti(ArrayVolume(channel.astype(np.float32), affine), path, header)
                written.append(path.name)
        final = self.final(case)
        if case["format"] == "dcm":
            write_segmentation(labels[0], final, case["series"], self.regions, self.keep_patient)
        else:
            write_nifti(ArrayVolume(labels[0].astype(np.uint8), affine), final, header)
        return [final.name, *written]

    def finish(self, case: Mapping) -> None:
        """All is written, the report too."""
        remove_folder(self.work_dir(case["name"]))


def _name_apart(cases: list[dict]) -> None:
    """Gives cases of one name others: that of their folder, and if need be those of the folders above it."""
    folders = [_first(case) for case in cases]
    for depth in range(1, 20):
        counts = Counter(str(case["name"]).lower() for case in cases)  # some disks do not tell a from A
        twice = [n for n, case in enumerate(cases) if counts[str(case["name"]).lower()] > 1]
        for n in twice:
            folder = Path(folders[n] or ".").resolve()
            folder = folder if "refused" in cases[n] else folder.parent
            cases[n]["name"] = "_".join(folder.parts[-depth:])


def _listed(image):
    """A list or dict of paths stays one; a path's text too."""
    return image if isinstance(image, (str, Path, Mapping)) else list(image)


def _first(case: Mapping) -> str | Path | None:
    """The file whose name and header stand for a case's; None for a phantom."""
    image = case["image"]
    return None if isinstance(image, BrainPhantom) else image[0] if isinstance(image, list) else image
