"""The output folder of a run that generates from noise: one file per sample, from which the run's images are read."""

from __future__ import annotations

import json
import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence

import ignite.distributed as idist
import numpy as np
import tifffile
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...core.errors import InputError
from ...core.output_files import remove_no_folder, remove_path, write_then_rename
from ...core.tiles import check_region
from ...core.volumes import ArrayVolume, Volume
from ...core.windows import check_window, to_unit_range
from ...io.colours import check_colours, save_colours
from ...io.outputs import CaseOutput, interrupted_run
from ...io.readers import open_volume
from ...io.writers import PNG_PIXELS, check_output, check_png, save_volume

_BYTES_PER_VOXEL = 8  # a store of at most 4 bytes, a file of at most 4


class SampleFolder(CaseOutput):
    """CaseOutput of samples ({"name", "shape"}): `sample_0000_synthetic.png` and so on, all in one folder.

    While samples are generated, samples.partial/recipe.json holds what they depend on. An interrupted run resumes from
    it: samples whose file exists are kept.

    Args:
        channels: 1 (grey) or 3 (RGB).
        dtype: of the stored values: uint8, uint16, int16, float32.
        window: stored values of -1 and 1.
        tiled: images are generated tile by tile into stores, as an OME-Zarr needs.
        options: of CaseOutput. The `fingerprint` is what all samples depend on (weights, seed, ...).

    Raises:
        InputError: a window that does not fit the dtype; what CaseOutput raises.
    """

    def __init__(
        self,
        output_dir: str,
        channels: int = 1,
        dtype: str = "uint16",
        window: Sequence[float] = (0.0, 65535.0),
        tiled: bool = False,
        **options,
    ) -> None:
        super().__init__(output_dir, **options)
        self.channels = channels
        self.window = check_window(window, dtype)
        self.dtype = str(np.dtype(dtype))
        self.tiled = tiled
        self.samples: list[Mapping] = []
        self._note = self.folder / "samples.partial" / "recipe.json"

    def begin(self, samples: Iterable[Mapping]) -> list[Mapping]:
        """Check the folder for these samples before any work, and return those that are still to be generated.

        Raises:
            InputError: results that exist, with neither overwrite nor a run to resume; a run to resume that had other
                settings; a format that cannot hold the images; a folder that cannot be written; a disk too small.
        """
        self.samples = list(samples)
        self._check_formats()
        for folder in (self._note.parent, *(self.work_dir(sample["name"]) for sample in self.samples)):
            remove_no_folder(folder)
        resumed = self._resumed()
        idist.barrier()  # every process has looked before one of them tidies up
        if idist.get_rank() == 0:
            if not resumed:
                self._clear()
            self._note.parent.mkdir(exist_ok=True)
            with write_then_rename(self._note) as aside:
                aside.write_text(json.dumps(self._recipe()))
        idist.barrier()
        return [sample for sample in self.samples if not self.final(sample).exists()]

    def _check_formats(self) -> None:
        shapes = {tuple(sample["shape"]): sample for sample in self.samples}
        pixels = {shape: self._pixels(shape) for shape in shapes}
        for shape, sample in shapes.items():
            kind = self.format_of(sample)
            if kind == "ome-zarr" and not self.tiled:
                raise InputError(
                    "output_format must be png, tiff, nii, nii.gz or dicom, since these images are not generated tile "
                    "by tile, got ome-zarr; choose one of these."
                )
            if self.channels == 3:
                check_colours(kind, self.dtype)
            name = {"png": "PNG", "dcm": "DICOM file of one picture"}.get(kind)
            if name is not None:
                check_png([b - a for a, b in check_region(self.region, shape)], name)
            self.final(sample)  # refuses a format that is none
        total = sum(pixels[tuple(sample["shape"])] for sample in self.samples)
        check_output(self.folder, total * self.channels * _BYTES_PER_VOXEL)

    def _pixels(self, shape: Sequence[int]) -> int:
        return math.prod(b - a for a, b in check_region(self.region, shape))

    def _recipe(self) -> dict:
        settings = {"window": self.window, "dtype": self.dtype, "region": self.region, **self.fingerprint}
        return json.loads(json.dumps(settings, default=str))

    def _resumed(self) -> bool:
        """Whether the folder holds an interrupted run to continue."""
        if self.overwrite:
            return False
        if self.resume and self._note.exists():
            try:
                begun_with = json.loads(self._note.read_text())
                if not isinstance(begun_with, dict):
                    raise ValueError
            except (OSError, ValueError) as error:
                raise InputError(
                    f"resume must find what the run in {self.folder} was begun with, got a damaged "
                    f"{self._note.parent.name}; set overwrite to true."
                ) from error
            recipe = self._recipe()
            changed = sorted(k for k in begun_with.keys() | recipe.keys() if begun_with.get(k) != recipe.get(k))
            if changed:
                raise InputError(
                    f"resume must continue the run in {self.folder} with its own settings, got another "
                    f"{', '.join(changed)}; set it back, or set overwrite to true."
                )
            return True
        existing = [self.final(sample) for sample in self.samples if self.final(sample).exists()]
        tiles = [sample for sample in self.samples if self._holds_tiles(sample)]
        if not self.resume and self._note.exists() and (existing or tiles):
            name = existing[0].name if existing else tiles[0]["name"]
            raise interrupted_run(self.folder, name)
        if existing:
            cure = "there is nothing to resume" if self.resume else "resume continues an interrupted run"
            raise InputError(
                f"{self.folder} must not yet hold {existing[0].name}, got one; set overwrite to true to replace it "
                f"or choose another output_dir ({cure})."
            )
        return False

    def _clear(self) -> None:
        """Remove what an earlier run left of these samples, so that a file that exists is one of this run."""
        remove_path(self._note)
        for sample in self.samples:
            remove_path(self.final(sample))
            shutil.rmtree(self.work_dir(sample["name"]), ignore_errors=True)
        for name in ("report.json", "metrics.json"):
            (self.folder / name).unlink(missing_ok=True)

    def format_of(self, case: Mapping) -> str:
        """The format asked for; else PNG in 2-D, TIFF where that is too large or cannot hold the values; nii.gz."""
        shape = case["shape"]
        if self.output_format is not None:
            return "dcm" if self.output_format == "dicom" and len(shape) == 2 else str(self.output_format)
        if len(shape) != 2:
            return "nii.gz"
        fits = self.dtype == "uint8" if self.channels == 3 else self.dtype in ("uint8", "uint16")
        return "png" if fits and self._pixels(shape) <= PNG_PIXELS else "tiff"

    def save(self, case: Mapping, image: Volume | Sequence[Volume], whole: bool = True) -> pathlib.Path:
        """Write a volume, or three as a colour picture, under its final name; the calling process writes."""
        kind = self.format_of(case)
        stem = self.folder / f"{case['name']}_{self.postfix}"
        if not isinstance(image, Volume):
            save_colours(image, stem, kind)
        elif kind in ("dicom", "dcm"):
            save_volume(image, stem, kind, seed=self.seed, keep_patient=False)
        elif kind != "ome-zarr":  # which is the store itself
            save_volume(image, stem, kind)
        self.finish(case)
        return self.final(case)

    def volumes(self, sample: Mapping) -> list[Volume]:
        """A finished sample's image, read from its file: one volume, or one per colour channel."""
        final = self.final(sample)
        if self.channels == 1:
            return [open_volume(final, self.work_dir(sample["name"]))]
        if final.suffix == ".tiff":
            values = tifffile.imread(final)
        else:
            with Image.open(final) as picture:
                values = np.asarray(picture)
        return [ArrayVolume(values[..., channel]) for channel in range(self.channels)]

    def finish_run(self) -> None:
        """All that a resume would need is removed; on one process, when report and preview are written."""
        for sample in self.samples:
            shutil.rmtree(self.work_dir(sample["name"]), ignore_errors=True)
        shutil.rmtree(self._note.parent, ignore_errors=True)


class SampleImages(Dataset):
    """Finished samples as tensors (C, *S) in [-1, 1], read from their files one at a time.

    Args:
        output: the run's folder.
        samples: of one shape.
    """

    def __init__(self, output: SampleFolder, samples: Sequence[Mapping]) -> None:
        self.output = output
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        volumes = self.output.volumes(self.samples[index])
        values = [np.asarray(v.read([0] * len(v.shape), v.shape), dtype=np.float32) for v in volumes]
        return torch.from_numpy(to_unit_range(np.stack(values), self.output.window))
