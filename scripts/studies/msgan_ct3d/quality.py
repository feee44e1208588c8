"""The quality study of msgan_ct3d: cascade against single-scale patches, scales, adversarial weight; held-back CT.

    python scripts/studies/msgan_ct3d/quality.py --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/quality --steps 600

Trains each variant for the same number of steps on the same CTs (a cascade half of them on its base alone), renders
the held-back volumes from their own sketches, and writes table.json, table.md and comparison.png into --work_dir.
Resumable: a variant that is trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np
from hiresmed.core.views import RegionView
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import open_volume
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.reports.preview import Panel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, Variant, markdown, retiled, save_aside, save_json, slug, write_comparison

BUNDLE = BUNDLES / "msgan_ct3d"
WINDOW = (-1000.0, 600.0)
VARIANTS = {
    "3 scales": {"base_size": 64, "base_patch": 48},
    "3 scales, no adversary": {"base_size": 64, "base_patch": 48, "adversarial_weight": 0.0},
    "2 scales": {"base_size": 128, "base_patch": 48},
    "1 scale (patches)": {"overlay": "patch_baseline.yaml"},
}
HELD_BACK = {
    "LIDC-IDRI-0314, 2 mm, caudal third": ("LIDC-IDRI-0314_iso2mm.nii.gz", [[0, 201], [0, 201], [0, 46]]),
    "Lung_Dx-A0001, 5 mm slices, every other column": ("Lung_Dx-A0001_s3_5mm.nii.gz", None),
}


def held_back(args: argparse.Namespace) -> dict[str, ArrayVolume]:
    """The test volumes in memory; Lung_Dx is halved in-plane, so that every variant runs in seconds."""
    volumes = {}
    for name, (file, region) in HELD_BACK.items():
        volume = open_volume(args.data_dir / file, args.work_dir / "cache")
        if region is None:
            volume = RegionView(volume, [(0, n) for n in volume.shape])
            values = volume.read([0] * 3, volume.shape).reshape(256, 2, 256, 2, 64).mean((1, 3))
            affine = volume.affine @ np.diag([2, 2, 1, 1])
        else:
            volume = RegionView(volume, region)
            values, affine = volume.read([0] * 3, volume.shape), volume.affine
        volumes[name] = ArrayVolume(np.rint(values).astype(np.int16), affine, slug(name))
    return volumes


def variant_of(name: str, args: argparse.Namespace) -> Variant:
    knobs = dict(VARIANTS[name])
    configs = ["train.yaml", "studies/quality_study.yaml", *([knobs.pop("overlay")] if "overlay" in knobs else [])]
    first = [] if "patch_baseline.yaml" in configs else ["studies/base_first.yaml"]
    return Variant(BUNDLE, configs, args.work_dir / slug(f"{name}_{args.seed}"), {**knobs, "seed": args.seed}, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tile_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    volumes = held_back(args)
    metrics = ReconstructionMetrics(WINDOW, args.tile_size, "squeezenet", patch=64, every=2)
    rows, pictures = [], {name: [Panel("truth", v)] for name, v in volumes.items()}
    for name in VARIANTS:
        variant = variant_of(name, args)
        # a cache of its own: its pyramids have the variant's number of scales
        variant.weights(args.steps, dataset_dir=args.data_dir, cache_dir=variant.folder / "cache")
        for case, volume in volumes.items():
            made = variant.render(volume, args.tile_size, args.seed)
            row = {"variant": name, "case": case, "steps": args.steps, **metrics(made, volume)}
            row["retile_discrepancy_hu"] = round(retiled(variant, made, volume, args.tile_size, args.seed))
            rows.append(row)
            pictures[case].append(Panel(name, made))
            print(json.dumps(row, default=str), flush=True)
    save_json(args.work_dir / "table.json", rows)
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(table(rows)))
    rows_of_picture = {f"{case}; {args.steps} steps each": panels for case, panels in pictures.items()}
    write_comparison(args.work_dir / "comparison.png", rows_of_picture, WINDOW)


def table(rows: list[dict]) -> str:
    """Markdown table of the study."""
    keys = {
        "MAE, HU": lambda r: f"{r['mae']:.1f}",
        "PSNR, dB": lambda r: f"{r['psnr']:.2f}",
        "SSIM": lambda r: f"{r['ssim']:.3f}",
        "spectrum, dB": lambda r: f"{r['spectral_distance']['value']:.2f}" if "spectral_distance" in r else "-",
        "kernel distance (SqueezeNet)": lambda r: _with_error(r["squeezenet_kernel_distance"]),
        "Frechet (SqueezeNet)": lambda r: f"{r['squeezenet_frechet_distance']['value']:.0f}",
        "seam_z": lambda r: f"{r['seam_z']['value']:.1f}",
        "retile, HU": lambda r: str(r["retile_discrepancy_hu"]),
    }
    ordered = sorted(rows, key=lambda r: list(HELD_BACK).index(r["case"]))
    lines = [[r["case"], r["variant"], *(figure(r) for figure in keys.values())] for r in ordered]
    return markdown(["case", "variant", *keys], lines)


def _with_error(figure: dict) -> str:
    spread = figure.get("standard_error", figure.get("stderr"))
    return f"{figure['value']:.1f}" + (f" +- {spread:.1f}" if spread is not None else "")


if __name__ == "__main__":
    main()
