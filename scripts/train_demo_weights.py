"""Train the small weights that a bundle ships, and install them into its models/ folder.

    python scripts/train_demo_weights.py msgan_ct3d --data_dir $HIRESMED_DATA --work_dir ./runs/demo_weights
    python scripts/train_demo_weights.py msgan_xray2d --data_dir $HIRESMED_DATA --work_dir ./runs/demo_xray
    python scripts/train_demo_weights.py dcgan_mri --data_dir ./brain_t1c_cheng_128 --work_dir ./runs/demo_mri
    python scripts/train_demo_weights.py inr_gan_multistage --data_dir ./xray_nih_512 --work_dir ./runs/demo_inr
    python scripts/train_demo_weights.py patchddm_brats --data_dir $HIRESMED_DATA/brain_mr --work_dir ./runs/demo_brats
    python scripts/train_demo_weights.py patchddm_brats_paper --work_dir ./runs/demo_brats_paper

As each bundle's configs/demo_weights.yaml says; what more there is to it stands in RECIPES. The weights go to
models/, with their sha256. Resumable: run the same command again. Other `--name value` pairs are knobs
of all its runs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pathlib
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hiresmed.core.weights import load_weights
from hiresmed.methods.patchddm import start_as_noise
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "studies"))  # study.py, which studies share
import study
from study import BUNDLES, averaged_weights, knobs_of

DEMO = "demo_weights.yaml"
FINER = "demo_finer.yaml"
PHANTOMS = "demo_phantoms.yaml"
SECOND = "demo_second.yaml"
WHOLE = "demo_whole.yaml"
HELD_OUT_TENTHS = (0, 5)  # for test and development, as scripts/studies/msgan_xray2d/held_out.py has them
RATES = (1.0, 0.25, 0.0625)  # shares of a cascade's learning rates, for each part of either of its runs
NETWORK_END_RATE = 1.0e-4
PHANTOM_EPOCHS = (44, 63, 73)  # of 50 batches


def train(
    bundle: pathlib.Path, overlays: list, args: argparse.Namespace, folder: str, first: str = DEMO, **knobs
) -> pathlib.Path:
    """One run of the bundle's training with the overlay `first` and others on it; returns its folder."""
    options = {"cache_dir": args.work_dir.resolve() / "cache", **args.knobs, **knobs}
    if args.data_dir is not None:
        options["dataset_dir"] = args.data_dir
    return study.train(bundle, ["train.yaml", first, *args.overlays, *overlays], args.work_dir / folder, **options)


