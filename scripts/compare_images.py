"""Compare two folders of images as the bundles' evaluate.yaml does: real ones with generated ones.

    python scripts/compare_images.py REAL GENERATED --output_dir ./comparison
    python scripts/compare_images.py REAL GENERATED --training TRAINING --extractor inception_v3_tf2015 \\
        --weights pt_inception.pth --sha256 6726825d0af5...

PNG, JPEG, TIFF, DICOM and NIfTI, in any mixture; of a NIfTI volume each slice along its last axis is an image. Writes
metrics.json (kernel and Frechet distance, the Frechet ratio, precision, recall, density, coverage, MS-SSIM diversity,
nearest training image, each with N and what made it) and comparison.png. All processes of torchrun share the work.

Without --window an 8-bit image is seen from 0 to 255, one of 16 bit from 0 to 65535; others want one. The features are
a named network's, whose weights lie in $HIRESMED_WEIGHTS or are given; nothing is downloaded. `pixels` needs none;
`random` is comparable with nothing.
"""

from __future__ import annotations

import argparse
import ast
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import ignite.distributed as idist
import numpy as np
import torch
from hiresmed.core.distributed import finalize, initialize
from hiresmed.core.errors import InputError, install_error_hook
from hiresmed.core.output_files import write_then_rename
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.io import cases, open_volume
from hiresmed.metrics import ImageSetMetrics
from hiresmed.reports.preview import Panel, montage, write_preview
from hiresmed.reports.report import to_json_safe

FULL_RANGE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
SHOWN = 16


class FolderOfImages(Sequence):
    """All images in a folder, (1, rows, columns) in [-1, 1], one read at a time.

    Args:
        folder: see the script's text.
        window: values that become -1 and 1; None: the full range of 8 or 16 bit.
        size: every image is resampled to so many pixels a side; None: left as it is.
        work_dir: where compressed volumes are unpacked.

    Raises InputError: nothing there, a file that is no image, another kind of values without a window.
    """

    def __init__(self, folder: pathlib.Path, window, size: int | None, work_dir: pathlib.Path) -> None:
        self.window, self.size, self.places = window, size, []
        for number, case in enumerate(cases(dataset_dir=str(folder))):
            volume = open_volume(case["image"], work_dir / str(number))
            self._range(volume)
            slices = [None] if len(volume.shape) == 2 else range(volume.shape[2])
            self.places += [(volume, k) for k in slices]

    def _range(self, volume: Volume) -> tuple[float, float]:
        if self.window is not None:
            return self.window
        if str(volume.dtype) not in FULL_RANGE:
            raise InputError(
                f"{volume.name} must have 8 or 16 bit without sign, got {volume.dtype}: say with --window which "
                'of its values are black and white, as in --window "[-1000, 600]".'
            )
        return FULL_RANGE[str(volume.dtype)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        volume, k = self.places[index]
        if k is None:
            values = volume.read((0, 0), volume.shape)
        else:  # rows from the second axis: with L, P, S axes the front is up, as bundles write their samples
            values = volume.read((0, 0, k), (*volume.shape[:2], 1))[:, :, 0].T
        low, high = self._range(volume)
        unit = (np.clip(values.astype(np.float64), low, high) - low) * (2 / (high - low)) - 1
        image = torch.from_numpy(np.ascontiguousarray(unit)).float()[None]
        if self.size is None:
            return image
        size = (self.size, self.size)
        made = torch.nn.functional.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)
        return made[0].clamp(-1, 1)


def same_shape(sets: Sequence[FolderOfImages]) -> bool:
    """Whether all images of all sets have one grid, which MS-SSIM and the picture want."""
    return len({shape_of(place) for images in sets for place in images.places}) == 1


