"""What distances of image sets see: noise, blur and seams of growing strength on real X-rays; and tables of figures.

No command of its own: imported by comparison.py beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import open_volume
from hiresmed.metrics import ImageSetMetrics
from hiresmed.reports.preview import Panel, montage, write_preview
from scipy.ndimage import gaussian_filter
from study import markdown, save_json, with_spread
from xrays import reduced

STRENGTHS = {
    "noise": (0.0, 0.02, 0.05, 0.1, 0.2),
    "blur": (0.0, 0.5, 1.0, 2.0, 4.0),
    "seams": (0.0, 0.02, 0.05, 0.1, 0.2),
}
CROP, TILE = 128, 64  # pixels
UNITS = {"noise": "standard deviation", "blur": "sigma in pixels", "seams": f"step between tiles of {TILE} pixels"}
FIGURES = {"distance": "kernel_distance", "frechet": "frechet_distance"}
COLUMNS = {
    "distance": "kernel distance",
    "frechet": "Frechet distance",
    "ratio": "Frechet ratio",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "ms_ssim": "MS-SSIM",
    "ms_ssim_real": "MS-SSIM of real",
}


def noise(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return image + strength * random.standard_normal(image.shape)


def blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return gaussian_filter(image, strength) if strength else image


def seams(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Each tile a little brighter or darker, as patch-wise generators leave them."""
    steps = random.choice([-0.5, 0.5], [-(-n // TILE) for n in image.shape]) * strength
    return image + steps.repeat(TILE, 0).repeat(TILE, 1)[: image.shape[0], : image.shape[1]]


SPOIL: dict[str, Callable] = {"noise": noise, "blur": blur, "seams": seams}


def crops(image: np.ndarray) -> list[torch.Tensor]:
    """(1, CROP, CROP) side by side, clipped to [-1, 1]."""
    places = itertools.product(*(range(0, n - CROP + 1, CROP) for n in image.shape))
    return [torch.from_numpy(image[y : y + CROP, x : x + CROP].clip(-1, 1)).float()[None] for y, x in places]


def radiographs(args: argparse.Namespace) -> list[np.ndarray]:
    """The X-rays in [-1, 1], at most --xray_size pixels along their longer side."""
    found = []
    for path in sorted(p for p in args.xray_dir.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        volume = reduced(open_volume(path, args.work_dir / "cache"), args.xray_size)
        found.append(volume.read((0, 0), volume.shape).astype(np.float64) / 65535 * 2 - 1)
    return found


def sensitivity(args: argparse.Namespace) -> dict:
    """kind -> strength -> seed -> figures of spoilt images against images of other patients."""
    images = radiographs(args)
    by_seed = {str(seed): _of_seed(args, seed, images) for seed in args.seeds}
    panels = []
    for kind, strengths in STRENGTHS.items():
        spoilt = [crops(SPOIL[kind](images[0], s, np.random.default_rng(0))) for s in strengths]
        shown = [of_image[len(of_image) // 2] for of_image in spoilt]
        panels.append(Panel(f"{kind} {', '.join(map(str, strengths))}", ArrayVolume(montage(shown))))
    write_preview(args.work_dir / "sensitivity.png", panels, (-1, 1), "the same crop, spoilt")
    return {
        kind: {str(s): {seed: found[kind][str(s)] for seed, found in by_seed.items()} for s in strengths}
        for kind, strengths in STRENGTHS.items()
    }


def _of_seed(args: argparse.Namespace, seed: int, images: list[np.ndarray]) -> dict:
    """One half of the images as they are against the other half, spoilt; each seed draws other halves."""
    path = args.work_dir / f"sensitivity_{args.extractor}_{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    metrics, found = ImageSetMetrics(args.extractor, pairs=0), {}
    order = np.random.default_rng(seed).permutation(len(images))
    real = [c for k in order[::2] for c in crops(images[k])]
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            random = np.random.default_rng([seed, 1])
            spoilt = [c for k in order[1::2] for c in crops(SPOIL[kind](images[k], strength, random))]
            found.setdefault(kind, {})[str(strength)] = short(metrics(spoilt, real), args.extractor)
    save_json(path, found)
    return found


def short(figures: dict, extractor: str) -> dict:
    """The figures that the tables show."""
    numbers = {name: figures[f"{extractor}_{key}"]["value"] for name, key in FIGURES.items()}
    numbers |= {k: figures[f"{extractor}_prdc"][k] for k in ("precision", "recall", "density", "coverage")}
    numbers |= {"ratio": figures[f"{extractor}_frechet_ratio"]["value"]}
    numbers |= {k: figures[f"{extractor}_frechet_distance"][k] for k in ("n_real", "n_generated")}
    if "ms_ssim_diversity" in figures:
        numbers |= {
            "ms_ssim": figures["ms_ssim_diversity"]["value"],
            "ms_ssim_real": figures["ms_ssim_diversity"]["real_value"],
        }
    return numbers


def spread(runs: Sequence[dict], name: str, digits: int = 3) -> str:
    return with_spread([run.get(name) for run in runs], digits)


def rows_of(groups: dict[str, Sequence[dict]]) -> str:
    rows = [
        [name, str(len(runs)), f"{runs[0]['n_real']} / {runs[0]['n_generated']}", *(spread(runs, c) for c in COLUMNS)]
        for name, runs in groups.items()
    ]
    return markdown(["", "seeds", "N real / other", *COLUMNS.values()], rows)