def train_cascade(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """The base stage alone, then the finer stages on it, each at falling rates."""
    made = at_falling_rates(bundle, [], args, "base", args.epochs[:3])
    base = args.work_dir / "base.pt"
    torch.save(averaged_weights(made), base)
    return at_falling_rates(bundle, [FINER], args, "finer", args.epochs[3:], warm_start=base)


def at_falling_rates(
    bundle: pathlib.Path, overlays: list[str], args: argparse.Namespace, folder: str, epochs: Sequence[int], **knobs
) -> pathlib.Path:
    """One run whose learning rates are RATES of what the overlays say until these epochs; returns its folder."""
    said = study.parsed(bundle, ["train.yaml", "demo_weights.yaml", *overlays], {})
    for end, share in zip(epochs, RATES):
        rates = {name: share * said[name] for name in ("learning_rate", "d_learning_rate")}
        made = train(bundle, overlays, args, folder, max_epochs=end, resume_rates="configured", **rates, **knobs)
    return made


def train_on_xrays(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """train_cascade on the reduced X-rays of two collections; without a folder of them on phantoms."""
    if args.data_dir is not None:
        cases = reduced_xrays(args.data_dir, args.work_dir.resolve() / "images")
        args.data_dir = args.work_dir.resolve() / "images"
        study.save_json(args.work_dir / "cases.json", {"cases_list": cases})
        args.overlays = [args.work_dir.resolve() / "cases.json"]
    return train_cascade(bundle, args)


def reduced_xrays(data_dir: pathlib.Path, folder: pathlib.Path) -> list[dict]:
    """Writes the training patients' images as small JPEGs; returns their cases_list.

    Of training/xray_nih_512.tar the patients that are neither every tenth nor the fifth after each, 336 pixels; of
    xray2d/hannover_*.jpg all but the last six, 1152 pixels, each drawn twelve times as often.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    with tarfile.open(data_dir / "training" / "xray_nih_512.tar") as packed:
        members = {member.name.rpartition("/")[2]: member for member in packed if member.name.endswith(".jpg")}
        patients = sorted({name.split("_")[1] for name in members})
        taught = {patient for n, patient in enumerate(patients) if n % 10 not in HELD_OUT_TENTHS}
        for name in sorted((n for n in members if n.split("_")[1] in taught), key=lambda n: n.split("_")[1:]):
            images[name] = (packed.extractfile(members[name]).read(), 336, {})
    hannover = sorted((data_dir / "xray2d").glob("hannover_*.jpg"))[:-6]
    images |= {path.name: (path.read_bytes(), 1152, {"weight": 12}) for path in hannover}
    for name, (data, size, _) in images.items():
        image = Image.open(io.BytesIO(data)).convert("L")
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        study.save_aside(folder / name, lambda aside, image=image: image.save(aside, quality=84))
    cases = [{"image": name, **more} for name, (_, _, more) in images.items()]
    return [*cases, {"image": hannover[0].name, "section": "validation"}]


def without_patients(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments for a run on phantoms alone."""
    return argparse.Namespace(**{**vars(args), "data_dir": None})


def train_phantoms(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """Segmentation of phantoms of any contrast, then of likelier ones, and its end at a lower rate: a start's file."""
    alone = without_patients(args)
    epochs, likelier, end = PHANTOM_EPOCHS
    train(bundle, [], alone, "network", PHANTOMS, max_epochs=epochs)
    train(bundle, [SECOND], alone, "network", PHANTOMS, max_epochs=likelier)
    made = train(bundle, [SECOND], alone, "network", PHANTOMS, max_epochs=end, learning_rate=NETWORK_END_RATE)
    start = args.work_dir.resolve() / "phantoms.pt"
    return study.save_aside(start, lambda aside: torch.save(averaged_weights(made), aside))


def train_patients(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """From the weights of the phantoms: patches of patients and phantoms, then whole volumes."""
    start = train_phantoms(bundle, args)
    patches, whole = args.epochs
    train(bundle, [], args, "patients", max_epochs=patches, warm_start=start)
    return train(bundle, [WHOLE], args, "patients", max_epochs=whole, warm_start=start)


def train_paper(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """Noise prediction on top of the phantoms' weights of the other recipe, which know a tumour, and its end."""
    epochs, end = args.epochs
    parser = study.parsed(bundle, ["train.yaml"], args.knobs)
    network = load_weights(parser.get_parsed_content("network_def"), train_phantoms(bundle, args))
    start = args.work_dir.resolve() / "start.pt"
    study.save_aside(start, lambda aside: torch.save(start_as_noise(network).state_dict(), aside))
    paper = {"recipe": "paper", "patch_size": 48, "val_interval": 1000, "warm_start": start}
    alone = without_patients(args)
    train(bundle, [SECOND], alone, "paper", PHANTOMS, max_epochs=epochs, **paper)
    # what a rate leaves of jitter in the noise is amplified sigma / alpha times in x_0: a long end, averaged for longer
    finest = {"learning_rate": NETWORK_END_RATE, "ema_decay": 0.999}
    return train(bundle, [SECOND], alone, "paper", PHANTOMS, max_epochs=end, **paper, **finest)


def train_once(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """One run, for as long as the config says."""
    return train(bundle, [], args, "run")


def train_listed(bundle: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """One run on the cases that the data's own cases.yaml lists."""
    return train(bundle, [(args.data_dir / "cases.yaml").resolve()], args, "run")


@dataclass(frozen=True)
class Recipe:
    """How a bundle is trained.

    Args:
        train: (bundle, arguments) -> the last run's folder.
        epochs: how many, for each of its runs.
        best: take the best weights by the validation metric, not the last average.
        half: store as fp16; it would move a coordinate network's frequencies.
        bundle: where it is not called as the recipe is.
        file: of the weights, in the bundle's models/.
    """

    train: Callable[[pathlib.Path, argparse.Namespace], pathlib.Path]
    epochs: tuple[int, ...] = ()
    best: bool = False
    half: bool = True
    bundle: str | None = None
    file: str = "model.pt"


RECIPES = {
    "dcgan_mri": Recipe(train_listed),  # the last: the best by pixels was an early, blurred one
    "inr_gan_multistage": Recipe(train_once, half=False),
    "msgan_ct3d": Recipe(train_cascade, (6, 8, 9, 22, 29, 31)),
    "msgan_xray2d": Recipe(train_on_xrays, (74, 97, 105, 28, 37, 40)),
    "patchddm_brats": Recipe(train_patients, (10, 18)),
    "patchddm_brats_paper": Recipe(train_paper, (32, 80), bundle="patchddm_brats", file="model_paper.pt"),
}


def install(bundle: pathlib.Path, recipe: Recipe, run: pathlib.Path) -> pathlib.Path:
    """A run's weights in the bundle's models/, written aside, then renamed."""
    target = bundle / "models" / recipe.file
    target.parent.mkdir(exist_ok=True)
    aside = target.with_suffix(".tmp")
    weights = torch.load(run / "model.pt", weights_only=True) if recipe.best else averaged_weights(run)
    torch.save({k: v.half() if recipe.half and v.is_floating_point() else v for k, v in weights.items()}, aside)
    os.replace(aside, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name(f"{target.name}.sha256").write_text(f"{digest}  {target.name}\n")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data_dir", type=pathlib.Path, help="folder of the images; without it phantoms")
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, nargs="+", help="epoch at which each part of RECIPES ends")
    parser.add_argument("--install_from", type=pathlib.Path, help="only install what this run's folder holds")
    args, words = parser.parse_known_args()
    recipe = RECIPES[args.recipe]
    bundle = BUNDLES / (recipe.bundle or args.recipe)
    args.overlays = []  # further configs of all runs, which the recipe makes
    args.knobs = knobs_of(words)
    args.epochs = args.epochs or recipe.epochs
    if len(args.epochs) != len(recipe.epochs):
        parser.error(f"--epochs must be {len(recipe.epochs)} numbers for {args.recipe}, got {args.epochs}")
    run = args.install_from or recipe.train(bundle, args)
    print(f"installed {install(bundle, recipe, run)}")


if __name__ == "__main__":
    main()
