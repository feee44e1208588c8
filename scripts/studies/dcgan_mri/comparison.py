"""The studies of dcgan_mri: what the distances see, DCGAN against WGAN-GP, more data, more processes.

    python scripts/studies/dcgan_mri/comparison.py --work_dir ./runs/study_dcgan --xray_dir $HIRESMED_DATA/xray2d

One command; resumable: what is done is not done again. Writes tables (study.md, study.json) and pictures:
  sensitivity   distances of real X-rays from real ones that noise, blur and seams spoil (needs --xray_dir)
  methods       DCGAN, WGAN-GP (with 3 and 1 critic steps), DCGAN in its published mode on the same slices:
                distance over time, diversity, recall; samples of each beside real slices
  data          distance against the number of training patients, at equal numbers of steps; beside it that of their
                own slices, which no generator need beat; overfitting of the critic
  processes     images a second with 1 and 2 processes
Slices are phantoms of other patients for training and test. Distances are those of --extractor with N beside them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from hiresmed.core.latents import latents_of
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.weights import load_weights
from hiresmed.datasets import ImageSet, ImagesOnly, MriSlices, mri_cases
from hiresmed.metrics import ImageSetMetrics
from hiresmed.reports.preview import Panel, montage, write_preview
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from curves import curves
from distances import UNITS, rows_of, sensitivity, short
from study import (
    BUNDLES,
    averaged_weights,
    config_files,
    knobs_of,
    latest,
    markdown,
    parsed,
    save_aside,
    save_json,
    train,
    with_spread,
)

BUNDLE = BUNDLES / "dcgan_mri"
# name -> overlays, and knobs over those that all methods share
METHODS = {
    "DCGAN": ([], {}),
    "WGAN-GP": (["wgan_gp.yaml"], {}),
    "WGAN-GP, 1 critic step": (["wgan_gp.yaml"], {"n_critic": 1}),
    # of paper.yaml without its channels and value range, which would confound the comparison anew
    "DCGAN, as published": (
        [], {"norm": "frozen_batch", "d_norm": "frozen_batch", "dropout": 0.0, "penalties": []},
    ),
}  # fmt: skip
BY_DATA = ("DCGAN", "WGAN-GP")
FIRST_TEST, TEST = 201, 8  # phantoms no training sees
SHOWN = 9  # images of each
PHANTOM = '{"shape": [64, 64, 48], "spacing": [3.4, 3.4, 3.4], "contrast": "random"}'


def configs(args: argparse.Namespace, method: str, patients: int, seed: int) -> tuple[list, dict]:
    """Configs and knobs of one training: so many phantom patients, two more that validate."""
    cases = [{"phantom": k + 1} for k in range(patients)]
    cases += [{"phantom": 101 + k, "section": "validation"} for k in range(2)]
    listed = args.work_dir / f"cases_{patients}.json"
    if not listed.exists():
        save_json(listed, {"cases_list": cases})
    overlays, own = METHODS[method]
    knobs = {"size": args.size, "width": args.width, "last_width": 16, "phantom": PHANTOM, "seed": seed,
             "batch_size": args.batch_size, "val_interval": 10**6, "learning_rate": args.rate,
             "d_learning_rate": args.d_rate, **own, **args.knobs}  # fmt: skip
    return ["train.yaml", *overlays, listed.resolve()], knobs


def per_epoch(args: argparse.Namespace, patients: int) -> int:
    """Batches in an epoch of so many patients."""
    _, knobs = configs(args, "DCGAN", patients, 0)
    slices = 1 + round(107 / 155 * phantom(knobs)["shape"][2]) - round(60 / 155 * phantom(knobs)["shape"][2])
    return max(1, patients * slices // int(knobs["batch_size"]))


def phantom(knobs: dict) -> dict:
    value = knobs["phantom"]
    return json.loads(value) if isinstance(value, str) else value


def slices_of(args: argparse.Namespace, first: int, patients: int, most: int | None = None) -> ImagesOnly:
    """Slices of so many phantom patients, at most so many of them; those from FIRST_TEST on are in no training."""
    _, knobs = configs(args, "DCGAN", 1, 0)
    cases = [{"phantom": first + k, "section": "training"} for k in range(patients)]
    found = mri_cases(None, "training", cases_list=cases, phantom=phantom(knobs))
    return ImagesOnly(ImageSet(MriSlices(cases=found, size=args.size, fit="square"), most=most))


def samples(args: argparse.Namespace, run: pathlib.Path, stack: list, knobs: dict, count: int) -> list[torch.Tensor]:
    """Images of a training's averaged generator as it is now."""
    weights = save_aside(run / "now.pt", lambda aside: torch.save(averaged_weights(run), aside))
    network = load_weights(parsed(BUNDLE, stack, knobs).get_parsed_content("network_def"), weights)
    with torch.no_grad():
        z = latents_of(12345, range(count), network.latent_size)
        return [image for block in z.split(16) for image in network(block)]


