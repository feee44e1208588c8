"""The quality study of msgan_ct3d: cascade against single-scale patches, scales, adversarial weight; held-back CT.

    python scripts/quality_msgan_ct3d.py --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/quality --steps 600

Trains each variant for the same number of steps on the same CTs, renders the held-back volumes from their own sketches,
and writes table.json, table.md and comparison.png into --work_dir. Resumable: a variant that is trained or scored is
not done again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import torch
from hiresmed.data import MemoryStores, open_volume
from hiresmed.inferers import CascadeInferer
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.preview import Panel, write_preview
from hiresmed.transforms import GradientSketch
from hiresmed.views import RegionView
from hiresmed.volumes import ArrayVolume
from hiresmed.weights import load_weights
from monai.bundle import ConfigParser

BUNDLE = pathlib.Path(__file__).resolve().parents[1] / "bundles" / "msgan_ct3d"
WINDOW = (-1000.0, 600.0)
VARIANTS = {
    "cascade, 3 scales": {"base_size": 64, "base_patch": 48},
    "cascade, 3 scales, adversarial weight 0": {"base_size": 64, "base_patch": 48, "adversarial_weight": 0.0},
    "cascade, 2 scales": {"base_size": 128, "base_patch": 48},
    "single-scale patches (1 scale)": {"overlay": "patch_baseline.yaml"},
}
HELD_BACK = {
    "LIDC-IDRI-0314, 2 mm, caudal third": ("LIDC-IDRI-0314_iso2mm.nii.gz", [[0, 201], [0, 201], [0, 46]]),
    "Lung_Dx-A0001, 5 mm slices, every other column": ("Lung_Dx-A0001_s3_5mm.nii.gz", None),
}


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def train(name: str, knobs: dict, args: argparse.Namespace) -> pathlib.Path:
    """Train one variant through the front door; returns its weights (the average of the last steps)."""
    folder = args.work_dir / slug(f"{name}_{args.seed}")
    weights = folder / "final.pt"
    if weights.exists():
        return weights
    knobs = dict(knobs)
    configs = ["train.yaml", "quality_study.yaml", *([knobs.pop("overlay")] if "overlay" in knobs else [])]
    options = {
        "output_dir": folder,
        "dataset_dir": args.data_dir,
        "cache_dir": args.work_dir / "cache",
        "resume": "true",
    }
    options |= {"iterations": 50, "max_epochs": args.steps // 50, "seed": args.seed, **knobs}
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", BUNDLE]
    command += ["--config_file", str([str(BUNDLE / "configs" / c) for c in configs])]
    begun = time.time()
    subprocess.run([*map(str, command), *[str(p) for k, v in options.items() for p in (f"--{k}", v)]], check=True)
    state = torch.load(folder / "checkpoints" / "latest.pt", map_location="cpu", weights_only=True)["objects"]["ema"]
    flat = {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}
    (folder / "seconds.txt").write_text(f"{time.time() - begun:.0f}")
    torch.save(flat, weights)
    return weights


def network_of(knobs: dict) -> torch.nn.Module:
    """The variant's generator, as its configs define it."""
    files = ["train.yaml", "quality_study.yaml", *([knobs["overlay"]] if "overlay" in knobs else [])]
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f) for f in files])
    return parser.get_parsed_content("network_def")


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


def render(network, volume: ArrayVolume, knobs: dict, tile: int, seed: int):
    base = 10**6 if "overlay" in knobs else knobs["base_size"]
    inferer = CascadeInferer(
        GradientSketch(), MemoryStores(None), tile_size=tile, base_size=base, seed=seed, progress=False
    )
    return inferer({"image": volume}, network)


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
    for variant, knobs in VARIANTS.items():
        weights = train(variant, knobs, args)
        network = load_weights(network_of(knobs), weights)
        for case, volume in volumes.items():
            made = render(network, volume, knobs, args.tile_size, args.seed)
            row = {"variant": variant, "case": case, "steps": args.steps, **metrics(made.image, volume)}
            other = render(network, volume, knobs, args.tile_size + 32, args.seed)
            difference = np.abs(other.image.array.astype(int) - made.image.array.astype(int))
            row["retile_discrepancy_hu"] = int(difference.max())
            rows.append(row)
            pictures[case].append(Panel(variant, made.image))
            print(json.dumps(row, default=str), flush=True)
    (args.work_dir / "table.json").write_text(json.dumps(rows, indent=2, default=str))
    (args.work_dir / "table.md").write_text(table(rows))
    for case, panels in pictures.items():
        write_preview(
            args.work_dir / f"comparison_{slug(case)}.png", panels, WINDOW, f"{case}; {args.steps} steps each"
        )


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
    lines = ["| case | variant | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 2)]
    for r in rows:
        lines.append(f"| {r['case']} | {r['variant']} | " + " | ".join(f(r) for f in keys.values()) + " |")
    return "\n".join(lines) + "\n"


def _with_error(figure: dict) -> str:
    spread = figure.get("standard_error", figure.get("stderr"))
    return f"{figure['value']:.1f}" + (f" +- {spread:.1f}" if spread is not None else "")


if __name__ == "__main__":
    main()
