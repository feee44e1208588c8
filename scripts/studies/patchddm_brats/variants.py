"""The study of patchddm_brats on phantoms: solvers, patches, skips, coordinates, ensembles, and SegResNet beside it.

    python scripts/studies/patchddm_brats/variants.py --work_dir ./runs/study --seeds 0 1 2

Trains each variant (an overlay beside this script) for the same number of steps, segments the same held-back phantoms
at their own grid, and writes table.json, table.md, solvers.png and comparison.png into --work_dir. Resumable: what is
trained or scored is not done again. --tables chooses some of the tables, --steps and --cases their size.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.weights import load_weights
from hiresmed.datasets import brain_cases
from hiresmed.methods.patchddm import DiffusionInferer, RegionMetrics, build_sampler, region_codes
from hiresmed.reports.preview import Panel
from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.utils import convert_to_dst_type

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
from curves import curves
from study import BUNDLES, Variant, knobs_of, markdown, save_aside, save_json, with_spread, write_comparison

BUNDLE = BUNDLES / "patchddm_brats"
COMMON = ("train.yaml", "studies/study.yaml")
END = "studies/study_end.yaml"  # over the last third of a training
BASE = "base"
VARIANTS = {
    BASE: [],
    "paper's recipe": ["paper_recipe"],
    "patch 1/4": ["patch_quarter"],
    "patch 3/4": ["patch_three_quarters"],
    "patch whole": ["patch_whole"],
    "skip add": ["skip_add"],
    "skip concatenate": ["skip_concatenate"],
    "skip concatenate, equal memory": ["skip_concatenate_equal_memory"],
    "downsampled": ["downsampled"],
    "downsampled, skip concatenate": ["downsampled", "skip_concatenate"],
    "no coordinates": ["no_coordinates"],
    "patch 1/4, no coordinates": ["patch_quarter", "no_coordinates"],
    "endpoint coordinates": ["endpoint_coordinates"],
    "three regions": ["multiclass"],
    "SegResNet": ["segresnet"],
}
DRAWS = (1, 3, 7)
EVALUATIONS = (1, 3, 5, 10, 20)
REFERENCE = 100  # evaluations that fewer are compared with
TABLES = {
    "recipes": (BASE, "paper's recipe"),
    "solvers": (BASE,),
    "patches": (BASE, "patch 1/4", "patch 3/4", "patch whole"),
    "skips": (
        BASE, "skip add", "skip concatenate", "skip concatenate, equal memory", "downsampled",
        "downsampled, skip concatenate",
    ),
    "coordinates": (BASE, "endpoint coordinates", "no coordinates", "patch 1/4", "patch 1/4, no coordinates"),
    "classes": (BASE, "three regions"),
    "peer": (BASE, "SegResNet"),
}  # fmt: skip
SPACING = "trailing"  # the times of all solvers, so that a table compares their orders alone
MANY_DRAWS = ("recipes", "solvers")  # tables on half of the cases
FIGURES = {"dice": 3, "hd95": 1, "auroc_variance": 3, "auroc_entropy": 3, "ece": 4}


def solver_steps(solver: str, evaluations: int) -> int:
    """Steps with which a solver asks the network that often, or once less where it cannot (Heun: 2 n - 1 times).

    >>> solver_steps("heun", 5), solver_steps("heun", 10), solver_steps("ddim", 10)
    (3, 5, 10)
    """
    return (evaluations + 1) // 2 if solver == "heun" else evaluations


def settings(table: str, usual_steps: int) -> Iterator[dict]:
    """How a variant's weights are to be run for one table; the default is its training's own, `val_steps`."""
    default = {"solver": "ddim", "steps": usual_steps, "inference": "whole"}
    if table == "solvers":
        for evaluations in EVALUATIONS:
            for solver in ("ddim", "dpm", "heun") if evaluations > 1 else ("ddim",):  # one step of any is the same
                yield {**default, "solver": solver, "steps": solver_steps(solver, evaluations), "draws": max(DRAWS)}
        yield {**default, "steps": REFERENCE, "draws": 1}
        for steps in (usual_steps, REFERENCE):  # a network that fails on the whole would hide what steps do
            yield {**default, "steps": steps, "inference": "sliding", "draws": 1}
    else:
        yield {**default, "draws": max(DRAWS) if table == "recipes" else 1}
        yield {**default, "inference": "sliding", "draws": 1}


def made(variant: str, seed: int, args: argparse.Namespace) -> Variant:
    overlays = [f"studies/{name}.yaml" for name in VARIANTS[variant]]
    folder = "".join(c if c.isalnum() else "_" for c in variant)
    knobs = {**args.knobs, "seed": seed, "cache_dir": args.work_dir.resolve() / "cache"}
    run = args.work_dir / f"{folder}_{args.steps}steps_seed{seed}"
    return Variant(BUNDLE, [*COMMON, *overlays], run, knobs, last=[END])


class Scorer:
    """Segments the held-back phantoms with one variant's weights and scores them at their own grid."""

    def __init__(self, variant: Variant, cases: int) -> None:
        self.parser = variant.parser()
        get = self.parser.get_parsed_content
        self.network = load_weights(get("network_def"), variant.folder / "final.pt")
        self.loading = get("loading")
        self.regions = get("regions")
        found = brain_cases(section="test", phantoms=cases, phantom=get("phantom"))
        self.cases = [self.loaded(case) for case in found]

    def loaded(self, case: dict) -> dict:
        """image as the network sees it; given (4, *S) and label (1, *S) at the phantom's own grid; no draws yet."""
        image, label = case["image"].read()
        affine = case["image"].affine
        given = MetaTensor(torch.from_numpy(image), affine=affine, meta={"original_affine": affine})
        return {"image": self.loading(dict(case))["image"], "given": given, "label": torch.from_numpy(label)[None]}

    def inferer(self, solver: str, steps: int, inference: str) -> DiffusionInferer:
        get = self.parser.get_parsed_content
        sampler = build_sampler(solver, get("schedule"), get("clip"), SPACING)
        return DiffusionInferer(
            sampler, len(self.regions), steps, inference, get("patch_size"), coordinates=get("coordinates"),
            reference_size=get("reference_size"), multiple=get("validate::diffusion::multiple"), amp=True,
        )  # fmt: skip

    def score(self, setting: Mapping) -> list[dict]:
        """A dict of figures for each case and each of DRAWS up to the setting's, with its number of draws."""
        diffusion = self.inferer(setting["solver"], setting["steps"], setting["inference"])
        rows = []
        for case in self.cases:
            for draws in (n for n in DRAWS if n <= setting["draws"]):
                # a draw belongs to its number, so the first three of seven are the three
                rows.append({"draws": draws, **self.figures(case, self.segmented(case, diffusion, draws))})
        return rows

    def segmented(self, case: dict, diffusion: DiffusionInferer, draws: int) -> torch.Tensor:
        """(2 R, *S): probability and variance at the case's own grid; draws that were made are not made again."""
        known = case.setdefault("drawn", {}).setdefault(id(diffusion), [])
        case["drawn"] = {id(diffusion): known}  # another setting's draws are done with
        missing = range(len(known), draws)
        if missing:
            diffusion.sample(
                case["image"][None], self.network, members=missing, each=lambda _, x: known.append(x[0] + 0)
            )
        low, high = self.parser.get_parsed_content("label_range")
        drawn = (torch.stack(known[:draws]) - low) / (high - low)
        variance = drawn.var(0) if draws > 1 else torch.zeros_like(drawn[0])
        pred = convert_to_dst_type(torch.cat([drawn.mean(0).clamp(0, 1), variance]), case["image"])[0]
        pair = {"image": case["image"], "pred": pred}
        return Invertd("pred", self.loading, "image", nearest_interp=False)(pair)["pred"].as_tensor()

    def figures(self, case: dict, found: torch.Tensor) -> dict:
        """Scores of every region; a region is scored as a whole tumour alone would be."""
        probability, variance = found.split(len(self.regions))
        rows = {}
        for n, (region, codes) in enumerate(region_codes(self.regions).items()):
            maps = {"probability": probability[n : n + 1], "variance": variance[n : n + 1]}
            pred = (maps["probability"] > 0.5).to(torch.uint8) * codes[-1]
            rows |= RegionMetrics({region: codes})(
                {**maps, "pred": pred, "label": case["label"], "given": case["given"]}
            )
        return {name: value for name, value in rows.items() if not isinstance(value, Mapping)}


