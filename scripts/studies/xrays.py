"""What the studies on X-rays share: X-rays at a working size, and base stages that variants begin with. No command."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from hiresmed.core.views import ResampledView
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.core.windows import FULL, WindowedView, robust_window
from hiresmed.io import open_volume, save_volume
from hiresmed.phantoms import ChestXrayPhantom
from monai.bundle import ConfigParser
from study import BUNDLES, STUDIES, Variant, knobs_of, save_json, slug

BUNDLE = BUNDLES / "msgan_xray2d"
WINDOW = (0.0, float(FULL))
CROP = 64  # pixels a side of what the feature network sees
COMMON = ("train.yaml", "studies/study.yaml")
PHANTOMS = [{"phantom": n} for n in range(4)] + [{"phantom": n, "section": "test"} for n in (8, 9)]
# no patient is spent on validation: the studies score the last weights, not the best
VALIDATION = {"phantom": 12, "section": "validation"}


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """A study's arguments, those that all have among them; other `--name value` pairs are `knobs` of its trainings."""
    parser.add_argument("--data_dir", type=pathlib.Path, help="folder of the X-rays; without it phantoms")
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=600, help="batches a training of finer stages")
    parser.add_argument("--base_steps", type=int, default=1200, help="batches a training of a base stage, before")
    parser.add_argument("--extractor", default="squeezenet", help="feature network; none for none")
    args, words = parser.parse_known_args()
    args.knobs = knobs_of(words)
    return args


def base_weights(overlays: Sequence[str], seed: int, images: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """Weights of a base stage trained alone, on the folder's cases, for all variants of one seed that share it.

    Together with the finer stages it learns far slower, and a cascade is no better than its base.
    """
    name = slug("_".join(pathlib.Path(o).stem for o in overlays))
    folder = args.work_dir / f"base_{name or 'reference'}_{args.base_steps}steps_seed{seed}"
    configs = [*COMMON, (images / "cases.json").resolve(), *overlays, "studies/base_first.yaml"]
    knobs = {**args.knobs, "seed": seed}
    return Variant(BUNDLE, configs, folder, knobs).weights(args.base_steps, dataset_dir=images).resolve()


def listed(data_dir: pathlib.Path | None) -> list[dict]:
    """A study's cases: images of cases.yaml in their sections, or phantoms."""
    if data_dir is None:
        return [*PHANTOMS, VALIDATION]
    cases = ConfigParser.load_config_file(str(STUDIES / BUNDLE.name / "cases.yaml"))["cases_list"]
    return [*cases, VALIDATION]


def reduced(volume: Volume, size: int) -> Volume:
    """The image through its robust window, `size` pixels along its longer side; never enlarged."""
    view = WindowedView(volume, robust_window(volume))
    scale = min(1.0, size / max(volume.shape))
    return ResampledView(view, [max(1, round(n * scale)) for n in volume.shape])


def prepare(data_dir: pathlib.Path | None, folder: pathlib.Path, size: int) -> dict[str, pathlib.Path]:
    """Writes all images at the working size, and cases.json of those to train on; returns the held-back ones."""
    folder.mkdir(parents=True, exist_ok=True)
    used, held_back = [], {}
    for case in listed(data_dir):
        name = pathlib.Path(case["image"]).stem if "image" in case else f"phantom_{case['phantom']}"
        target, section = folder / f"{name}.png", case.get("section", "training")
        if not target.exists():
            if data_dir is not None and "image" in case:
                volume = open_volume(data_dir / case["image"], folder)
            else:
                volume = ChestXrayPhantom([size] * 2, seed=case["phantom"])
            save_volume(reduced(volume, size), target.with_suffix(""), "png")
        if section == "test":
            held_back[name] = target
        else:
            used.append({"image": target.name, "section": section})
    save_json(folder / "cases.json", {"cases_list": used})
    return held_back


def seen(path: pathlib.Path) -> ArrayVolume:
    """A reduced image as training and inference see it."""
    volume = open_volume(path, path.parent)
    view = WindowedView(volume, robust_window(volume))
    return ArrayVolume(view.read((0, 0), view.shape), view.affine, path.stem)
