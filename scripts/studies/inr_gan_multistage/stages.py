"""Does training by patches in stages learn whole images, and at what price: claims of Lee et al. (arXiv:2207.01395).

    python scripts/studies/inr_gan_multistage/stages.py blobs --work_dir runs/inr
    python scripts/studies/inr_gan_multistage/stages.py table --work_dir runs/inr --data_dir $HIRESMED_DATA/xray2d

blobs: every real 32 x 32 image holds exactly one blob, a discriminator of patches sees 8 x 8 of it. Patch-only training
against stages, against stages whose patch regularisation is eq. 4 as printed, softer or off, against exact training.
table: the paper's four ways of training and the exact one for equal processor time on X-rays (or phantom slices) of
64 x 64: kernel distance, live bytes and seconds of an iteration; stages.png beside a staged training: what each stage
ended with, on its own grid and on the full one. Three seeds; resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from hiresmed.core.live_bytes import LiveBytes
from hiresmed.datasets import ReadImage, ShuffledImages, image_cases
from hiresmed.methods.inr_gan import (
    ExactTrainer,
    ImplicitGenerator,
    PatchConsistency,
    ResidualCritic,
    StageClock,
    StagedTraining,
    TiledSampler,
    output_frame,
    plan_stages,
)
from hiresmed.metrics import build_extractor, kernel_distance
from hiresmed.training import AdversarialTrainer, NonSaturating, R1Penalty, Seeding, averaged_model
from ignite.engine import Events
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import markdown, save_aside, save_json, slug, with_spread

GROUP = 4  # images that the discriminator compares
SHOWN = 12  # samples a row of the table's pictures
MARGIN = 170  # pixels for the rows' names


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        stages, patch_factor: see engines.plan_stages.
        shares: of the iterations or the time, for each stage.
        consistency: of PatchConsistency; None: patch regularisation off.
        trainer: options beside the common ones; with `rows` an ExactTrainer's.
    """

    stages: int
    patch_factor: int
    shares: Sequence[float] = (1.0,)
    consistency: Mapping | None = None
    trainer: Mapping = field(default_factory=dict)


SHARES = (0.5, 0.2, 0.3)
MULTISTAGE = Method(3, 4, SHARES, {})
BLOBS = {
    "patch": Method(1, 4),
    "multistage": MULTISTAGE,
    "multistage, norm of eq. 4": Method(3, 4, SHARES, {"norm": "norm"}),  # the others take the program's mean square
    "multistage, no regularisation": Method(3, 4, SHARES),
    "multistage, means of 2 x 2 blocks": Method(3, 4, SHARES, {"blocks": 2}),
    "multistage, tolerance .1": Method(3, 4, SHARES, {"tolerance": 0.1}),
    "exact": Method(1, 1, trainer={"rows": 8, "accumulation_steps": 2}),
}
TABLE = {
    "image": Method(1, 1),
    "patch": Method(1, 4),
    "gradient accumulation": Method(1, 1, trainer={"accumulation_steps": 2}),
    "multistage": MULTISTAGE,
    "multistage, means of 2 x 2 blocks": Method(3, 4, SHARES, {"blocks": 2}),
    "exact": Method(1, 1, trainer={"rows": 16, "accumulation_steps": 2}),
}


@dataclass
class Scale:
    """Sizes of a study."""

    image_size: int
    width: int
    latent: int
    batch_size: int
    critic: int


