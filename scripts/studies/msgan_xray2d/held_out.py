"""X-rays of patients that no weights of msgan_xray2d were trained on: texture and fidelity, weights by weights.

    python scripts/studies/msgan_xray2d/held_out.py --data_dir $HIRESMED_DATA --work_dir ./runs/held_out \\
        --weights bundles/msgan_xray2d/models/model.pt ./runs/new/model.pt

--data_dir holds training/xray_nih_512.tar (every tenth of its patients, in order, is a test patient: 0, 10, 20 ...; the
fifth after each is for development) and xray2d/hannover_*.jpg (the last six patients by name are test patients). Each
image is rendered from its own sketch; written into --work_dir: table.json, table.md, comparison_SET.png. Without
--data_dir on phantoms.

mae: per cent of the image's robust window. Kernel distance: of crops of all images of a set. Spectrum: dB, the mean.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import sys
import tarfile
from collections.abc import Mapping

import numpy as np
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.windows import WindowedView, robust_window
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.phantoms import ChestXrayPhantom
from hiresmed.reports.preview import Panel
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, Cascade, markdown, save_aside, save_json, slug, write_comparison

BUNDLE = BUNDLES / "msgan_xray2d"
WINDOW = (0.0, 65535.0)
CROP = 64  # pixels a side of what the feature network sees
SECTIONS = {"test": 0, "development": 5}  # number modulo ten of their patients
HANNOVER = 6  # test patients
SHOWN = 3  # images of a set in the picture


def nih_section(names: list[str], section: str) -> list[str]:
    """The files (finding_PATIENT_NNN.jpg) of a section's patients, in order.

    >>> nih_section([f"a_{n:02d}_0.jpg" for n in range(12)], "test")
    ['a_00_0.jpg', 'a_10_0.jpg']
    """
    patients = sorted({name.split("_")[1] for name in names})
    chosen = {p for n, p in enumerate(patients) if n % 10 == SECTIONS[section]}
    return sorted((n for n in names if n.split("_")[1] in chosen), key=lambda name: name.split("_")[1:])


def sets(args: argparse.Namespace) -> dict[str, list[ArrayVolume]]:
    """Held-out images by collection, each through its robust window."""
    if args.data_dir is None:
        phantom = ChestXrayPhantom([args.phantom_size] * 2, seed=90)
        return {"phantom": [windowed(np.asarray(phantom.read((0, 0), phantom.shape)), "phantom_90")]}
    images: dict[str, list[ArrayVolume]] = {"NIH": [], "Hannover": []}
    with tarfile.open(args.data_dir / "training" / "xray_nih_512.tar") as packed:
        members = {member.name.rpartition("/")[2]: member for member in packed if member.name.endswith(".jpg")}
        for name in nih_section(list(members), args.section)[: args.count]:
            images["NIH"].append(windowed(grey(packed.extractfile(members[name]).read()), name))
    if args.section == "test":
        for path in sorted((args.data_dir / "xray2d").glob("hannover_*.jpg"))[-HANNOVER:]:
            images["Hannover"].append(windowed(grey(path.read_bytes(), args.size), path.name))
    return {name: some for name, some in images.items() if some}


def grey(data: bytes, size: int = 0) -> np.ndarray:
    """A JPEG's grey values, with `size` at most that many pixels a side."""
    image = Image.open(io.BytesIO(data)).convert("L")
    if size:
        image.thumbnail((size, size), Image.LANCZOS)
    return np.asarray(image)


def windowed(values: np.ndarray, name: str) -> ArrayVolume:
    """As training and inference see it: uint16 between its robust percentiles."""
    volume = ArrayVolume(values, name=pathlib.Path(name).stem)
    view = WindowedView(volume, robust_window(volume))
    return ArrayVolume(view.read((0, 0), view.shape), volume.affine, volume.name)


def scores(results: list[ArrayVolume], truths: list[ArrayVolume], metrics: ReconstructionMetrics) -> dict:
    """The figures of one set."""
    each = [metrics_of_one(r, t, metrics) for r, t in zip(results, truths)]
    distances = metrics.feature_distances(results, truths) if metrics.extractor is not None else {}
    kernel = next((v["value"] for k, v in distances.items() if k.endswith("kernel_distance")), None)
    means = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    return {"n": len(each), **means, "kernel_distance": kernel}


def metrics_of_one(result: ArrayVolume, truth: ArrayVolume, metrics: ReconstructionMetrics) -> dict:
    plain = ReconstructionMetrics(metrics.window, metrics.tile_size, "none")(result, truth)
    return {
        "mae": 100 * plain["mae"] / (WINDOW[1] - WINDOW[0]),
        "ssim": plain["ssim"],
        "spectrum": plain["spectral_distance"]["value"],
    }


def table(rows: list[Mapping]) -> str:
    """Markdown: a line per set and weights."""
    digits = {"mae": 2, "ssim": 3, "spectrum": 2, "kernel_distance": 1}
    lines = [
        [row["set"], row["weights"], str(row["n"])]
        + ["-" if row[name] is None else f"{row[name]:.{d}f}" for name, d in digits.items()]
        for row in rows
    ]
    return markdown(["set", "weights", "n", "MAE, %", "SSIM", "spectrum, dB", "kernel distance"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, help="folder of the collections; without it a phantom")
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, nargs="+", default=[BUNDLE / "models" / "model.pt"])
    parser.add_argument("--section", choices=SECTIONS, default="test")
    parser.add_argument("--count", type=int, default=40, help="NIH images at most")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a Hannover image's longer side")
    parser.add_argument("--tile_size", type=int, default=256)
    parser.add_argument("--phantom_size", type=int, default=256, help="pixels a side")
    parser.add_argument("--extractor", default="squeezenet", help="feature network; none for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    metrics = ReconstructionMetrics(WINDOW, args.tile_size, args.extractor, patch=CROP, every=1)
    truths = sets(args)
    panels = {name: {t.name: [Panel("truth", t)] for t in some[:SHOWN]} for name, some in truths.items()}
    rows = []
    for path in args.weights:
        cascade = Cascade(BUNDLE, path, tile_size=args.tile_size)
        for name, some in truths.items():
            made = [cascade.render({"image": truth}, seed=args.seed) for truth in some]
            rows.append({"set": name, "weights": str(path), **scores(made, some, metrics)})
            for result, truth in list(zip(made, some))[:SHOWN]:
                panels[name][truth.name].append(Panel(str(path)[-24:], result))
            print(json.dumps(rows[-1]), flush=True)
    save_json(args.work_dir / "table.json", rows)
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(table(rows)))
    for name, pictures in panels.items():
        write_comparison(args.work_dir / f"comparison_{slug(name)}.png", pictures, WINDOW)


if __name__ == "__main__":
    main()
