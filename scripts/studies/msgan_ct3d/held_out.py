"""Scans of patients that no weights of msgan_ct3d were trained on: what is right and what is not, weights by weights.

    python scripts/studies/msgan_ct3d/held_out.py --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/held_out \\
        --weights bundles/msgan_ct3d/models/model.pt ./runs/new/model.pt

Each scan is rendered from its own sketch, whole and as a crop from inside the body (a part of the case, which does not
end in air). With --tasks inpainting super_resolution they are judged, too. Written into --work_dir: table.json,
table.md, comparison.png (truth, then each of the weights). Without --data_dir on phantoms.

mae: HU, both clipped to -1024 to 1024. Tissues: the mean HU where the truth's is in a band (lung, soft, bone).
grain: standard deviation of what a mean over 3^3 voxels takes away, where the truth is soft tissue all around, over the
truth's own; 1 is a CT's.
inpainting: five balls of 20 mm radius (heart, both lungs, chest wall, spine); MAE inside them, against the mean of each
one's border. super_resolution: of the middle, block means of 2^3 voxels enlarged again; MAE against cubic splines', and
the largest difference between the result's block means and what came.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from hiresmed.core.pyramids import level_affine
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.io import open_volume
from hiresmed.phantoms import ThoraxPhantom
from hiresmed.reports.preview import Panel
from scipy import ndimage

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
BALL = 20.0  # mm, radius of what is inpainted
BALLS = ((0.5, 0.6), (0.3, 0.5), (0.7, 0.5), (0.22, 0.4), (0.5, 0.25))  # places in the axial plane, of a RAS+ scan
ENLARGED = 192  # voxels a side of what super-resolution is to make, at most
TASKS = ("rendering", "inpainting", "super_resolution")


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


def balls(volume: ArrayVolume) -> np.ndarray:
    """Numbers 1, 2 ... inside the balls, 0 elsewhere; the scan's axes run right (or left), forward (or back) and up."""
    direction = np.sign(np.diag(volume.affine)[:2])
    at = np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij", sparse=True)
    numbers = np.zeros(volume.shape, np.uint8)
    for number, place in enumerate(BALLS, start=1):
        share = [p if d > 0 else 1 - p for p, d in zip(place, direction)] + [0.5]
        parts = [((i - p * n) * mm / BALL) ** 2 for i, p, n, mm in zip(at, share, volume.shape, volume.spacing)]
        numbers[sum(parts) < 1] = number
    return numbers


def inpainted(cascade: Cascade, truth: ArrayVolume, seed: int) -> tuple[dict, list[Panel]]:
    """MAE inside the balls, of the cascade and of the mean of each ball's border."""
    numbers = balls(truth)
    mask = ArrayVolume((numbers > 0).astype(np.uint8), truth.affine, "mask")
    made = cascade.render({"image": truth, "mask": mask}, ["inpaint.yaml"], seed=seed)
    errors, plain = [], []
    for number in range(1, len(BALLS) + 1):
        inside = numbers == number
        border = ndimage.binary_dilation(inside, iterations=2) & (numbers == 0)
        errors.append(np.abs(made.array[inside].astype(float) - truth.array[inside]))
        plain.append(np.abs(truth.array[border].mean() - truth.array[inside].astype(float)))
    row = {"mae": float(np.concatenate(errors).mean()), "border_mean": float(np.concatenate(plain).mean())}
    hidden = ArrayVolume(np.where(numbers > 0, int(WINDOW[0]), truth.array), truth.affine, truth.name)
    return row, [Panel("masked", hidden), Panel("inpainted", made)]


def enlarged(cascade: Cascade, whole: ArrayVolume, seed: int) -> tuple[dict, list[Panel]]:
    """MAE of super-resolution by 2 and of cubic splines, and how far block means are from the small image's."""
    sizes = [min(ENLARGED, n) // 2 * 2 for n in whole.shape]
    truth = in_memory(whole, [((n - m) // 2, (n - m) // 2 + m) for n, m in zip(whole.shape, sizes)])
    small = np.rint(block_means(truth.array)).astype(np.int16)
    given = ArrayVolume(small, level_affine(truth.affine, [2] * 3), truth.name)
    made = cascade.render({"image": given}, ["super_resolution.yaml"], size=sizes, seed=seed)
    cubic = ndimage.zoom(small.astype(float), 2, order=3, mode="nearest", grid_mode=True).clip(*WINDOW)
    row = {"mae": float(np.abs(made.array.astype(float) - truth.array).mean())}
    row["cubic"] = float(np.abs(cubic - truth.array).mean())
    row["block_means_off"] = float(np.abs(block_means(made.array) - small).max())
    pictures = [Panel("truth", truth), Panel("cubic", ArrayVolume(cubic.astype(np.int16), truth.affine))]
    return row, [*pictures, Panel("super-resolution", made)]


def block_means(array: np.ndarray) -> np.ndarray:
    """Of 2^3 voxels each."""
    return array.astype(float).reshape([n for side in array.shape for n in (side // 2, 2)]).mean((1, 3, 5))


def table(rows: list[dict]) -> str:
    """Markdown: a line per scan, part and weights."""

    def tissue(row: dict, name: str) -> str:
        return "-" if row[name] is None else f"{row[name]['truth']:.0f} -> {row[name]['result']:.0f}"

    lines = [
        [row["scan"], row["part"], row["weights"], f"{row['mae']:.0f}", *(tissue(row, name) for name in BANDS)]
        + ["-" if row["grain"] is None else f"{row['grain']:.2f}"]
        for row in rows
        if row["part"] in ("whole", "crop")
    ]
    text = markdown(["scan", "part", "weights", "MAE, HU", *(f"{name}, HU" for name in BANDS), "grain"], lines)
    for task, other in (("inpainting", "border_mean"), ("super_resolution", "cubic")):
        some = [row for row in rows if row["part"] == task]
        lines = [[row["scan"], row["weights"], f"{row['mae']:.1f}", f"{row[other]:.1f}"] for row in some]
        if lines:
            text += f"\n{task}\n\n" + markdown(["scan", "weights", "MAE, HU", f"{other}, HU"], lines)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, help="folder of the scans; without it phantoms")
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, nargs="+", default=[BUNDLE / "models" / "model.pt"])
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=["rendering"])
    parser.add_argument("--tile_size", type=int, default=128)
    parser.add_argument("--phantom_size", type=int, default=96, help="voxels a side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    cascades = {str(path): Cascade(BUNDLE, path, tile_size=args.tile_size) for path in args.weights}
    rows, pictures = [], {}
    for scan, whole in scans(args.data_dir, args.work_dir, args.phantom_size).items():
        for task, judge in (("inpainting", inpainted), ("super_resolution", enlarged)):
            for weights, cascade in cascades.items() if task in args.tasks else ():
                row, panels = judge(cascade, whole, args.seed)
                rows.append({"scan": scan, "part": task, "weights": weights, **row})
                print(json.dumps(rows[-1]), flush=True)
                pictures[f"{scan}, {task}, {weights[-24:]}"] = panels
        for part, truth in (("whole", whole), ("crop", inside(whole))) if "rendering" in args.tasks else ():
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
