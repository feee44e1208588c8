"""The ablation of msgan_xray2d: scales, weights, training tricks, against single-scale patches; held-back patients.

    python scripts/studies/msgan_xray2d/ablation.py --data_dir $HIRESMED_DATA/xray2d \\
        --work_dir ./runs/ablation --seeds 0 1 2

Trains each variant, once a seed, for the same number of steps on the same patients, at a working size: its base stage
alone (once for all variants that differ above it alone), then the finer ones on it; renders the held-back patients
(section: test in cases.yaml) from their own sketches; writes table.json, table.md and comparison.png
(a typical case and the worst one) into --work_dir. Resumable: what is trained or scored is not done again. Without
--data_dir on phantoms. Other knobs (say, --batch_size 2) are handed on to every training.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan.levels import number_of_scales
from hiresmed.metrics import ReconstructionMetrics
from hiresmed.reports.preview import Panel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from study import Variant, markdown, retiled, save_aside, save_json, with_spread, write_comparison
from xrays import BUNDLE, COMMON, CROP, WINDOW, arguments, base_weights, prepare, seen


@dataclass(frozen=True)
class Recipe:
    """What sets a variant apart: overlays of the whole run, those of its last third, those that its base has, too."""

    title: str
    overlays: Sequence[str] = ()
    last: Sequence[str] = ()
    base: Sequence[str] | None = ()  # None: it has no base


VARIANTS = {
    "reference": Recipe("doublings, shared weights (reference)"),
    "scales_2x2": Recipe("two doublings", ["studies/scales_2x2.yaml"], base=["studies/scales_2x2.yaml"]),
    "factor_4x4": Recipe("factor 4", ["studies/factor_4x4.yaml"], base=["studies/factor_4x4.yaml"]),
    "factor_8": Recipe("factor 8", ["studies/factor_8.yaml"]),
    "per_scale": Recipe("weights per scale", ["studies/per_scale.yaml"]),
    "uncorrupted": Recipe("coarse images not corrupted", ["studies/uncorrupted.yaml"]),
    "finetuned": Recipe("last third on generated coarse images", last=["studies/finetuned.yaml"]),
    "plain_critic": Recipe("detail not amplified for the discriminator", ["studies/plain_critic.yaml"]),
    "no_adversary": Recipe("adversarial weight 0", ["studies/no_adversary.yaml"], base=["studies/no_adversary.yaml"]),
    "patches": Recipe("single-scale patches", ["patch_baseline.yaml", "studies/patches.yaml"], base=None),
}
CAPTION = """
Held-back images ({cases}), {size} pixels the longer side, {base_steps} steps of the base stage and {steps} of the finer
ones a variant (single-scale patches: {patch_steps} steps, as many pixels), seeds {seeds}; mean ± standard deviation
over seeds of the mean over images. MAE in per cent of the robust window; kernel distance of {crop}-pixel crops of all
images (feature network: {extractor}); retile: largest difference, of 65535 levels, to a rendering on another grid of
tiles. Not in the table: instance norm, which the network does not offer, since its statistics differ from tile to tile
and exact tiling refuses it; factors 4 x 2, since one factor serves all stages.
"""


def images_of(args: argparse.Namespace) -> pathlib.Path:
    """Folder of the images at the working size."""
    return args.work_dir / f"images_{args.size}"


def patch_steps(args: argparse.Namespace) -> int:
    """Steps of single-scale patches that see as many pixels as a cascade: those of a base have a fourth of them."""
    return args.steps + args.base_steps // 4


def variant_of(name: str, seed: int, args: argparse.Namespace) -> Variant:
    recipe = VARIANTS[name]
    folder = args.work_dir / f"{name}_{args.size}px_{args.base_steps}_{args.steps}steps_seed{seed}"
    cases = (images_of(args) / "cases.json").resolve()
    return Variant(BUNDLE, [*COMMON, cases, *recipe.overlays], folder, {**args.knobs, "seed": seed}, last=recipe.last)


def trained(name: str, seed: int, args: argparse.Namespace) -> Variant:
    """The variant, with its weights."""
    variant, images = variant_of(name, seed, args), images_of(args)
    overlays = VARIANTS[name].base
    if overlays is None:
        variant.weights(patch_steps(args), dataset_dir=images)
    else:
        variant.weights(args.steps, dataset_dir=images, warm_start=base_weights(overlays, seed, images, args))
    return variant


def scores(variant: Variant, truths: Mapping[str, ArrayVolume], seed: int, args: argparse.Namespace) -> dict:
    """Figures of one trained variant: per image, and of all images' features together; done once, then read."""
    path = variant.folder / "scores.json"
    if path.exists():
        return json.loads(path.read_text())
    metrics = ReconstructionMetrics(WINDOW, args.tile_size, None)
    made, cases = {}, {}
    for name, truth in truths.items():
        made[name] = variant.render(truth, args.tile_size, seed)
        cases[name] = metrics(made[name], truth)
        cases[name]["retile_discrepancy"] = retiled(variant, made[name], truth, args.tile_size, seed)
    features = {}
    if args.extractor != "none":
        metrics = ReconstructionMetrics(WINDOW, args.tile_size, args.extractor, patch=CROP)
        features = metrics.feature_distances(list(made.values()), list(truths.values()))
    arrays = {name: volume.array for name, volume in made.items()}
    save_aside(variant.folder / "made.npz", lambda aside: np.savez_compressed(aside, **arrays))
    save_json(path, {"cases": cases, "features": features})
    return json.loads(path.read_text())


