"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/demo_weights
    python scripts/train_demo_weights.py msgan_xray2d --data_dir $HIRESMED_DATA/xray2d --work_dir ./runs/demo_xray
    python scripts/train_demo_weights.py inr_gan_multistage --data_dir $HIRESMED_DATA/xray2d --work_dir ./runs/demo_inr

A cascade has two runs, each with an end at a lower rate: the base stage alone with configs/demo_weights.yaml,
then the finer stages on that base with configs/demo_finer.yaml. A bundle without that file has one run, as its
configs/demo_weights.yaml says. The averaged weights go to models/model.pt, as fp16 those of cascades, with their
sha256. Resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib

import study
import torch
from study import BUNDLES, averaged_weights, knobs_of

FINER = "demo_finer.yaml"
END = "finetune.yaml"
END_RATE = 3.0e-4  # of either run's last epochs, instead of finetune.yaml's for the gentler train.yaml


def train(bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, folder: str, **knobs) -> pathlib.Path:
    """One run of the bundle's training; returns its folder."""
    options = {"dataset_dir": args.data_dir, "cache_dir": args.work_dir / "cache", **knobs}
    return study.train(bundle, ["train.yaml", "demo_weights.yaml", *overlays], args.work_dir / folder, **options)


def install(bundle: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    """A run's averaged weights as the bundle's fp16 model.pt, written aside, then renamed."""
    target = bundle / "models" / "model.pt"
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".tmp")
    # fp16 would move the frequencies of an implicit generator, whose few weights need no saving
    cascade = (bundle / "configs" / FINER).exists()
    torch.save({k: v.half() if cascade else v for k, v in averaged_weights(run).items()}, aside)
    os.replace(aside, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name("model.pt.sha256").write_text(f"{digest}  model.pt\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundle", choices=sorted(p.parents[1].name for p in BUNDLES.glob("*/configs/demo_weights.yaml"))
    )
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=4,
        default=[60, 70, 30, 40],
        help="of cascades, of 50 batches: base, its end, finer, its end",
    )
    parser.add_argument(
        "--install_from", type=pathlib.Path, help="only install the last checkpoint of this run's folder"
    )
    args, words = parser.parse_known_args()
    bundle = BUNDLES / args.bundle
    run = args.install_from
    if run is None and not (bundle / "configs" / FINER).exists():
        run = train(bundle, [], args, "run", **knobs_of(words))
    elif run is None:
        base_epochs, base_end, finer_epochs, finer_end = args.epochs
        train(bundle, [], args, "base", max_epochs=base_epochs)
        made = train(bundle, [END], args, "base", max_epochs=base_end, learning_rate=END_RATE)
        base = args.work_dir / "base.pt"
        torch.save(averaged_weights(made), base)
        train(bundle, [FINER], args, "finer", max_epochs=finer_epochs, warm_start=base)
        finer = {"max_epochs": finer_end, "warm_start": base, "learning_rate": END_RATE}
        run = train(bundle, [FINER, END], args, "finer", **finer)
    print(f"installed {install(bundle, run)}")


if __name__ == "__main__":
    main()