def build(method: Method, scale: Scale, images: Sequence, seed: int, iterations: Sequence[int]):
    """(trainer, staged, EMA) of one training; one epoch a stage, of iterations[stage]."""
    torch.manual_seed(seed)
    stages = plan_stages([scale.image_size] * 2, method.stages, method.patch_factor)
    widths = (scale.width,) * 3
    generator = ImplicitGenerator(
        2, 1, scale.latent, scale.latent, widths, 3, bandwidth=np.pi / 4 * scale.image_size * 0.6
    )
    discriminator = ResidualCritic(stages[-1][1], width=scale.critic, max_width=4 * scale.critic, group_size=GROUP)
    ema = averaged_model(generator, 0.99)
    staged = StagedTraining(stages, [1] * len(stages), scale.latent, ema, method.consistency is not None)
    dataset = ShuffledImages(images, max(iterations), scale.batch_size, seed=seed)
    losses = {} if method.consistency is None else {"patch_consistency": (0.1, PatchConsistency(**method.consistency))}
    trainer = (ExactTrainer if "rows" in method.trainer else AdversarialTrainer)(
        device="cpu",
        max_epochs=len(stages),
        train_data_loader=torch.utils.data.DataLoader(dataset, scale.batch_size),
        epoch_length=max(iterations),
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 1.6e-3, betas=(0.0, 0.992)),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 1.88e-3, betas=(0.0, 0.9906)),
        objective=NonSaturating(),
        prepare_batch=staged,
        generator_losses=losses,
        penalties=[R1Penalty(1.0, 16)],  # the paper's gamma of 10 is for 256 x 256
        ema=ema,
        train_handlers=[Seeding(seed), StageClock(staged)],
        **method.trainer,
    )
    return trainer, staged, ema


def until(trainer, enough: Callable[[int, int], bool]) -> None:
    """Runs the trainer; a stage ends when enough(stage, its iterations so far)."""
    begun = {"at": 0}
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: begun.update(at=e.state.iteration))

    def check(engine) -> None:
        if enough(engine.state.epoch, engine.state.iteration - begun["at"]):
            engine.terminate_epoch()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, check)
    trainer.run()


def drawn(ema, scale: Scale, count: int, seed: int = 1, size: int | None = None) -> torch.Tensor:
    """`count` samples (N, 1, S, S) of the averaged generator, tile by tile, on a grid of `size` or the images' own."""
    z = torch.randn(count, scale.latent, generator=torch.Generator().manual_seed(seed))
    return TiledSampler(ema, output_frame([size or scale.image_size] * 2), 64)(z)