def scales_of(variant: Variant, size: int) -> str:
    """The chain of factors from the base to the working size, and the base: 2 x 2 x 2 on 64."""
    parser = variant.parser()
    factor, base = int(parser.get_parsed_content("factor")), int(parser.get_parsed_content("base_size"))
    count = number_of_scales([size], base, factor)
    return f"{' x '.join([str(factor)] * count)} on {-(-size // factor**count)}" if count else "1"


def mean_of_cases(result: Mapping, figure: str) -> float | None:
    values = [case.get(figure) for case in result["cases"].values()]
    values = [v.get("value") if isinstance(v, Mapping) else v for v in values]
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def table(results: Mapping[str, Mapping[int, dict]], args: argparse.Namespace) -> str:
    """Markdown: a row a variant, mean and spread over seeds, and what was not compared below."""
    figures = {  # column -> (figure, divided by, digits)
        "MAE, %": ("mae", WINDOW[1] / 100, 2), "PSNR, dB": ("psnr", 1, 2), "SSIM": ("ssim", 1, 3),
        "spectrum, dB": ("spectral_distance", 1, 2), "seam_z": ("seam_z", 1, 1),
        "retile, levels": ("retile_discrepancy", 1, 1),
    }  # fmt: skip
    rows = []
    for name, of_seeds in results.items():
        row = [VARIANTS[name].title, scales_of(variant_of(name, args.seeds[0], args), args.size)]
        for figure, unit, digits in figures.values():
            found = [mean_of_cases(result, figure) for result in of_seeds.values()]
            row.append(with_spread([None if v is None else v / unit for v in found], digits))
        distances = [r["features"].get(f"{args.extractor}_kernel_distance", {}).get("value") for r in of_seeds.values()]
        rows.append([*row, with_spread(distances, 1)])
    cases = len(next(iter(next(iter(results.values())).values()))["cases"])
    words = {"cases": cases, "seeds": " ".join(map(str, args.seeds)), "crop": CROP, "base_steps": args.base_steps}
    words |= {"steps": args.steps, "patch_steps": patch_steps(args)}
    caption = CAPTION.format(size=args.size, extractor=args.extractor, **words)
    return markdown(["variant", "scales", *figures, "kernel distance"], rows) + caption


def picture(results: Mapping[str, Mapping[int, dict]], truths: Mapping[str, ArrayVolume], args: argparse.Namespace):
    """comparison.png: of the first seed, the case of middle SSIM over all variants, and the worst one."""
    seed = args.seeds[0]
    ranked = sorted(truths, key=lambda case: np.mean([r[seed]["cases"][case]["ssim"] for r in results.values()]))
    rows = {}
    for label, case in (("typical", ranked[len(ranked) // 2]), ("worst of all", ranked[0])):
        panels = [Panel("truth", truths[case].array)]  # arrays: the pixel size is unknown
        for name, of_seeds in results.items():
            ssim = of_seeds[seed]["cases"][case]["ssim"]
            with np.load(variant_of(name, seed, args).folder / "made.npz") as made:
                panels.append(Panel(f"{name}, SSIM {ssim:.3f}", made[case]))
        rows[f"{label}: {case}; {args.base_steps} + {args.steps} steps, seed {seed}"] = panels
    write_comparison(args.work_dir / "comparison.png", rows, WINDOW)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", type=int, default=512, help="pixels of the longer side at which all is done")
    parser.add_argument("--tile_size", type=int, default=128, help="pixels")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return arguments(parser)


def main() -> None:
    args = options()
    truths = {name: seen(path) for name, path in prepare(args.data_dir, images_of(args), args.size).items()}
    results: dict[str, dict[int, dict]] = {name: {} for name in args.variants}
    for seed in args.seeds:  # a whole table of one seed first
        for name in args.variants:
            variant = trained(name, seed, args)
            results[name][seed] = scores(variant, truths, seed, args)
            print(f"{name}, seed {seed}: SSIM {mean_of_cases(results[name][seed], 'ssim'):.3f}", flush=True)
    about = {"base_steps": args.base_steps, "steps": args.steps, "size": args.size}
    save_json(args.work_dir / "table.json", {**about, "variants": results})
    text = table(results, args)
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(text, encoding="utf-8"))
    picture(results, truths, args)
    print(text)


if __name__ == "__main__":
    main()
