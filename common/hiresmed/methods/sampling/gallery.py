"""The output folder of a run that draws from noise: a flat gallery, one preview and one report for all of it."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence

import ignite.distributed as idist

from ...core.tiles import check_region
from ...core.volumes import Volume
from ...io.colours import check_colours, save_colours
from ...io.outputs import CaseOutput
from ...io.writers import PNG_PIXELS


class SampleGallery(CaseOutput):
    """CaseOutput of drawn cases ({"name", "latent", "frame"}), all in one folder.

    Args:
        channels: 1, or 3 for colour pictures.
        dtype: of the stored values.
        options: of CaseOutput.
    """

    def __init__(self, output_dir: str, channels: int = 1, dtype: str = "uint16", **options) -> None:
        super().__init__(output_dir, **options)
        self.channels, self.dtype = channels, dtype

    def left(self, found: Sequence[Mapping]) -> list[Mapping]:
        """Those of the run's cases that are to be made.

        Raises:
            InputError: a result exists, and is neither to be replaced nor left to resume.
        """
        return list(found) if self.overwrite else self._left(list(found))

    def check(self, case: Mapping, shape: Sequence[int]) -> None:
        """As CaseOutput's; and whether the format can hold the colours."""
        if self.channels == 3:
            check_colours(self.format_of(case), self.dtype)
        super().check(case, shape)

    def save(self, case: Mapping, image: Volume | Sequence[Volume], whole: bool) -> pathlib.Path:
        """One volume as CaseOutput does; three as a colour picture."""
        if isinstance(image, Volume):
            return super().save(case, image, whole)
        final = self.final(case)
        if idist.get_rank() == 0:
            save_colours(image, final.parent / f"{case['name']}_{self.postfix}", self.format_of(case))
        idist.barrier()
        return final

    def format_of(self, case: Mapping) -> str:
        """The format asked for; else PNG in 2-D, TIFF where that is too large or cannot hold the values; nii.gz."""
        shape = case["frame"].shape
        if self.output_format is not None:
            return str(self.output_format)
        if len(shape) != 2:
            return "nii.gz"
        fits = self.dtype == "uint8" if self.channels == 3 else self.dtype in ("uint8", "uint16")
        pixels = math.prod(b - a for a, b in check_region(self.region, shape))
        return "png" if fits and pixels <= PNG_PIXELS else "tiff"