def run_of(args: argparse.Namespace, method: str, patients: int, seed: int) -> pathlib.Path:
    """The folder of a training."""
    return args.work_dir / "".join(c if c.isalnum() else "_" for c in f"{method}_{patients}_{seed}")


def course(args: argparse.Namespace, method: str, patients: int, seed: int, steps: Sequence[int], real) -> list[dict]:
    """Figures of one training after each number of critic steps in `steps`; goes on where it stopped."""
    run = run_of(args, method, patients, seed)
    path, (stack, knobs) = run / "course.json", configs(args, method, patients, seed)
    found = json.loads(path.read_text()) if path.exists() else []
    for step in steps[len(found) :]:
        begun = time.time()
        epochs = max(1, round(step / per_epoch(args, patients)))
        train(BUNDLE, stack, run, max_epochs=epochs, **knobs)
        seconds = time.time() - begun
        made = samples(args, run, stack, knobs, len(real))
        metrics = ImageSetMetrics(args.extractor, pairs=args.pairs)
        found.append(
            {
                "steps": epochs * per_epoch(args, patients),
                "seconds": seconds,
                **short(metrics(made, real), args.extractor),
            }
        )
        write_preview(run / "samples.png", [Panel(method, ArrayVolume(montage(made)))], (-1, 1), f"step {step}")
        save_json(path, found)
    return found