def keep_stages(trainer, staged: StagedTraining, ema, scale: Scale, count: int) -> dict[str, np.ndarray]:
    """A dict that fills, at each stage's end, with samples on its own grid (enlarged) and on the images' grid."""
    kept: dict[str, np.ndarray] = {}

    def keep(engine) -> None:
        stage = engine.state.epoch
        for size in dict.fromkeys((staged.stages[stage - 1][0][0], scale.image_size)):
            block = np.ones((scale.image_size // size,) * 2)
            made = drawn(ema, scale, count, size=size)[:, 0].numpy()
            kept[f"stage {stage}, {size} x {size}"] = np.stack([np.kron(image, block) for image in made])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
    return kept


# ---- exactly one blob


def blob_images(count: int, size: int, seed: int = 0) -> list[dict]:
    """Images in [-1, 1] that hold one Gaussian blob each, of 2.5 pixels' deviation, wholly inside."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    made = []
    for _ in range(count):
        cy, cx = random.uniform(6, size - 7, 2)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.5**2))
        made.append({"image": torch.from_numpy((1.8 * blob - 0.9).astype(np.float32))[None]})
    return made


def blobs_in(image: np.ndarray) -> int:
    """Bright regions of at least 4 pixels above half of a blob's height."""
    labels, count = ndimage.label(image > 0)
    return int((np.bincount(labels.ravel())[1 : count + 1] >= 4).sum())


def blob_run(method: Method, seed: int, args: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Trains once, or finds it done: share of samples with exactly one blob, and how many each sample has."""
    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    scale = Scale(32, 32, 32, 16, 16)
    iterations = [max(1, round(s * args.iterations)) for s in method.shares]
    trainer, _, ema = build(method, scale, blob_images(1024, 32), seed, iterations)
    begun = time.process_time()
    until(trainer, lambda stage, n: n >= iterations[stage - 1])
    seconds = time.process_time() - begun
    samples = drawn(ema, scale, args.samples)[:, 0].numpy()
    counts = [blobs_in(image) for image in samples]
    save_aside(folder / "samples.npy", lambda path: np.save(path, samples[:16]))
    result = {"one_blob": float(np.mean(np.array(counts) == 1)), "counts": np.bincount(counts).tolist()}
    save_json(done, result | {"seconds": seconds, "n": len(counts), "iterations": iterations})
    return json.loads(done.read_text())


def picture(path: pathlib.Path, rows: Mapping[str, np.ndarray], enlarge: int = 2) -> None:
    """Samples (N, S, S) in [-1, 1], a row for each name, which stands left of it."""
    gap = [(0, 0), (1, 1), (1, 1)]
    shown = min(map(len, rows.values()))
    lines = [np.concatenate(list(np.pad(row[:shown], gap, constant_values=1)), 1) for row in rows.values()]
    grey = ((np.concatenate(lines, 0).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    samples = Image.fromarray(np.kron(grey, np.ones((enlarge, enlarge), np.uint8)))
    image = Image.new("L", (MARGIN + samples.width, samples.height), 255)
    image.paste(samples, (MARGIN, 0))
    draw, height = ImageDraw.Draw(image), samples.height / len(rows)
    for number, name in enumerate(rows):
        words = name.replace(", ", ",\n")
        where = (MARGIN - 10, (number + 0.5) * height)
        draw.multiline_text(where, words, 0, ImageFont.load_default(size=15), anchor="rm", align="right")
    save_aside(path, lambda aside: image.save(aside))


def blobs(args: argparse.Namespace) -> None:
    """The one-blob claim: table, JSON and picture (a row for each method, the first seed's samples)."""
    real = np.stack([item["image"][0].numpy() for item in blob_images(16, 32)])
    assert all(blobs_in(image) == 1 for image in real)
    found, rows = {}, {"real": real}
    for name in args.methods or BLOBS:
        runs = []
        for seed in args.seeds:
            folder = args.work_dir / f"blobs_{slug(name)}_{args.iterations}_seed{seed}"
            runs.append(blob_run(BLOBS[name], seed, args, folder))
            print(
                f"{name}, seed {seed}: {runs[-1]['one_blob']:.3f} of {runs[-1]['n']} in {runs[-1]['seconds']:.0f} s",
                flush=True,
            )
            if seed == args.seeds[0]:
                rows[name] = np.load(folder / "samples.npy")
        found[name] = runs
    save_json(args.work_dir / "blobs.json", {"iterations": args.iterations, "seeds": args.seeds, "methods": found})
    lines = [
        [n, with_spread([r["one_blob"] for r in runs], 3), with_spread([r["seconds"] for r in runs], 0)]
        for n, runs in found.items()
    ]
    text = markdown(["training", "share with exactly one blob", "processor seconds"], lines)
    save_aside(args.work_dir / "blobs.md", lambda path: path.write_text(text))
    picture(args.work_dir / "blobs.png", rows)
    print(text)


# ---- equal training time


def real_images(data_dir: pathlib.Path | None, size: int) -> list[dict]:
    """Training X-rays of sixteen.yaml at the study's size, or phantom slices."""
    listed = None
    if data_dir is not None:
        from monai.bundle import ConfigParser

        config = pathlib.Path(__file__).with_name("sixteen.yaml")
        listed = ConfigParser.load_config_file(str(config))["cases_list"]
    cases = image_cases(
        None if data_dir is None else str(data_dir), "training", [size] * 2, cases_list=listed, phantoms=3
    )
    read = ReadImage([size] * 2)
    return [read(case) for case in cases]


def live_mebibytes(method: Method, scale: Scale, images: Sequence) -> float:
    """Largest sum of live tensors in an iteration of the last stage with its R1 step; weights and moments count."""
    trainer, staged, ema = build(method, scale, images, 0, [1])
    for epoch in range(1, method.stages + 1):
        staged.begin_epoch(epoch)
    batch = {"image": torch.stack([images[k % len(images)]["image"] for k in range(scale.batch_size)])}
    trainer.state.iteration = 1
    trainer._iteration(trainer, batch)  # makes Adam's moments
    networks = [trainer.generator, trainer.discriminator, ema] + ([staged.previous] if staged.previous else [])
    held = [p for n in networks for p in n.parameters()]
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        held += [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    trainer.state.iteration = 16
    with LiveBytes([*held, batch["image"]]) as live:
        trainer._iteration(trainer, batch)
    return live.peak / 2**20


def table_run(method: Method, seed: int, args: argparse.Namespace, images: Sequence, folder: pathlib.Path) -> dict:
    """Trains for args.seconds of processor time, or finds it done: kernel distance to the training images, speed."""
    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    scale = Scale(args.size, 64, 64, 8, 16)
    ends = np.cumsum(method.shares) * args.seconds
    trainer, staged, ema = build(method, scale, images, seed, [10**6])
    stages = keep_stages(trainer, staged, ema, scale, SHOWN) if method.stages > 1 else {}
    begun = time.process_time()
    until(trainer, lambda stage, n: time.process_time() - begun >= ends[stage - 1])
    seconds, iterations = time.process_time() - begun, trainer.state.iteration
    extractor = build_extractor(args.extractor)
    samples = drawn(ema, scale, args.samples)
    real = torch.stack([image["image"] for image in images])
    distance = kernel_distance(extractor(real), torch.cat([extractor(part) for part in samples.split(16)]))
    save_aside(folder / "samples.npy", lambda path: np.save(path, samples[:SHOWN, 0].numpy()))
    if stages:
        picture(folder / "stages.png", stages)
    result = {"distance": distance, "extractor": extractor.describe(), "seconds": seconds}
    result |= {"iterations": trainer.state.iteration, "seconds_an_iteration": seconds / iterations}
    save_json(done, result)
    return json.loads(done.read_text())


def table(args: argparse.Namespace) -> None:
    """The paper's table redone at equal training time: kernel distance, memory, seconds."""
    images = real_images(args.data_dir, args.size)
    scale, found, rows, lines = Scale(args.size, 64, 64, 8, 16), {}, {}, []
    rows["real"] = np.stack([images[k % len(images)]["image"][0].numpy() for k in range(SHOWN)])
    for name in args.methods or TABLE:
        runs = []
        for seed in args.seeds:
            folder = args.work_dir / f"table_{slug(name)}_{args.size}px_{args.seconds:.0f}s_seed{seed}"
            runs.append(table_run(TABLE[name], seed, args, images, folder))
            print(f"{name}, seed {seed}: {runs[-1]['distance']['value']:.4g}", flush=True)
            if seed == args.seeds[0]:
                rows[name] = np.load(folder / "samples.npy")
        memory = live_mebibytes(TABLE[name], scale, images)
        found[name] = {"runs": runs, "live_mebibytes": memory}
        figures = [with_spread([r["distance"]["value"] for r in runs], 2)]
        figures += [with_spread([r["seconds_an_iteration"] for r in runs], 3), f"{memory:.1f}"]
        lines.append([name, *figures, with_spread([r["iterations"] for r in runs], 0)])
    save_json(args.work_dir / "table.json", {"seconds": args.seconds, "n_real": len(images), "methods": found})
    first = f"{args.extractor} kernel distance, N = {len(images)} real, {args.samples} generated"
    text = markdown(["training", first, "seconds an iteration", "live MiB", "iterations"], lines)
    save_aside(args.work_dir / "table.md", lambda path: path.write_text(text))
    picture(args.work_dir / "table.png", rows)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["blobs", "table"])
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--data_dir", type=pathlib.Path, help="of the X-rays; without it phantom slices")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="some of them only")
    parser.add_argument("--iterations", type=int, default=2500, help="of each training of blobs, over all stages")
    parser.add_argument("--seconds", type=float, default=300.0, help="processor time of each training of the table")
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the table's images")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--extractor", default="squeezenet", help="feature network of the table")
    args = parser.parse_args()
    known = BLOBS if args.what == "blobs" else TABLE
    if unknown := [name for name in args.methods or [] if name not in known]:
        parser.error(f"methods must be some of {', '.join(known)}, but {unknown[0]} came")
    torch.set_num_threads(1)
    {"blobs": blobs, "table": table}[args.what](args)


if __name__ == "__main__":
    main()
