"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/demo_weights

Trains with configs/demo_weights.yaml on real coarse images, goes on with configs/finetune.yaml on generated ones, and
writes the averaged weights as fp16 to models/model.pt with their sha256. Resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys

import torch

BUNDLES = pathlib.Path(__file__).resolve().parents[1] / "bundles"


def train(bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, epochs: int) -> None:
    configs = [str(bundle / "configs" / name) for name in ("train.yaml", "demo_weights.yaml", *overlays)]
    options = {
        "bundle_root": bundle,
        "dataset_dir": args.data_dir,
        "output_dir": args.work_dir,
        "cache_dir": args.work_dir / "cache",
        "iterations": 50,
        "batch_size": 1,
        "val_interval": 10,
        "max_epochs": epochs,
        "resume": "true",
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs)]
    subprocess.run([*command, *[str(p) for k, v in options.items() for p in (f"--{k}", v)]], check=True)


def install(bundle: pathlib.Path, work_dir: pathlib.Path) -> pathlib.Path:
    """The averaged generator of the last checkpoint as fp16, written aside, then renamed."""
    state = torch.load(work_dir / "checkpoints" / "latest.pt", map_location="cpu", weights_only=True)["objects"]["ema"]
    flat = {k.removeprefix("module."): v.half() for k, v in state.items() if k.startswith("module.")}
    target = bundle / "models" / "model.pt"
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".tmp")
    torch.save(flat, aside)
    os.replace(aside, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name("model.pt.sha256").write_text(f"{digest}  model.pt\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=45, help="of 50 batches, on real coarse images")
    parser.add_argument("--finetune_epochs", type=int, default=30, help="of 50 batches, half of them on generated ones")
    parser.add_argument("--install_only", action="store_true", help="install the last checkpoint of --work_dir")
    args = parser.parse_args()
    bundle = BUNDLES / args.bundle
    if not args.install_only:
        train(bundle, [], args, args.epochs)
        train(bundle, ["finetune.yaml"], args, args.epochs + args.finetune_epochs)
    print(f"installed {install(bundle, args.work_dir)}")


if __name__ == "__main__":
    main()
