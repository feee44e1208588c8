"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/demo_weights
    python scripts/train_demo_weights.py msgan_xray2d --data_dir $HIRESMED_DATA/xray2d --work_dir ./runs/demo_xray
    python scripts/train_demo_weights.py patchddm_brats --work_dir ./runs/demo_brats

A cascade takes two runs, each with an end at a lower rate: the base stage alone with configs/demo_weights.yaml,
then the finer stages on that base with configs/demo_finer.yaml. The others take one, with such an end, on phantoms if
no --data_dir is given. The averaged weights go to models/model.pt as fp16, with their sha256. Resumable: run the same
command again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib

import study
import torch
from study import BUNDLES, averaged_weights

FINER = "demo_finer.yaml"
END = "finetune.yaml"
END_RATE = 3.0e-4  # of either run's last epochs, instead of finetune.yaml's for the gentler train.yaml
NETWORK_END_RATE = 1.0e-4


def train(bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, folder: str, **knobs) -> pathlib.Path:
    """One run of the bundle's training; returns its folder."""
    options = {"cache_dir": args.work_dir.resolve() / "cache", **knobs}
    if args.data_dir is not None:
        options["dataset_dir"] = args.data_dir
    return study.train(bundle, ["train.yaml", "demo_weights.yaml", *overlays], args.work_dir / folder, **options)


def install(bundle: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    """A run's averaged weights as the bundle's fp16 model.pt, written aside, then renamed."""
    target = bundle / "models" / "model.pt"
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".tmp")
    torch.save({k: v.half() for k, v in averaged_weights(run).items()}, aside)
    os.replace(aside, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name("model.pt.sha256").write_text(f"{digest}  model.pt\n")
    return target


def train_cascade(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """Base and its end, finer stages and their end; returns the last run's folder."""
    base_epochs, base_end, finer_epochs, finer_end = args.epochs or [60, 70, 30, 40]
    train(bundle, [], args, "base", max_epochs=base_epochs)
    made = train(bundle, [END], args, "base", max_epochs=base_end, learning_rate=END_RATE)
    base = args.work_dir / "base.pt"
    torch.save(averaged_weights(made), base)
    train(bundle, [FINER], args, "finer", max_epochs=finer_epochs, warm_start=base)
    finer = {"max_epochs": finer_end, "warm_start": base, "learning_rate": END_RATE}
    return train(bundle, [FINER, END], args, "finer", **finer)


def train_network(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """One network and its end; returns the run's folder."""
    epochs, end = args.epochs or [30, 40]
    train(bundle, [], args, "network", max_epochs=epochs)
    return train(bundle, [], args, "network", max_epochs=end, learning_rate=NETWORK_END_RATE, resume_rates="configured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundle", choices=sorted(p.parents[1].name for p in BUNDLES.glob("*/configs/demo_weights.yaml"))
    )
    parser.add_argument("--data_dir", type=pathlib.Path)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--epochs", type=int, nargs="+", help="of 50 batches: base, its end, finer, its end; or: training, its end"
    )
    parser.add_argument(
        "--install_from", type=pathlib.Path, help="only install the last checkpoint of this run's folder"
    )
    args = parser.parse_args()
    bundle = BUNDLES / args.bundle
    cascade = (bundle / "configs" / FINER).exists()
    if cascade and args.data_dir is None and args.install_from is None:
        parser.error(f"{args.bundle} is trained on images: name their folder as --data_dir")
    if args.epochs is not None and len(args.epochs) != (4 if cascade else 2):
        parser.error(f"--epochs should be {4 if cascade else 2} numbers for {args.bundle}, but is {args.epochs}")
    run = args.install_from or (train_cascade if cascade else train_network)(bundle, args)
    print(f"installed {install(bundle, run)}")


if __name__ == "__main__":
    main()