def table_of(name: str, rows: Sequence[Mapping]) -> str:
    """Markdown: one line a setting, mean and deviation over the seeds of the mean over the cases."""
    groups: dict[tuple, dict[int, list]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("variant", "inference", "solver", "evaluations", "draws"))
        groups.setdefault(key, {}).setdefault(row["seed"], []).append(row)
    lines = []
    for (variant, inference, solver, evaluations, draws), seeds in groups.items():
        for region in sorted({n.removeprefix("dice_") for rows in seeds.values() for n in rows[0] if n[:5] == "dice_"}):
            cells = [
                with_spread([_mean(r[f"{f}_{region}"] for r in rows) for rows in seeds.values()], d)
                for f, d in FIGURES.items()
            ]
            lines.append([variant, region, inference, solver, str(evaluations), str(draws), *cells])
    header = ["variant", "region", "inference", "solver", "evaluations", "draws", *FIGURES]
    return f"### {name}\n\n{markdown(header, lines)}\n"


def _mean(figures) -> float | None:
    known = [v for v in figures if v is not None]
    return float(np.mean(known)) if known else None


def run_table(name: str, args: argparse.Namespace) -> list[dict]:
    """All rows of one table; each (variant, seed, setting) is kept in a file of its own."""
    rows = []
    for seed in args.seeds:
        for variant in TABLES[name]:
            training = made(variant, seed, args)
            training.weights(args.steps)
            scorer, cases = None, max(1, args.cases // 2) if name in MANY_DRAWS else args.cases
            for setting in settings(name, training.parser().get_parsed_content("val_steps")):
                words = "_".join(str(v) for v in setting.values())
                path = training.folder / f"scores_{cases}cases_{words}.json"
                if not path.exists():
                    scorer = scorer or Scorer(training, cases)
                    save_json(path, scorer.score(setting))
                schedule = training.parser().get_parsed_content("schedule")
                sampler = build_sampler(setting["solver"], schedule, spacing=SPACING)
                about = {"variant": variant, "seed": seed, "evaluations": sampler.evaluations(setting["steps"])}
                rows += [{**about, **setting, **row} for row in json.loads(path.read_text())]
            print(f"{name}: {variant}, seed {seed}", flush=True)
    return rows


def few_steps(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
    """Dice over network evaluations for each number of draws and each solver, whole volumes: its Fig. 5 redone."""
    groups: dict[str, dict[str, dict[int, dict]]] = {}
    for row in (row for row in rows if row["inference"] == "whole"):
        title = "1 draw" if row["draws"] == 1 else f"{row['draws']} draws"
        seeds = groups.setdefault(title, {}).setdefault(row["solver"], {})
        seeds.setdefault(row["seed"], {}).setdefault(row["evaluations"], []).append(row["dice_WT"])
    one = {(title, seed): s[1] for title, solvers in groups.items() for seed, s in solvers["ddim"].items()}
    panels = {
        title: {
            solver: [
                sorted((n, float(np.mean(dice))) for n, dice in {1: one[title, seed], **found}.items())
                for seed, found in seeds.items()
            ]
            for solver, seeds in solvers.items()
        }
        for title, solvers in groups.items()
    }
    curves(path, panels, "network evaluations", "Dice of the whole tumour", log_x=True)


def picture(names: Sequence[str], args: argparse.Namespace) -> None:
    """The first held-back phantom as each variant of the tables segments it, first seed."""
    panels = []
    for variant in dict.fromkeys(v for name in names for v in TABLES[name]):
        scorer = Scorer(made(variant, args.seeds[0], args), 1)
        case = scorer.cases[0]
        image = ArrayVolume(np.asarray(case["given"][3]), case["given"].meta["original_affine"])
        if not panels:
            panels.append(Panel("truth", image, overlay=np.asarray(case["label"][0])))
        steps = scorer.parser.get_parsed_content("val_steps")
        found = scorer.segmented(case, scorer.inferer("ddim", steps, "whole"), 1)[: len(scorer.regions)]
        overlay = (np.asarray(found) > 0.5).sum(0).astype(np.uint8)
        panels.append(Panel(variant, image, overlay=overlay))
    window = tuple(np.percentile(panels[0].image.array, (1, 99.5)))
    write_comparison(args.work_dir / "comparison.png", {f"{args.steps} steps each, one draw": panels}, window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=450, help="batches a training")
    parser.add_argument("--cases", type=int, default=4, help="held-back phantoms; half for many draws")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    args, words = parser.parse_known_args()
    args.knobs = knobs_of(words)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    tables = {name: run_table(name, args) for name in args.tables}
    save_json(args.work_dir / "table.json", {"steps": args.steps, "cases": args.cases, "tables": tables})
    text = "\n".join(table_of(name, rows) for name, rows in tables.items())
    save_aside(args.work_dir / "table.md", lambda aside: aside.write_text(text))
    if "solvers" in tables:
        few_steps(args.work_dir / "solvers.png", tables["solvers"])
    picture(args.tables, args)


if __name__ == "__main__":
    main()
