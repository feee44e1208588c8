"""False positives and Dice of any weights on phantoms that no training saw, with a tumour and without.

    python scripts/studies/patchddm_brats/held_out.py --work_dir ./runs/held_out
    python scripts/studies/patchddm_brats/held_out.py --work_dir ./runs/before --weights_path former.pt

Prints, and writes as held_out.json, the false positive volume of each phantom without tumour, and Dice and HD95 of each
with one (a miss counts 373.13 mm), at every threshold, on the working grid. Phantoms are of `contrast: varied`, from
seed 6000 on without and from 6100 on with a tumour (test); development had 5000 and 5100. Other `--name value` pairs
are knobs of inference.yaml.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np
import torch
from hiresmed.datasets import brain_cases
from hiresmed.methods.patchddm.region_metrics import hausdorff_95

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, knobs_of, markdown, parsed, save_json

BUNDLE = BUNDLES / "patchddm_brats"
PHANTOM = {"shape": [88, 104, 80], "contrast": "varied", "look_alike": False}
THRESHOLDS = (0.3, 0.4, 0.5)


def scores(probability: torch.Tensor, label: torch.Tensor, spacing: float) -> dict:
    """False positive volume in ml at each threshold; where there is a tumour, its Dice and HD95 in mm, too."""
    found = {}
    for threshold in THRESHOLDS:
        result = probability > threshold
        row = {"false_positive_ml": float((result & ~label).sum()) * spacing**3 / 1000}
        if label.any():
            row["dice"] = float(2 * (result & label).sum() / (result.sum() + label.sum()))
            row["hd95"] = hausdorff_95(result[None, None].float(), label[None, None].float(), spacing)
        found[str(threshold)] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--first", type=int, default=6000, help="seed of the first phantom without tumour")
    parser.add_argument("--healthy", type=int, default=12, help="phantoms without tumour")
    parser.add_argument("--tumours", type=int, default=6, help="phantoms with a tumour, from first + 100 on")
    args, words = parser.parse_known_args()
    ends = [args.first, args.first + args.healthy - 1], [args.first + 100, args.first + 99 + args.tumours]
    listed = [{"phantoms": ends[0], "tumour": False, **PHANTOM}, {"phantoms": ends[1], **PHANTOM}]
    loading = parsed(BUNDLE, ["train.yaml"], {}).get_parsed_content("loading")
    inference = parsed(BUNDLE, ["inference.yaml"], {"bundle_root": str(BUNDLE), **knobs_of(words)})
    network, inferer = (inference.get_parsed_content(name) for name in ("network", "inferer"))
    spacing = float(inference.get_parsed_content("spacing"))
    found = {}
    for case in brain_cases(cases_list=listed):
        loaded = loading(case)
        with torch.no_grad():
            probability = torch.as_tensor(inferer(torch.as_tensor(loaded["image"])[None], network))[0, 0].cpu()
        found[str(case["name"])] = scores(probability, torch.as_tensor(loaded["label"])[0] > 0.5, spacing)
        print(case["name"], found[str(case["name"])], flush=True)
    save_json(args.work_dir / "held_out.json", found)
    rows = []
    for threshold in map(str, THRESHOLDS):
        healthy = [c[threshold]["false_positive_ml"] for c in found.values() if "dice" not in c[threshold]]
        ill = [c[threshold] for c in found.values() if "dice" in c[threshold]]
        means = [f"{np.mean(v):.2f}" for v in (healthy, [c["dice"] for c in ill], [c["hd95"] for c in ill])]
        rows.append([threshold, means[0], f"{max(healthy):.2f}", *means[1:]])
    print(markdown(["threshold", "false positive, ml", "largest", "Dice", "HD95, mm"], rows))


if __name__ == "__main__":
    main()