def shape_of(place: tuple) -> tuple[int, ...]:
    """Columns and rows of a volume's slice, rows and columns of a picture turned to match."""
    volume, k = place
    return tuple(volume.shape[:2]) if k is not None else tuple(volume.shape[::-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=pathlib.Path, help="folder of real images")
    parser.add_argument("generated", type=pathlib.Path, help="folder of generated images")
    parser.add_argument("--training", type=pathlib.Path, help="folder of the images that were trained on")
    parser.add_argument("--output_dir", type=pathlib.Path, default=pathlib.Path("./comparison"))
    parser.add_argument("--extractor", default="squeezenet", help="feature network (squeezenet)")
    parser.add_argument("--weights", help="its file; else it is looked for in $HIRESMED_WEIGHTS")
    parser.add_argument("--sha256", help="of that file")
    parser.add_argument("--window", help="values seen as black and white, as [low, high]")
    parser.add_argument("--size", type=int, help="resample all images to so many pixels a side")
    parser.add_argument("--nearest_k", type=int, default=5, help="neighbours of precision and recall (5)")
    parser.add_argument("--pairs", type=int, default=200, help="of the MS-SSIM (200); 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    return parser.parse_args()


def window_of(text: str | None) -> tuple[float, float] | None:
    """[low, high] as two rising numbers; InputError for anything else."""
    if text is None:
        return None
    try:
        low, high = (float(v) for v in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        low, high = 0.0, 0.0
    if not low < high:
        raise InputError(f"window must be two rising numbers, as [-1000, 600], got {text!r}; correct it.")
    return low, high


def compare(args: argparse.Namespace, work_dir: pathlib.Path) -> None:
    target = args.output_dir / "metrics.json"
    if target.exists() and not args.overwrite:
        raise InputError(f"{target} must not exist yet, but does; give --overwrite, or another --output_dir.")
    options = {k: v for k, v in (("weights", args.weights), ("sha256", args.sha256)) if v is not None}
    metrics = ImageSetMetrics(args.extractor, options, args.nearest_k, args.pairs, seed=args.seed)
    window = window_of(args.window)
    folders = {"real": args.real, "generated": args.generated, "training": args.training}
    sets = {
        name: FolderOfImages(folder, window, args.size, work_dir / name)
        for name, folder in folders.items()
        if folder is not None
    }
    alike = args.size is not None or same_shape(list(sets.values()))
    if args.pairs and not alike:
        raise InputError("All images must have one size for the MS-SSIM, got several; give --size, or --pairs 0.")
    counts = {side: len(sets[side]) for side in ("generated", "real")}
    if min(counts.values()) < 4:
        raise InputError(
            f"A comparison must have at least four images of each side, got {counts['generated']} generated and "
            f"{counts['real']} real; give more."
        )
    figures = metrics(sets["generated"], sets["real"], sets.get("training"))
    if idist.get_rank() == 0:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        content = {
            "real": args.real.name,
            "generated": args.generated.name,
            "window": window or "full range of 8 or 16 bit",
            "size": args.size,
            **figures,
        }
        with write_then_rename(target) as aside:
            aside.write_text(json.dumps(to_json_safe(content), indent=2) + "\n", encoding="utf-8")
        if alike:
            panels = [Panel(name, ArrayVolume(montage(images, SHOWN))) for name, images in sets.items()]
            write_preview(args.output_dir / "comparison.png", panels, (-1, 1), f"{args.extractor}   N in metrics.json")
        print(in_words(figures, args.extractor), flush=True)


def in_words(figures: dict, name: str) -> str:
    """The last line: the distances with their numbers of images."""
    kernel, frechet = figures[f"{name}_kernel_distance"], figures[f"{name}_frechet_distance"]
    warning = "" if figures["made_by"]["comparable"] else "; of a random network, comparable with nothing"
    counts = f"{kernel['n_real']} real and {kernel['n_generated']} generated images"
    return (
        f"{name}: kernel distance {kernel['value']:.6g} (standard error {kernel['standard_error']:.2g}), Frechet "
        f"distance {frechet['value']:.6g}, {counts}{warning}."
    )


def main() -> None:
    install_error_hook()
    args = arguments()
    initialize(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        compare(args, pathlib.Path(scratch))
    finalize()


if __name__ == "__main__":
    sys.exit(main())
