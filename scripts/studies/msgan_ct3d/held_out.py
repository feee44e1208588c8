"""Scans of patients that no weights of msgan_ct3d were trained on: what is right and what is not, weights by weights.

    python scripts/studies/msgan_ct3d/held_out.py --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/held_out \\
        --weights bundles/msgan_ct3d/models/model.pt ./runs/new/model.pt

Each scan is rendered from its own sketch, whole and as a crop from inside the body (a part of the case, which does not
end in air). Written into --work_dir: table.json, table.md, comparison.png (truth, then each of the weights). Without
--data_dir on phantoms.

mae: HU, both clipped to -1024 to 1024. Tissues: the mean HU where the truth's is in a band (lung, soft, bone).
grain: standard deviation of what a mean over 3^3 voxels takes away, where the truth is soft tissue all around, over the
truth's own; 1 is a CT's.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.io import open_volume
from hiresmed.phantoms import ThoraxPhantom
from hiresmed.reports.preview import Panel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, Cascade, markdown, save_aside, save_json, slug, write_comparison

BUNDLE = BUNDLES / "msgan_ct3d"
WINDOW = (-1024.0, 1024.0)
SHOWN = (-1000.0, 600.0)
BANDS = {"lung": (-950.0, -700.0), "soft": (-50.0, 100.0), "bone": (250.0, 1024.0)}  # HU of the truth
SCANS = {"Lung_Dx-A0001": "Lung_Dx-A0001_s3_5mm.nii.gz", "LIDC-IDRI-0001": "LIDC-IDRI-0001_dicom"}
PHANTOMS = {"phantom 90": 90, "phantom 91": 91}
CROP = (0.3, 0.7)  # of each axis, but all of a short one
SHORT = 48  # voxels


def scans(data_dir: pathlib.Path | None, work_dir: pathlib.Path, size: int) -> dict[str, ArrayVolume]:
    """The held-out scans in memory, int16 HU."""
    if data_dir is None:
        volumes: dict[str, Volume] = {name: ThoraxPhantom([size] * 3, seed=seed) for name, seed in PHANTOMS.items()}
    else:
        volumes = {name: open_volume(data_dir / file, work_dir / "cache") for name, file in SCANS.items()}
    return {name: in_memory(volume, [(0, n) for n in volume.shape]) for name, volume in volumes.items()}


def in_memory(volume: Volume, box) -> ArrayVolume:
    """A box of a volume, clipped to the window, int16."""
    values = np.asarray(volume.read([a for a, _ in box], [b - a for a, b in box]), np.float32)
    return ArrayVolume(np.rint(values.clip(*WINDOW)).astype(np.int16), volume.affine, slug(volume.name))


def inside(volume: ArrayVolume) -> ArrayVolume:
    """The middle of a scan, which has no air around."""
    box = [(0, n) if n <= SHORT else (int(CROP[0] * n), int(CROP[1] * n)) for n in volume.shape]
    return in_memory(volume, box)


def figures(result: np.ndarray, truth: np.ndarray) -> dict:
    """mae, tissues and grain of (D, H, W) in HU; a band of fewer than 100 voxels has none."""
    result, truth = (np.asarray(v, np.float32).clip(*WINDOW) for v in (result, truth))
    found: dict = {"mae": float(np.abs(result - truth).mean())}
    for name, (low, high) in BANDS.items():
        where = (truth > low) & (truth < high)
        known = where.sum() >= 100
        found[name] = {"truth": float(truth[where].mean()), "result": float(result[where].mean())} if known else None
    where = soft_all_around(truth)
    found["grain"] = float(high_pass(result)[where].std() / high_pass(truth)[where].std()) if where.any() else None
    return found


def soft_all_around(truth: np.ndarray) -> np.ndarray:
    """Whether all of a voxel's 3^3 neighbourhood is soft tissue or its noise."""
    low, high = BANDS["soft"]
    other = torch.from_numpy(((truth < low - 100) | (truth > high + 100)).astype(np.float32))
    soft = torch.from_numpy(truth).sub((low + high) / 2).abs() < (high - low) / 2
    return ((F.max_pool3d(other[None, None], 3, 1, 1)[0, 0] == 0) & soft).numpy()


def high_pass(image: np.ndarray) -> np.ndarray:
    """What the mean over 3^3 voxels takes away."""
    padded = F.pad(torch.from_numpy(image)[None, None], [1] * 6, mode="replicate")
    return image - F.avg_pool3d(padded, 3, 1)[0, 0].numpy()


def table(rows: list[dict]) -> str:
    """Markdown: a line per scan, part and weights."""

    def tissue(row: dict, name: str) -> str:
        return "-" if row[name] is None else f"{row[name]['truth']:.0f} -> {row[name]['result']:.0f}"

    lines = [
        [row["scan"], row["part"], row["weights"], f"{row['mae']:.0f}", *(tissue(row, name) for name in BANDS)]
        + ["-" if row["grain"] is None else f"{row['grain']:.2f}"]
        for row in rows
    ]
    return markdown(["scan", "part", "weights", "MAE, HU", *(f"{name}, HU" for name in BANDS), "grain"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, help="folder of the scans; without it phantoms")
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, nargs="+", default=[BUNDLE / "models" / "model.pt"])
    parser.add_argument("--tile_size", type=int, default=128)
    parser.add_argument("--phantom_size", type=int, default=96, help="voxels a side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    cascades = {str(path): Cascade(BUNDLE, path, tile_size=args.tile_size) for path in args.weights}
    rows, pictures = [], {}
    for scan, whole in scans(args.data_dir, args.work_dir, args.phantom_size).items():
        for part, truth in (("whole", whole), ("crop", inside(whole))):
            panels = [Panel("truth", truth)]
            for weights, cascade in cascades.items():
                made = cascade.render({"image": truth}, seed=args.seed)
                row = {"scan": scan, "part": part, "weights": weights, **figures(made.array, truth.array)}
                rows.append(row)
                panels.append(Panel(weights[-24:], made))
                print(json.dumps(row), flush=True)
            pictures[f"{scan}, {part}"] = panels
    save_json(args.work_dir / "table.json", rows)
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(table(rows)))
    write_comparison(args.work_dir / "comparison.png", pictures, SHOWN)


if __name__ == "__main__":
    main()
