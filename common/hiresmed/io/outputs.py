"""Where a case's results go: checked before any work, gathered in a working folder, given their name when whole."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ignite.distributed as idist
import nibabel

from ..core.errors import InputError, system_refusals
from ..core.knobs import parse_bool, parse_int
from ..core.output_files import files_digest, finish_removal, remove_folder, remove_no_folder, rename_folder
from ..core.tiles import check_region, check_size
from ..core.views import SliceView, TurnedView
from ..core.volumes import Volume
from .dicom import dicom_files, is_dicom, lone_image
from .dicom_series import check_ct_series
from .pictures import picture_shape
from .readers import NIFTI, cases, files_of, open_volume
from .stores import ZarrStores
from .writers import PNG_PIXELS, check_output, check_png, final_name, save_volume

logger = logging.getLogger(__name__)

_BYTES_PER_VOXEL = 8  # pyramid 2.3, sketch 1.2, file 2, compressed copy at most 2


class CaseOutput:
    """The output folder of one run: what its cases are called, which formats they get, what is kept on the way.

    Results of a single case lie in `output_dir`, those of several in a folder per case. While a case is worked on,
    its pyramids lie in `<name>.partial`, from which an interrupted run resumes.

    Args:
        output_dir: created; nothing outside it is written.
        output_format: nii, nii.gz, ome-zarr, dicom (a series, or one file for a 2-D image), dcm, png or tiff; None: as
            the input.
        overwrite: replace results that exist.
        resume: go on with an interrupted case.
        fingerprint: what the result depends on, beside the inferer's settings (say, the weights' sha256).
        postfix: of the result's name.
        region: of the output, if not all is made; an OME-Zarr cannot hold that.
        size: output grid if it is not the input's own; a picture's format depends on it.
        seed: from which the identifiers of DICOM are made, together with its content.
        keep_patient: DICOM made of DICOM keeps the source's patient and study; else they are anonymous and new.
    """

    def __init__(
        self,
        output_dir: str,
        output_format: str | None = None,
        overwrite: bool | str = False,
        resume: bool | str = False,
        fingerprint: Mapping | None = None,
        postfix: str = "synthetic",
        seed: int = 0,
        region=None,
        size: Sequence[int] | None = None,
        keep_patient: bool | str = False,
    ) -> None:
        if output_format == "ome-zarr" and region is not None:
            raise InputError("an OME-Zarr holds the whole image, but a region was asked for; choose nii or nii.gz.")
        self.folder, self.output_format = pathlib.Path(output_dir).expanduser(), output_format
        self.overwrite, self.resume = parse_bool(overwrite, "overwrite"), parse_bool(resume, "resume")
        self.fingerprint, self.postfix, self.seed = dict(fingerprint or {}), postfix, parse_int(seed, "seed")
        self.region, self.size, self.several = region, size, False
        self.keep_patient = parse_bool(keep_patient, "keep_patient")
        self.begun = time.time()  # what is warned of from now on belongs to this run
        self._turned: dict[str, TurnedView] = {}  # 2-D images whose files do not hold rows and columns

    def cases(self, image=None, dataset_dir=None, sketch=None, mask=None, default: Volume | None = None) -> list[dict]:
        """The run's cases, each {"image", "sketch", "mask", "name", "source"}; streamed from disk.

        Raises:
            InputError: nothing to work on; without `overwrite` or `resume` a result that exists, or an interrupted run.
        """
        if sketch is not None and image is None and dataset_dir is None:
            listed = [{"sketch": sketch, "name": cases(image=sketch)[0]["name"]}]
        else:
            listed = cases(image=image, dataset_dir=dataset_dir, default=default)
        self.several = len(listed) > 1
        for case in listed:
            remove_no_folder(self.work_dir(case["name"]))
            case["source"] = case.get("image", sketch)
            case |= {k: v for k, v in (("sketch", sketch), ("mask", mask)) if v is not None}
            case |= {f"given_{k}": v for k, v in (("sketch", sketch), ("mask", mask)) if v is not None}
            try:
                with system_refusals():
                    self.format_of(case)
            except InputError as mistake:
                if not self.several:
                    raise
                case["refused"] = str(mistake)  # of many cases: said when its turn comes
        return listed if self.overwrite else self._left(listed)

    def _left(self, found: list[dict]) -> list[dict]:
        """The cases without a result; on resume also those whose result was written, but not yet its report."""
        for case in found if idist.get_rank() == 0 else ():
            finish_removal(self.work_dir(case["name"]))
        unfinished = [c for c in found if not self.final(c).exists() or (self.resume and self._begun(c))]
        interrupted = [] if self.resume else [c for c in unfinished if self._holds_tiles(c)]
        if interrupted and len(unfinished) == len(found):
            raise interrupted_run(self.folder, interrupted[0]["name"])
        if self.resume and unfinished:
            for case in found:
                if case not in unfinished:
                    self._check_finished(case)
                else:
                    self._check_begun(case)
        if len(unfinished) < len(found) and not (self.resume and unfinished):
            final = next(self.final(c) for c in found if self.final(c).exists())
            cure = "there is nothing to resume" if self.resume else "resume goes on with a folder that is not complete"
            raise InputError(
                f"{final.parent} must not yet hold {final.name}, got one; set overwrite to true to replace it or "
                f"choose another output_dir ({cure})."
            )
        return unfinished

    def _check_finished(self, case: Mapping) -> None:
        """A finished case may stand beside those that are still to be made.

        Raises:
            InputError: by its report it was made of another image, with other weights or other settings.
        """
        try:
            report = json.loads((self.case_folder(case["name"]) / "report.json").read_text(encoding="utf-8"))
            made_of = report["input"]["sha256"]
            made_with = {**report["config"], "weights": report["weights_sha256"]}
        except (OSError, ValueError, KeyError, TypeError):
            return
        other = self._others(case, made_of, made_with)
        if other:
            raise InputError(
                f"{self.final(case).name} must be of the run that is resumed, got one made with another "
                f"{', another '.join(other)}; set overwrite to true, or choose another output_dir."
            )

    def _others(self, case: Mapping, made_of: str | None, made_with: Mapping) -> list[str]:
        """What of a case, its image or a setting, is not what it was made of and with."""
        other = [k for k, v in self.settings().items() if k in made_with and made_with[k] != v]
        if made_of is not None and made_of != self.input_digest(case):
            other.insert(0, "image")
        return other

    def settings(self) -> dict:
        """What results depend on, as JSON gives it back."""
        return json.loads(json.dumps({k: v for k, v in self.fingerprint.items() if k != "tile_size"}, default=str))

    def begin_case(self, batch: Mapping) -> None:
        """The work on a loaded batch of one case begins. Pyramids note by themselves what they are made of."""

    def _check_begun(self, case: Mapping) -> None:
        """An unfinished case may be gone on with; pyramids are checked when they are opened."""

    def input_digest(self, case: Mapping) -> str | None:
        """Tells what a case was made of by what its files hold; None for a phantom."""
        files: list[pathlib.Path] = []
        for source in self.sources(case):
            files += files_of(pathlib.Path(source))
        return files_digest(files) if files else None

    def sources(self, case: Mapping) -> list[str]:
        """The files and folders that a case is made of."""
        given = (case.get(key) for key in ("source", "given_sketch", "given_mask"))
        return [str(path) for path in given if isinstance(path, str | os.PathLike)]

    def _begun(self, case: Mapping) -> bool:
        return self._holds_tiles(case)

    def _holds_tiles(self, case: Mapping) -> bool:
        """Whether an interrupted run left work in the case's working folder, which `resume` would spare."""
        return any(self.work_dir(case["name"]).glob("*.ome.zarr"))

    def open(self, path, name: str) -> Volume:
        """A case's file as a volume; what must be unpacked goes to the working folder."""
        volume = open_volume(path, self.work_dir(name))
        if isinstance(volume, TurnedView):
            self._turned[str(path)] = volume
        return volume

    def discard(self, name: str) -> None:
        """Removes the unpacked copy of an input that was refused; what an interrupted run has made stays.

        By every process: the last one that refuses it would leave a folder behind.
        """
        work = self.work_dir(name)
        if not any(work.glob("*.ome.zarr")):
            shutil.rmtree(work, ignore_errors=True)

    def check(self, case: Mapping, shape: Sequence[int]) -> None:
        """Before any work: a folder that can be written, a format and enough room for the output grid's voxels."""
        kind = {"png": "PNG", "dcm": "DICOM file of one picture"}.get(self.format_of(case))
        if kind is not None:
            check_png([b - a for a, b in check_region(self.region, shape)], kind)
        volume = case.get("image", case.get("sketch"))
        if self.format_of(case) == "dicom" and isinstance(volume, Volume):
            check_ct_series(volume)
        check_output(self.final(case).parent, math.prod(check_size(shape)) * _BYTES_PER_VOXEL)
        if idist.get_rank() == 0 and not self.resume:
            for pyramid in self.work_dir(case["name"]).glob("*.ome.zarr"):
                shutil.rmtree(pyramid, ignore_errors=True)

    def stores(self, case: Mapping, recipe: Mapping) -> ZarrStores:
        """Pyramids of a case in its working folder; `recipe` tells what they depend on."""
        fingerprint = {**self.fingerprint, **recipe}
        return ZarrStores(self.work_dir(case["name"]), fingerprint, self.resume)

    def save(self, case: Mapping, image: Volume, whole: bool) -> pathlib.Path:
        """The result under its final name (rank 0 writes); an OME-Zarr gets its name in `finish`.

        Args:
            whole: the image is the whole pyramid, not a region of it.
        """
        final, kind = self.final(case), self.format_of(case)
        if kind == "ome-zarr" and not whole:
            raise InputError("an OME-Zarr holds the whole image, but a region was asked for; choose nii or nii.gz.")
        if idist.get_rank() == 0 and kind != "ome-zarr":
            stem = final.parent / f"{case['name']}_{self.postfix}"
            options: dict[str, Any] = {}
            if kind in ("dicom", "dcm"):
                options = {"seed": self.seed, "keep_patient": self.keep_patient}
            if options and _dicom(case.get("source")):
                options["reference"] = case["source"]
            source = pathlib.Path(str(case.get("source")))
            if kind.startswith("nii") and source.name.lower().endswith((*NIFTI, ".hdr")) and source.is_file():
                options["reference_header"] = nibabel.load(source).header  # the space that the affine leads to
            save_volume(self._as_in_file(case, image, kind), stem, kind, **options)
        idist.barrier()
        return final

    def _as_in_file(self, case: Mapping, image: Volume, kind: str) -> Volume:
        """The image on the axes of its source, where that is a NIfTI, NRRD or MetaImage of one slice and so is it."""
        source = str(case.get("source"))
        if len(image.shape) != 2 or not kind.startswith("nii"):
            return image
        image = self._turned[source].back(image) if source in self._turned else image
        one_slice = False
        if source.lower().endswith((*NIFTI, ".hdr")):
            one_slice = len(cast(nibabel.nifti1.Nifti1Pair, nibabel.load(source)).shape) > 2
        return SliceView(image) if one_slice else image

    def finish(self, case: Mapping) -> None:
        """All that reads the working folder is done: name the OME-Zarr, remove the rest."""
        work, final = self.work_dir(case["name"]), self.final(case)
        if self.format_of(case) == "ome-zarr":
            rename_folder(work / "result.ome.zarr", final)
        remove_folder(work)

    def format_of(self, case: Mapping) -> str:
        """The format asked for, else that of the input.

        A DICOM series for a DICOM series and one DICOM file for a radiograph (without pydicom, with a warning, NIfTI
        and PNG); .nii for .nii; TIFF for TIFF; PNG for PNG, JPEG and a 2-D phantom; TIFF where a picture would be too
        large for one; else .nii.gz.
        """
        source = case.get("source")
        if "refused" in case:
            return str(self.output_format or "nii.gz")
        if self.output_format is not None:
            flat = self.output_format == "dicom" and _is_picture(source)
            return "dcm" if flat else str(self.output_format)
        name = "" if source is None or isinstance(source, Volume) else str(source).lower()
        if name.endswith((".tif", ".tiff")):
            return "tiff"
        shape = _picture_shape(source)
        if shape is not None:
            kind = "dcm" if _dicom(source) and _can_write_dicom() else "png"
            return kind if self._pixels(shape) <= PNG_PIXELS else "tiff"
        if _dicom(source) and _can_write_dicom():
            return "dicom"
        return "nii" if name.endswith(".nii") else "nii.gz"

    def _pixels(self, shape: Sequence[int]) -> int:
        if not shape:
            return 0
        box = check_region(self.region, check_size(self.size or shape, 2))
        return math.prod(b - a for a, b in box)

    def final(self, case: Mapping) -> pathlib.Path:
        """Path of the finished result."""
        stem, kind = f"{case['name']}_{self.postfix}", self.format_of(case)
        return self.case_folder(case["name"]) / (f"{stem}.ome.zarr" if kind == "ome-zarr" else final_name(stem, kind))

    def case_folder(self, name: str) -> pathlib.Path:
        """Folder of a case's results, preview and report."""
        return self.folder / name if self.several else self.folder

    def work_dir(self, name: str) -> pathlib.Path:
        """Folder of what is not finished."""
        return self.case_folder(name) / f"{name}.partial"


