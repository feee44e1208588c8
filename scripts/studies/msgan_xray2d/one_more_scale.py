"""One scale more than was trained, without retraining: msgan_xray2d on held-back X-rays of twice the trained size.

    python scripts/studies/msgan_xray2d/one_more_scale.py --data_dir $HIRESMED_DATA/xray2d \\
        --work_dir ./runs/one_more_scale --seeds 0 1 2

Trains a base stage, and on it shared weights on X-rays of --size and, for the same number of steps, on those of twice
--size; renders the held-back ones at twice --size. From a sketch: the first weights with one scale more, their image of
the trained size enlarged, the second weights. From the real image of the trained size and the sketch: the last stage of
each, and the enlarged image. Writes table.json, table.md, comparison.png (a part of a case) and four_times.png (four
times --size, of which no truth exists) into --work_dir. Resumable. Without --data_dir on phantoms; other knobs go to
the trainings.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from hiresmed.core.views import RegionView, ResampledView
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.reports.preview import Panel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import Variant, markdown, save_aside, save_json, with_spread, write_comparison
from xrays import BUNDLE, COMMON, WINDOW, arguments, base_weights, prepare, seen

METHODS = {
    "one more": "trained to {size}, one scale more",
    "bicubic": "trained to {size}, enlarged (bicubic)",
    "trained": "trained to {twice}",
    "one more, real": "real image of {size}, one scale more",
    "bicubic, real": "real image of {size}, enlarged (bicubic)",
    "trained, real": "real image of {size}, last stage trained to {twice}",
}
CROP = 128  # pixels a side of what the feature network sees
CAPTION = """
Held-back images ({cases}) of {twice} pixels the longer side, {base_steps} steps of the base stage, {steps} of either
training, seeds {seeds}; mean ± standard deviation over seeds of the mean over images. All but the enlarged images are
given the sketch of the full size. MAE in per cent of the robust window; kernel distance of {crop}-pixel crops of all
images (feature network: {extractor}).
"""


def variant_of(size: int, seed: int, args: argparse.Namespace) -> Variant:
    folder = args.work_dir / f"trained_to_{size}_{args.base_steps}_{args.steps}steps_seed{seed}"
    cases = (args.work_dir / f"images_{size}" / "cases.json").resolve()
    return Variant(BUNDLE, [*COMMON, cases], folder, {**args.knobs, "seed": seed})


def half(volume: Volume) -> ArrayVolume:
    """The image of half the size, each pixel the mean of those it covers."""
    view = ResampledView(volume, [-(-n // 2) for n in volume.shape])
    values = np.rint(view.read((0, 0), view.shape)).astype(volume.dtype)
    return ArrayVolume(values, view.affine, volume.name)


def bicubic(small: ArrayVolume, truth: Volume) -> ArrayVolume:
    """Enlarged to the truth's grid, cell centres aligned."""
    values = torch.from_numpy(small.array.astype(np.float64))[None, None]
    large = torch.nn.functional.interpolate(values, truth.shape, mode="bicubic", align_corners=False)[0, 0]
    return ArrayVolume(np.rint(large.clip(*WINDOW).numpy()).astype(truth.dtype), truth.affine, truth.name)


def renderings(truth: ArrayVolume, seed: int, args: argparse.Namespace) -> Iterator[tuple[str, ArrayVolume]]:
    """(method, image) of all methods for one held-back image."""
    lower, upper = (variant_of(size, seed, args) for size in (args.size, 2 * args.size))
    small, last = half(truth), {"num_scales": 1, "first_image": "real"}
    yield "one more", lower.render(truth, args.tile_size, seed)
    yield "bicubic", bicubic(lower.render(small, args.tile_size, seed), truth)
    yield "trained", upper.render(truth, args.tile_size, seed)
    yield "one more, real", lower.render(truth, args.tile_size, seed, **last)
    yield "bicubic, real", bicubic(small, truth)
    yield "trained, real", upper.render(truth, args.tile_size, seed, **last)


def scores(truths: Mapping[str, ArrayVolume], seed: int, args: argparse.Namespace) -> dict:
    """Figures of one seed, method by method; done once, then read."""
    path = args.work_dir / f"scores_{args.size}_{args.base_steps}_{args.steps}steps_seed{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    pixels = ReconstructionMetrics(WINDOW, args.tile_size, None)
    images: dict[str, list[ArrayVolume]] = {method: [] for method in METHODS}
    cases: dict[str, dict] = {method: {} for method in METHODS}
    for name, truth in truths.items():
        for method, image in renderings(truth, seed, args):
            images[method].append(image)
            cases[method][name] = pixels(image, truth)
        print(f"seed {seed}: {name} rendered", flush=True)
    features: dict[str, dict] = {method: {} for method in METHODS}
    if args.extractor != "none":
        network = ReconstructionMetrics(WINDOW, args.tile_size, args.extractor, patch=CROP)
        features = {m: network.feature_distances(made, list(truths.values())) for m, made in images.items()}
    save_json(path, {m: {"cases": cases[m], "features": features[m]} for m in METHODS})
    return json.loads(path.read_text())


