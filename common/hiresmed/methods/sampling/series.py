"""What an unconditional generator makes: numbered latents in, numbered pictures and one stack out.

Letters: B = images a block, C = channels, S = spatial shape (rows, columns), Z = latent size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...core.distributed import own_share
from ...core.errors import InputError
from ...core.knobs import flag, whole_number
from ...core.latents import latent_path, latents_of
from ...core.output_files import written_aside
from ...core.volumes import Volume
from ...io.writers import check_output, save_volume

DEEPEST = 65535  # PNG of 16 bit
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns to the patient's left, rows to the back, 1 mm


class LatentBlocks(Dataset):
    """Blocks {"image": z (B, Z), "numbers": those wanted} for this process.

    Image n is always computed in block n // B at the same place, and the last block is filled up: so its bits depend
    neither on how many images or processes there are nor on what an interrupted run had done.

    Args:
        num_samples: how many images; None where `interpolate` is given.
        latent_size: Z.
        seed: of the latents.
        batch_size: B.
        interpolate: numbers of images; the path from one to the next is made instead.
        steps: images from one to the next.
        output: SampleSeries, whose finished images are not made again.

    Raises InputError for knobs out of range.
    """

    def __init__(
        self,
        num_samples: int = 4,
        latent_size: int = 128,
        seed: int = 0,
        batch_size: int = 4,
        interpolate: Sequence[int] | None = None,
        steps: int = 8,
        output: SampleSeries | None = None,
    ) -> None:
        self.seed, self.size = whole_number(seed, "seed"), latent_size
        self.block = whole_number(batch_size, "batch_size", least=1)
        self.path = None if interpolate is None else latent_path(self.seed, interpolate, steps, latent_size)
        self.count = count_samples(num_samples, interpolate, steps)
        blocks = [self._numbers(k) for k in own_share(-(-self.count // self.block))]
        done = output.done if output is not None else set()
        # a process without work takes a turn whose images nobody wants, as an engine needs one
        self.blocks = [b for b in blocks if not set(b) <= done] or [range(0)]

    def _numbers(self, block: int) -> range:
        return range(block * self.block, min((block + 1) * self.block, self.count))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict:
        numbers = self.blocks[index]
        first = numbers.start
        if self.path is None:
            latents = latents_of(self.seed, range(first, first + self.block), self.size)
        else:
            rows = torch.arange(first, first + self.block).clamp(max=len(self.path) - 1)
            latents = self.path[rows]
        return {"image": latents, "numbers": list(numbers)}


def count_samples(num_samples: int, interpolate: Sequence[int] | None = None, steps: int = 8) -> int:
    """How many images are made: of their own number, or of a path's stations and steps."""
    if interpolate is None:
        return whole_number(num_samples, "num_samples", least=1)
    return 1 + (len(interpolate) - 1) * whole_number(steps, "steps", least=1)


class PictureFolder(Volume, Sequence):
    """Grey PNGs of one size as images (1, rows, columns) in [-1, 1], and as a volume (columns, rows, image) of uint16.

    Read one at a time.
    """

    dtype = np.dtype(np.uint16)
    affine = _AFFINE

    def __init__(self, paths: Sequence[Path], name: str = "samples") -> None:
        self.paths, self.name = list(paths), name
        self.shape = (*self._picture(0).shape[::-1], len(self.paths))

    def _picture(self, index: int) -> np.ndarray:
        with Image.open(self.paths[index]) as picture:
            return np.asarray(picture)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._picture(index).astype(np.float32))[None] * (2 / DEEPEST) - 1

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        (x, y, k), (w, h, n) = start, shape
        return np.stack([self._picture(i)[y : y + h, x : x + w].T for i in range(k, k + n)], axis=2)