def interrupted_run(folder: pathlib.Path, name: str) -> InputError:
    """The sentence for a run that was killed and whose work would be lost if it were begun anew."""
    return InputError(
        f"{folder} must not hold an interrupted run, got one of {name}; set resume to true to go on with it, or "
        "overwrite to true to begin anew."
    )


def _picture_shape(source) -> tuple[int, ...] | None:
    """(rows, columns) of a source that is best shown as a picture, () if they cannot be read; None for all others."""
    if source is None or isinstance(source, Volume):
        return source.shape if source is not None and len(source.shape) == 2 else None
    path = pathlib.Path(source)
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return picture_shape(path) or ()  # what is wrong with it is said when it is opened
    image = lone_image(path) if _dicom(path) else None
    return None if image is None else image.size[1::-1]


def _is_picture(source) -> bool:
    return _picture_shape(source) is not None or str(source).lower().endswith((".tif", ".tiff"))


@functools.cache
def _can_write_dicom() -> bool:
    """Whether pydicom is installed; where it is not, that is said once."""
    if importlib.util.find_spec("pydicom") is not None:
        return True
    logger.warning(
        "A result of DICOM becomes NIfTI or PNG, as pydicom is not installed; for DICOM run: pip install pydicom."
    )
    return False


def _dicom(source) -> bool:
    if source is None or isinstance(source, Volume):
        return False
    path = pathlib.Path(source)
    return bool(dicom_files(path)) if path.is_dir() else path.is_file() and is_dicom(path)