def table(results: Mapping[int, dict], args: argparse.Namespace) -> str:
    """Markdown: a row a method, mean and spread over seeds."""
    figures = {"MAE, %": ("mae", WINDOW[1] / 100, 2), "PSNR, dB": ("psnr", 1, 2), "SSIM": ("ssim", 1, 3)}
    figures["spectrum, dB"] = ("spectral_distance", 1, 2)
    rows = []
    for method, title in METHODS.items():
        row = [title.format(size=args.size, twice=2 * args.size)]
        for figure, unit, digits in figures.values():
            found = [_mean(case[figure] for case in r[method]["cases"].values()) for r in results.values()]
            row.append(with_spread([v / unit for v in found], digits))
        distances = [r[method]["features"].get(f"{args.extractor}_kernel_distance", {}) for r in results.values()]
        rows.append([*row, with_spread([d.get("value") for d in distances], 1)])
    cases = len(next(iter(results.values()))["one more"]["cases"])
    words = {"size": args.size, "twice": 2 * args.size, "crop": CROP, "cases": cases}
    words |= {"base_steps": args.base_steps, "steps": args.steps}
    caption = CAPTION.format(**words, seeds=" ".join(map(str, args.seeds)), extractor=args.extractor)
    return markdown(["from", *figures, "kernel distance"], rows) + caption


def _mean(figures) -> float:
    return float(np.mean([v["value"] if isinstance(v, Mapping) else v for v in figures]))


def lung(volume: Volume, side: int) -> RegionView:
    """A square of at most `side` pixels where most chests have a lung, ribs and vessels: about a third down and in."""
    starts = [max(0, min(n - side, n // 4)) for n in volume.shape]
    return RegionView(volume, [(s, min(n, s + side)) for s, n in zip(starts, volume.shape)])


def pixels(volume: Volume) -> np.ndarray:
    return volume.read((0, 0), volume.shape)


def pictures(truths: Mapping[str, ArrayVolume], args: argparse.Namespace) -> None:
    """comparison.png and four_times.png of the last held-back case and the first seed."""
    name, truth = list(truths.items())[-1]
    seed, side = args.seeds[0], args.size // 2
    made = {method: Panel(method, lung(image, side)) for method, image in renderings(truth, seed, args)}
    footer = f"{name}: {side} x {side} of {truth.shape[0]} x {truth.shape[1]}; {args.steps} steps, from "
    rows: dict[str, list] = {"a sketch": [], "the real image of half the size": []}
    for method, panel in made.items():
        rows["the real image of half the size" if method.endswith(", real") else "a sketch"].append(panel)
    rows = {footer + source: [Panel("truth", lung(truth, side)), *panels] for source, panels in rows.items()}
    write_comparison(args.work_dir / "comparison.png", rows, WINDOW)
    size = [2 * n for n in truth.shape]
    large = variant_of(args.size, seed, args).render(truth, args.tile_size, seed, size=size)
    titles = [f"drawn at {size[0]} x {size[1]}", f"the real one, {truth.shape[0]} x {truth.shape[1]}"]
    parts = [pixels(lung(large, 2 * side)), np.kron(pixels(lung(truth, side)), np.ones((2, 2)))]
    rows = {
        f"{name}; two scales more than trained, of which no truth exists": [pixels(half(large)), truth.array],
        f"a part of both, {2 * side} x {2 * side} pixels of the larger": parts,
    }
    # arrays, not volumes: the films' pixel size is unknown
    rows = {footer: [Panel(title, image) for title, image in zip(titles, images)] for footer, images in rows.items()}
    write_comparison(args.work_dir / "four_times.png", rows, WINDOW)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", type=int, default=1024, help="pixels of the longer side at which the first trains")
    parser.add_argument("--tile_size", type=int, default=256, help="pixels")
    return arguments(parser)


def main() -> None:
    args = options()
    folders = {size: args.work_dir / f"images_{size}" for size in (args.size, 2 * args.size)}
    held_back = {size: prepare(args.data_dir, folder, size) for size, folder in folders.items()}
    truths = {name: seen(path) for name, path in held_back[2 * args.size].items()}
    results = {}
    for seed in args.seeds:
        base = base_weights((), seed, folders[args.size], args)
        for size, folder in folders.items():
            variant_of(size, seed, args).weights(args.steps, dataset_dir=folder, warm_start=base)
        results[seed] = scores(truths, seed, args)
    save_json(args.work_dir / "table.json", {"steps": args.steps, "size": args.size, "seeds": results})
    text = table(results, args)
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(text, encoding="utf-8"))
    pictures(truths, args)
    print(text)


if __name__ == "__main__":
    main()
