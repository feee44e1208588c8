"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/demo_weights

Two runs: all stages together with configs/demo_weights.yaml, of which the base stage is kept; then the finer stages
anew on that base with configs/demo_finer.yaml. The averaged weights go to models/model.pt as fp16, with their sha256.
Resumable: run the same command again.
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


def train(bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, folder: str, **knobs) -> pathlib.Path:
    """One run of the bundle's training; returns its folder."""
    configs = [str(bundle / "configs" / name) for name in ("train.yaml", "demo_weights.yaml", *overlays)]
    options = {
        "bundle_root": bundle,
        "dataset_dir": args.data_dir,
        "output_dir": args.work_dir / folder,
        "cache_dir": args.work_dir / "cache",
        "iterations": 50,
        "batch_size": 1,
        "val_interval": 30,
        "resume": "true",
        **knobs,
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs)]
    subprocess.run([*command, *[str(p) for k, v in options.items() for p in (f"--{k}", v)]], check=True)
    return args.work_dir / folder


def averaged_weights(run: pathlib.Path) -> dict:
    """The averaged generator of a run's last checkpoint."""
    state = torch.load(run / "checkpoints" / "latest.pt", map_location="cpu", weights_only=True)["objects"]["ema"]
    return {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--epochs", type=int, nargs=3, default=[45, 69, 32], help="of 50 batches: first run, its end, finer"
    )
    parser.add_argument(
        "--install_from", type=pathlib.Path, help="only install the last checkpoint of this run's folder"
    )
    args = parser.parse_args()
    bundle = BUNDLES / args.bundle
    run = args.install_from
    if run is None:
        first, end, finer = args.epochs
        train(bundle, [], args, "together", max_epochs=first)
        together = train(bundle, ["finetune.yaml"], args, "together", max_epochs=end)
        base = args.work_dir / "base.pt"
        torch.save(averaged_weights(together), base)
        run = train(bundle, ["demo_finer.yaml"], args, "finer", max_epochs=finer, warm_start=base)
    print(f"installed {install(bundle, run)}")


if __name__ == "__main__":
    main()