def methods(args: argparse.Namespace, real) -> dict:
    steps = [max(1, args.steps * k // args.points) for k in range(1, args.points + 1)]
    found = {m: {str(s): course(args, m, args.patients, s, steps, real) for s in args.seeds} for m in METHODS}
    apart = max(1, len(real) // SHOWN)
    shown = {"slices of new patients": [real[k] for k in range(0, len(real), apart)]}
    for m in METHODS:
        stack, knobs = configs(args, m, args.patients, args.seeds[0])
        shown[m] = samples(args, run_of(args, m, args.patients, args.seeds[0]), stack, knobs, SHOWN)
    panels = [Panel(title, ArrayVolume(montage(images, SHOWN))) for title, images in shown.items()]
    about = f"{args.patients} patients, {args.steps} critic steps, seed {args.seeds[0]}; none chosen"
    write_preview(args.work_dir / "samples.png", panels, (-1, 1), about)
    return found


def data(args: argparse.Namespace, real) -> dict:
    found = {
        m: {str(n): {str(s): course(args, m, n, s, [args.steps], real)[-1] for s in args.seeds} for n in args.sizes}
        for m in BY_DATA
    }
    metrics = ImageSetMetrics(args.extractor, pairs=args.pairs)
    own = {str(n): slices_of(args, 1, n, most=len(real)) for n in args.sizes}
    return {"their own slices": {n: {"0": short(metrics(s, real), args.extractor)} for n, s in own.items()}, **found}


def critic_overfitting(critic, training, new, generated) -> float:
    """Overfitting heuristic r_v of a critic D (Karras et al., arXiv:2006.06676, eq. 1).

    (mean D(training) - mean D(new)) / (mean D(training) - mean D(generated)): 0 where the critic rates
    new patients like those it was trained on, 1 where it rates them like generated ones.
    """
    with torch.no_grad():
        t, v, g = (float(critic(torch.stack(list(images))).mean()) for images in (training, new, generated))
    return (t - v) / (t - g)


def memorised(args: argparse.Namespace, real) -> dict:
    """method -> patients -> seed -> r_v."""
    found: dict = {}
    for method, patients in [(m, args.patients) for m in METHODS] + [(m, n) for m in BY_DATA for n in args.sizes]:
        own = slices_of(args, 1, patients, most=len(real))
        for seed in args.seeds:
            run, (stack, knobs) = run_of(args, method, patients, seed), configs(args, method, patients, seed)
            if not run.exists():
                continue
            critic = load_weights(
                parsed(BUNDLE, stack, knobs).get_parsed_content("discriminator_def"),
                save_aside(
                    run / "critic.pt", lambda aside, run=run: torch.save(latest(run)["objects"]["discriminator"], aside)
                ),
            )
            made = samples(args, run, stack, knobs, len(real))
            by_seed = found.setdefault(method, {}).setdefault(str(patients), {})
            by_seed[str(seed)] = critic_overfitting(critic, own, real, made)
    return found


def processes(args: argparse.Namespace) -> dict:
    """Images a second between the first batch and the last, so that the start is not counted."""
    path = args.work_dir / "processes.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    stack, knobs = configs(args, "DCGAN", args.patients, 0)
    for count in (1, 2):
        if str(count) in found:
            continue
        output = args.work_dir / f"processes_{count}"
        options = {"bundle_root": BUNDLE, "output_dir": output, "overwrite": "true", "max_epochs": 4, **knobs}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", "-m", "monai.bundle"]
        words = [str(w) for name, value in options.items() for w in (f"--{name}", value)]
        command = [sys.executable, *launcher, "run", "--config_file", str(config_files(BUNDLE, stack))]
        subprocess.run([*command, *words], check=True)
        found[str(count)] = int(knobs["batch_size"]) * batches_a_second(output / "tensorboard")
        save_json(path, found)
    return found


def batches_a_second(log_dir: pathlib.Path) -> float:
    """Of the last training in a TensorBoard folder, from its first batch to its last."""
    log = EventAccumulator(str(max(log_dir.iterdir())), {"scalars": 0}).Reload()
    ends = max(([event.wall_time for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]), key=len)
    return (len(ends) - 1) / (ends[-1] - ends[0])


def write_tables(args: argparse.Namespace, found: dict) -> None:
    text = f"Features: {args.extractor}. Mean ± standard deviation over seeds. Command: {' '.join(sys.argv)}\n"
    for kind, strengths in found.get("sensitivity", {}).items():
        groups = {f"{s} ({UNITS[kind]})": list(seeds.values()) for s, seeds in strengths.items()}
        text += f"\n## X-rays with {kind} against X-rays of other patients\n\n{rows_of(groups)}"
    if "methods" in found:
        last = {m: [run[-1] for run in seeds.values()] for m, seeds in found["methods"].items()}
        text += f"\n## After {args.steps} critic steps on {args.patients} patients\n\n{rows_of(last)}"
        lines = {
            m: [[(p["steps"], max(p["distance"], 1e-3)) for p in run] for run in seeds.values()]
            for m, seeds in found["methods"].items()
        }
        about = f"kernel distance ({args.extractor})"
        curves(args.work_dir / "methods.png", {"": lines}, "critic steps", about, log_y=True)
    for method, sizes in found.get("data", {}).items():
        groups = {f"{n} patients": list(seeds.values()) for n, seeds in sizes.items()}
        text += f"\n## {method}, by the number of training patients, {args.steps} critic steps\n\n{rows_of(groups)}"
    rows = [
        [method, patients, with_spread(list(seeds.values()), 2)]
        for method, by_patients in found.get("memorised", {}).items()
        for patients, seeds in by_patients.items()
    ]
    if rows:
        header = ["", "patients", "0: new patients are as good as trained ones, 1: as bad as generated ones"]
        text += f"\n## Overfitting of the critic, r_v\n\n{markdown(header, rows)}"
    if "processes" in found:
        rows = [[n, f"{rate:.1f}"] for n, rate in found["processes"].items()]
        text += f"\n## Training, global batch {args.batch_size}\n\n{markdown(['processes', 'images a second'], rows)}"
    save_aside(args.work_dir / "study.md", lambda aside: aside.write_text(text))
    save_json(args.work_dir / "study.json", found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--xray_dir", type=pathlib.Path, help="folder of the X-rays; without it no sensitivity")
    parser.add_argument("--parts", nargs="+", default=["sensitivity", "methods", "data", "processes"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--extractor", default="squeezenet")
    parser.add_argument("--steps", type=int, default=1500, help="critic steps of a training")
    parser.add_argument("--points", type=int, default=6, help="of a curve")
    parser.add_argument("--patients", type=int, default=16, help="phantoms that the methods are trained on")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64], help="numbers of patients to compare")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--width", type=int, default=128, help="channels on the 4 x 4 grid")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument(
        "--rate", type=float, default=4.0e-4, help="learning rate of the generator, where METHODS has none"
    )
    parser.add_argument("--d_rate", type=float, default=4.0e-4, help="that of the critic")
    parser.add_argument("--pairs", type=int, default=200, help="of the MS-SSIM")
    parser.add_argument("--xray_size", type=int, default=1024, help="pixels along an X-ray's longer side")
    args, words = parser.parse_known_args()
    args.knobs = knobs_of(words)
    return args


def main() -> None:
    args = arguments()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    found: dict = {}
    if "sensitivity" in args.parts and args.xray_dir is not None:
        found["sensitivity"] = sensitivity(args)
    real = slices_of(args, FIRST_TEST, TEST) if {"methods", "data"} & set(args.parts) else None
    if "methods" in args.parts:
        found["methods"] = methods(args, real)
    if "data" in args.parts:
        found["data"] = data(args, real)
    if {"methods", "data"} & set(args.parts):
        found["memorised"] = memorised(args, real)
    if "processes" in args.parts:
        found["processes"] = processes(args)
    write_tables(args, found)
    print(f"tables in {args.work_dir / 'study.md'}")


if __name__ == "__main__":
    main()