class SampleSeries:
    """The output folder of a run of samples: images/00000.png ... (16 bit) and samples.nii.gz.

    While images are made, samples.partial/ says what they depend on, from which an interrupted run resumes.

    Args:
        output_dir: created; nothing outside it is written.
        count: how many images.
        size: N; for the room that is needed on the disk.
        output_format: of the stack, nii.gz or nii.
        value_range: what black and white are in the generator's images.
        overwrite: replace results that exist.
        resume: go on with an interrupted run.
        fingerprint: what the images depend on: weights, seed, block size ...

    Raises InputError: results that exist, nothing or other things to resume, a folder that cannot be written, a disk
    that is too small.
    """

    def __init__(
        self,
        output_dir: str | Path,
        count: int,
        size: int,
        output_format: str | None = None,
        value_range: Sequence[float] = (-1.0, 1.0),
        overwrite: bool | str = False,
        resume: bool | str = False,
        fingerprint: Mapping | None = None,
    ) -> None:
        self.folder, self.count = Path(output_dir).expanduser(), count
        self.format = output_format or "nii.gz"
        if self.format not in ("nii", "nii.gz"):
            raise InputError(
                f"output_format should be nii or nii.gz, of the stack, but is {self.format!r}; choose one."
            )
        self.low, self.high = (float(v) for v in value_range)
        overwrite, resume = flag(overwrite, "overwrite"), flag(resume, "resume")
        self.recipe = json.loads(json.dumps({"count": count, **(fingerprint or {})}, default=str))
        self._note = self.folder / "samples.partial" / "recipe.json"
        self.stack = self.folder / f"samples.{self.format}"
        self._check(overwrite, resume, 2 * 3 * count * size**2)
        idist.barrier()  # all have looked before one tidies up
        if idist.get_rank() == 0:
            self._begin(keep=resume and not overwrite)
        idist.barrier()
        self.done = {n for n in range(count) if self.picture(n).exists()}

    def _check(self, overwrite: bool, resume: bool, needed_bytes: int) -> None:
        check_output(self.folder, needed_bytes)
        if overwrite:
            return
        if self._note.exists() and resume:
            begun = json.loads(self._note.read_text())
            if begun != self.recipe:
                other = sorted(k for k in begun.keys() | self.recipe.keys() if begun.get(k) != self.recipe.get(k))
                raise InputError(
                    f"The run in {self.folder} should be resumed as it was begun, but {', '.join(other)} changed; give "
                    "the same again, or set overwrite to true."
                )
            return
        found = [p for p in (self.stack, self.folder / "images", self._note) if p.exists()]
        if found:
            cure = "there is nothing to resume" if resume else "resume goes on with a run that was broken off"
            raise InputError(
                f"{self.folder} should not yet hold {found[0].name}, but does; set overwrite to true to replace it or "
                f"choose another output_dir ({cure})."
            )

    def _begin(self, keep: bool) -> None:
        if not keep:
            for path in (*(self.folder / "images").glob("*.png"), self.stack, self.folder / "report.json"):
                path.unlink(missing_ok=True)
        (self.folder / "images").mkdir(exist_ok=True)
        self._note.parent.mkdir(exist_ok=True)
        with written_aside(self._note) as aside:
            aside.write_text(json.dumps(self.recipe))

    def picture(self, number: int) -> Path:
        """Path of the image of that number."""
        return self.folder / "images" / f"{number:05d}.png"

    def save(self, numbers: Sequence[int], images: torch.Tensor) -> None:
        """Writes the first of the images (B, C, *S), on the host, under those numbers; channels are averaged to grey.

        Raises InputError for values that are not finite.
        """
        for number, image in zip(numbers, images):
            grey = image.float().mean(0)
            if not torch.isfinite(grey).all():
                raise InputError(
                    f"Image {number} should have finite values, but has NaN or infinite ones; use other weights, or "
                    "amp false."
                )
            level = ((grey - self.low) / (self.high - self.low)).clamp(0, 1) * DEEPEST
            with written_aside(self.picture(number)) as aside:
                Image.fromarray(level.round().numpy().astype(np.uint16)).save(aside, format="PNG")

    def images(self) -> PictureFolder:
        """All images of the run, read from the disk one at a time."""
        return PictureFolder([self.picture(n) for n in range(self.count)])

    def finish(self) -> None:
        """Writes the stack, image after image, and forgets what a resume would need; rank 0 alone."""
        pictures = self.images()
        save_volume(pictures, self.folder / "samples", self.format)
        self._note.unlink(missing_ok=True)
        self._note.parent.rmdir()
