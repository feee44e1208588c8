"""Where an ensemble's probability is best cut, on phantoms that no training of the shipped weights saw.

    python scripts/studies/patchddm_brats/calibrate_threshold.py --recipe paper --work_dir ./runs/threshold

Prints, and writes as threshold.json, the Dice of the whole tumour for each number of draws and each threshold, on every
phantom and in the mean; `threshold` of inference.yaml's recipes is where the mean of the most draws is highest. Other
`--name value` pairs are knobs of inference.yaml. Resumable: a phantom that is done is not drawn again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import torch
from hiresmed.datasets import brain_cases

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import BUNDLES, knobs_of, markdown, parsed, save_json

BUNDLE = BUNDLES / "patchddm_brats"
TRAINED_ON = ["train.yaml", "demo_phantoms.yaml", "demo_second.yaml"]
THRESHOLDS = [k / 20 for k in range(2, 14)]


def dice(found: torch.Tensor, label: torch.Tensor) -> float:
    return float(2 * (found & label).sum() / (found.sum() + label.sum()))


def scores(case: dict, loading, knobs: dict, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A phantom's draws (N, D, H, W), whose mean is cut at the threshold, and its tumour, on the working grid."""
    loaded = loading(dict(case))
    image, label = loaded["image"].as_tensor()[None], loaded["label"][0].as_tensor() > 0.5
    drawn = []
    for seed in range(draws):
        parser = parsed(
            BUNDLE, ["inference.yaml"], {**knobs, "bundle_root": str(BUNDLE), "num_samples": 1, "seed": seed}
        )
        with torch.no_grad():
            diffusion, network = (parser.get_parsed_content(name) for name in ("diffusion", "network"))
            drawn.append(diffusion.sample(image, network).mean[0, 0].cpu())
    low, high = parser.get_parsed_content("label_range")
    return (torch.stack(drawn) - low) / (high - low), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--recipe", choices=("fast", "paper"), default="paper")
    parser.add_argument("--phantoms", type=int, default=4)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 3, 7])
    args, words = parser.parse_known_args()
    knobs = {"recipe": args.recipe, **knobs_of(words)}
    training = parsed(BUNDLE, TRAINED_ON, {})
    cases = brain_cases(section="test", phantoms=args.phantoms, phantom=training.get_parsed_content("phantom"))
    path = args.work_dir / "threshold.json"
    asked = {**knobs, "draws": args.draws}
    kept = json.loads(path.read_text()) if path.exists() else {"asked": asked, "phantoms": []}
    if kept["asked"] != asked:
        sys.exit(f"error: {path} must hold figures of {asked}, got those of {kept['asked']}; take another folder.")
    found = kept["phantoms"]
    for case in cases[len(found) :]:
        drawn, label = scores(case, training.get_parsed_content("loading"), knobs, max(args.draws))
        means = {str(n): drawn[:n].mean(0) for n in args.draws}
        found.append({n: {str(t): dice(mean > t, label) for t in THRESHOLDS} for n, mean in means.items()})
        save_json(path, kept)
    for n in map(str, args.draws):
        rows = [[str(t), *(f"{f[n][str(t)]:.3f}" for f in found)] for t in THRESHOLDS]
        rows = [[*row, f"{sum(f[n][row[0]] for f in found) / len(found):.3f}"] for row in rows]
        print(f"\n{n} draws\n\n" + markdown(["threshold", *(f"phantom {k}" for k in range(len(found))), "mean"], rows))


if __name__ == "__main__":
    main()
