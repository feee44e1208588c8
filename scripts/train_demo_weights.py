"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA/ct3d --work_dir ./runs/demo_weights
    python scripts/train_demo_weights.py msgan_xray2d --data_dir $HIRESMED_DATA/xray2d --work_dir ./runs/demo_xray
    python scripts/train_demo_weights.py dcgan_mri --data_dir $HIRESMED_DATA/brain_mr --work_dir ./runs/demo_mri
    python scripts/train_demo_weights.py inr_gan_multistage --data_dir $HIRESMED_DATA/xray2d --work_dir ./runs/demo_inr

A bundle with configs/demo_finer.yaml is trained in two runs, each with an end at a lower rate: the base stage alone
with configs/demo_weights.yaml, then the finer stages on that base; its last averaged weights are taken. Any other is
trained once with configs/demo_weights.yaml, and knobs given as --knob value; its best weights by the validation metric
are taken, or the last average of a bundle in LAST. They go to models/model.pt, as fp16 but for those of LAST, with
their sha256. Resumable: run the same command again.
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
# validation by random features chooses no better than the last average, and fp16 would move a coordinate network's
# frequencies, whose few weights need no saving
LAST = {"inr_gan_multistage"}


def train(bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, folder: str, **knobs) -> pathlib.Path:
    """One run of the bundle's training; returns its folder."""
    options = {"dataset_dir": args.data_dir, "cache_dir": args.work_dir / "cache", **knobs}
    return study.train(bundle, ["train.yaml", "demo_weights.yaml", *overlays], args.work_dir / folder, **options)


def cascaded(bundle: pathlib.Path) -> bool:
    """Whether the bundle's base and finer stages are trained apart."""
    return (bundle / "configs" / FINER).exists()


def install(bundle: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    """A run's weights as the bundle's model.pt, written aside, then renamed."""
    target = bundle / "models" / "model.pt"
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".tmp")
    if bundle.name in LAST:
        weights = averaged_weights(run)
    else:
        found = averaged_weights(run) if cascaded(bundle) else torch.load(run / "model.pt", weights_only=True)
        weights = {k: v.half() if v.is_floating_point() else v for k, v in found.items()}
    torch.save(weights, aside)
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
        nargs="+",
        help="of a cascade: base, its end, finer, its end (60 70 30 40); else one number",
    )
    parser.add_argument("--install_from", type=pathlib.Path, help="only install what this run's folder holds")
    args, words = parser.parse_known_args()
    bundle = BUNDLES / args.bundle
    if words and cascaded(bundle):
        parser.error(f"knobs are for bundles that are trained in one run, but {' '.join(words)} came")
    run = args.install_from
    if run is None and not cascaded(bundle):
        epochs = {"max_epochs": args.epochs[0]} if args.epochs else {}
        run = train(bundle, [], args, "run", **epochs, **knobs_of(words))
    elif run is None:
        base_epochs, base_end, finer_epochs, finer_end = args.epochs or (60, 70, 30, 40)
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
