"""The paper's table on BraTS 2020, for whoever holds the data: Dice and HD95 with intervals over patients.

    python scripts/studies/patchddm_brats/brats2020.py --dataset_dir /data/MICCAI_BraTS2020_TrainingData \
        --work_dir ./runs/brats2020 --weights_path ./runs/paper/model.pt --overlays paper_inference.yaml

Segments the test section of the authors' split (Bieder et al. 2023) by one draw and by an ensemble, evaluates each, and
writes table.md and table.json: the mean over patients, its 95 % interval by a bootstrap over patients (BCa, scipy's),
beside the paper's Dice .888 and HD95 9.04 mm, ensemble .899. A miss counts with an HD95 of 373.13 mm, as BraTS charges
it. Without --weights_path the shipped weights are judged; of the TCGA patients among BraTS's they have seen one,
TCGA-FG-6692. Resumable; other `--name value` pairs are knobs of inference.yaml. Hardware: by the weights, and not
measured; the paper's work on whole volumes of 256^3 at 1 mm.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np
from scipy import stats

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, markdown, run_bundle, save_aside, save_json

BUNDLE = BUNDLES / "patchddm_brats"
PAPER = {"1": {"dice": ".888", "hd95": "9.04"}, "ensemble": {"dice": ".899", "hd95": "not given"}}
FIGURES = {"dice": 3, "hd95": 2}


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over patients (n,), by 9,999 resamplings of patients; the value where all agree."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap((values,), np.mean, confidence_level=0.95, random_state=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summary(cases: Mapping[str, Mapping]) -> dict:
    """Mean and interval of the whole tumour's Dice and HD95; numbers of patients and misses."""
    row: dict = {"n": len(cases), "misses": int(sum(case["missed_WT"] for case in cases.values()))}
    for figure in FIGURES:
        values = np.array([case[f"{figure}_WT"] for case in cases.values()], dtype=float)
        row[figure] = {"mean": float(values.mean()), "interval": interval(values) if len(values) > 1 else None}
    return row


def table(rows: Mapping[str, Mapping]) -> str:
    """The table in Markdown, the paper's numbers beside ours."""
    lines = []
    for draws, row in rows.items():
        cells = []
        for figure, digits in FIGURES.items():
            limits = row[figure]["interval"]
            spread = f" [{limits[0]:.{digits}f}, {limits[1]:.{digits}f}]" if limits else ""
            cells += [f"{row[figure]['mean']:.{digits}f}{spread}", PAPER["1" if draws == "1" else "ensemble"][figure]]
        lines.append([draws, str(row["n"]), str(row["misses"]), *cells])
    header = ["draws", "patients", "misses", "Dice [95 %]", "paper's Dice", "HD95, mm [95 %]", "paper's HD95"]
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset_dir", required=True, help="the training data of BraTS 2020, of which 10 % are the test section"
    )
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--overlays", nargs="*", default=[], help="of inference.yaml, e.g. paper_inference.yaml")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--section", default="test")
    args, words = parser.parse_known_args()
    knobs = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2]))
    rows = {}
    for draws in args.draws:
        folder = args.work_dir / f"draws_{draws}"
        knobs |= {"dataset_dir": args.dataset_dir, "section": args.section, "num_samples": draws, "resume": "true"}
        configs = ["inference.yaml", *args.overlays, "evaluate.yaml"]
        run_bundle(BUNDLE, configs, folder, **knobs)
        rows[str(draws)] = summary(json.loads((folder / "metrics.json").read_text())["cases"])
    save_json(args.work_dir / "table.json", rows)
    text = table(rows)
    save_aside(args.work_dir / "table.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
