"""What the studies of all bundles share: training through the front door, rendering, scores, tables. No command.

The studies are in one folder for each bundle, with the overlays of its configs that only they use.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.core.weights import load_weights
from hiresmed.io import MemoryStores
from hiresmed.methods.msgan import CascadeInferer
from hiresmed.metrics import retile_discrepancy
from hiresmed.reports.preview import Panel, write_preview
from monai.bundle import ConfigParser
from PIL import Image

STUDIES = pathlib.Path(__file__).resolve().parent
BUNDLES = STUDIES.parents[1] / "bundles"
ABREAST = 6  # panels in a row of a picture


def slug(name: str) -> str:
    """A name of letters, digits and _ for files."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def train(bundle: pathlib.Path, configs: Sequence, output_dir: pathlib.Path, **knobs) -> pathlib.Path:
    """One training through the front door, continued if it was begun; returns its folder.

    Args:
        configs: names as config_files takes them.
        knobs: as on the command line.
    """
    if epochs_done(output_dir) >= int(knobs.get("max_epochs", sys.maxsize)):
        return output_dir
    return run_bundle(bundle, configs, output_dir, **{"resume": "true", **knobs})


def run_bundle(bundle: pathlib.Path, configs: Sequence, output_dir: pathlib.Path, **knobs) -> pathlib.Path:
    """One run through the front door; returns its folder. Arguments as train's."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config_files(bundle, configs))]
    options = {"bundle_root": bundle, "output_dir": output_dir, **knobs}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run([*command, *words], check=True)
    return output_dir


def config_files(bundle: pathlib.Path, configs: Sequence) -> list[str]:
    """Paths of configs: the bundle's own by name, its studies' overlays as `studies/<name>`; absolute ones as given."""
    overlays = STUDIES / bundle.name
    return [
        str(overlays / name.removeprefix("studies/"))
        if str(name).startswith("studies/")
        else str(bundle / "configs" / name)
        for name in configs
    ]


def parsed(bundle: pathlib.Path, configs: Sequence, knobs: Mapping) -> ConfigParser:
    """A bundle's configs with knobs laid over them, read as the command line reads them."""
    parser = ConfigParser()
    parser.read_config(config_files(bundle, configs))
    for name, value in knobs.items():
        parser[name] = literal(value)
    return parser


def latest(run: pathlib.Path) -> dict:
    """A training's last checkpoint; empty without one."""
    path = run / "checkpoints" / "latest.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}


def epochs_done(run: pathlib.Path) -> int:
    """Epochs in a training's last checkpoint; 0 without one."""
    return int(latest(run).get("epoch", 0))


def averaged_weights(run: pathlib.Path) -> dict:
    """The averaged generator of a training's last checkpoint, as a flat state_dict."""
    state = latest(run)["objects"]["ema"]
    return {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}


class Variant:
    """One training to compare: a stack of configs, trained for a number of steps, whose result can be rendered.

    Args:
        bundle: the bundle's folder.
        configs: of the whole run, train.yaml first.
        folder: of the run.
        knobs: over the configs, on the command line and at rendering.
        first: overlays of the first half of the steps.
        last: overlays of the last third of the steps.
    """

    def __init__(
        self,
        bundle: pathlib.Path,
        configs: Sequence,
        folder: pathlib.Path,
        knobs: Mapping,
        first: Sequence = (),
        last: Sequence = (),
    ) -> None:
        self.bundle, self.configs, self.folder, self.knobs = bundle, list(configs), folder, dict(knobs)
        self.first, self.last = list(first), list(last)

    def weights(self, steps: int, longest_epoch: int = 50, **knobs) -> pathlib.Path:
        """Trains for `steps` batches, rounded up to whole epochs, or goes on, or finds it done; knobs for training."""
        path = self.folder / "final.pt"
        if path.exists():
            return path
        iterations = max(1, min(longest_epoch, steps // 3))
        epochs = -(-steps // iterations)
        knobs = {**knobs, **self.knobs, "iterations": iterations}
        begun = time.time()
        if self.first:
            train(self.bundle, [*self.configs, *self.first], self.folder, **knobs, max_epochs=max(1, epochs // 2))
        if self.last:
            train(self.bundle, self.configs, self.folder, **knobs, max_epochs=max(1, epochs * 2 // 3))
        train(self.bundle, [*self.configs, *self.last], self.folder, **knobs, max_epochs=epochs)
        (self.folder / "seconds.txt").write_text(f"{time.time() - begun:.0f}\n")
        save_aside(path, lambda aside: torch.save(averaged_weights(self.folder), aside))
        return path

    def parser(self) -> ConfigParser:
        """The configs with the knobs laid over them."""
        return parsed(self.bundle, self.configs, self.knobs)

    def render(self, volume: Volume, tile_size: int, seed: int, **options) -> ArrayVolume:
        """The volume drawn from its own sketch with the trained weights; in memory, in the volume's dtype.

        Args:
            options: of CascadeInferer, over the variant's own.
        """
        parser = self.parser()
        network = load_weights(parser.get_parsed_content("network_def"), self.folder / "final.pt")
        own = {name: parser.get_parsed_content(name) for name in ("base_size", "window", "noise")}
        inferer = CascadeInferer(
            parser.get_parsed_content("sketcher"), MemoryStores(None), tile_size=tile_size, seed=seed,
            dtype=str(volume.dtype), progress=False, **{**own, **options},
        )  # fmt: skip
        made = inferer({"image": volume}, network).image
        return ArrayVolume(made.read([0] * len(made.shape), made.shape), made.affine, volume.name)


def trained_as(weights: pathlib.Path) -> dict:
    """The knobs of inference.yaml that a cascade's weights ask for: the base stage's size, the kind of sketch."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    blocks = {name.split(".")[2] for name in state if name.startswith("base.blocks.")}
    return {
        "network_def::base::width": state["base.stem.weight"].shape[0],
        "network_def::base::fine_width": state["base.to_fine.weight"].shape[0],
        "network_def::base::num_blocks": len(blocks),
        "sketch_kind": "signed" if "signed_sketch" in state else "edges",
    }


class Cascade:
    """A bundle's cascade with some weights, as its inference.yaml renders; in memory.

    Args:
        bundle: the bundle's folder.
        weights: a flat state_dict; which network it belongs to is read from it.
        knobs: over inference.yaml.
    """

    def __init__(self, bundle: pathlib.Path, weights: pathlib.Path, **knobs) -> None:
        self.bundle = bundle
        self.knobs = {**trained_as(weights), **knobs}
        self.parser = parsed(bundle, ["inference.yaml"], self.knobs)
        self.network = load_weights(self.parser.get_parsed_content("network_def"), weights)

    def render(self, case: Mapping[str, Volume], overlays: Sequence = (), **options) -> ArrayVolume:
        """A case (image, sketch, mask) in the dtype of its image; options of CascadeInferer over the config's."""
        parser = parsed(self.bundle, ["inference.yaml", *overlays], self.knobs) if overlays else self.parser
        names = ("base_size", "window", "noise", "tile_size", "num_scales", "first_image")
        own = {name: parser.get_parsed_content(name) for name in names}
        sketcher = self.parser.get_parsed_content("sketcher")
        dtype = str(next(iter(case.values())).dtype)
        settings = {"dtype": dtype, "progress": False, **own, **options}
        made = CascadeInferer(sketcher, MemoryStores(None), **settings)(dict(case), self.network).image
        return ArrayVolume(made.read([0] * len(made.shape), made.shape), made.affine, made.name)


def literal(value):
    """A knob's value as MONAI's command line would take it: numbers, lists and dicts out of text.

    >>> literal("[1, 2]"), literal("shared"), literal(3)
    ([1, 2], 'shared', 3)
    """
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def knobs_of(words: Sequence[str]) -> dict[str, str]:
    """`--name value` pairs that a script hands on to the training."""
    if len(words) % 2 or any(not name.startswith("--") for name in words[::2]):
        sys.exit(f"error: knobs for the training must come as --name value pairs, but {' '.join(words)} came.")
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2])}


def retiled(variant: Variant, made: ArrayVolume, truth: Volume, tile_size: int, seed: int) -> float:
    """Largest difference between the rendering and one on another grid of tiles, in the image's units."""
    return retile_discrepancy(variant.render(truth, tile_size + 32, seed), made)["max"]


def save_aside(path: pathlib.Path, write) -> pathlib.Path:
    """`write(path)` under another name, then renamed: what has its name is whole, so a killed study goes on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    write(aside)
    os.replace(aside, path)
    return path


def save_json(path: pathlib.Path, value) -> pathlib.Path:
    return save_aside(path, lambda aside: aside.write_text(json.dumps(value, indent=2, default=str) + "\n"))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def with_spread(figures: Sequence[float | None], digits: int) -> str:
    """Mean and, from two on, standard deviation; - where there is none."""
    known = [v for v in figures if v is not None and np.isfinite(v)]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def write_comparison(path: pathlib.Path, rows: Mapping[str, Sequence[Panel]], window: Sequence[float]) -> pathlib.Path:
    """A picture of several cases one below the other, each with its panels, at most ABREAST in a row, on one scale."""
    parts = []
    columns = min(ABREAST, max(len(panels) for panels in rows.values()))
    for footer, panels in rows.items():
        for first in range(0, len(panels), columns):
            part = path.with_name(f".{path.stem}_{len(parts)}.png")
            write_preview(part, panels[first : first + columns], window, footer, columns)
            with Image.open(part) as picture:
                parts.append(picture.convert("RGB"))
            part.unlink()
    return save_aside(path, one_below_the_other(parts).save)


def one_below_the_other(pictures: Sequence[Image.Image]) -> Image.Image:
    """RGB pictures stacked, their left edges in line."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)))
    for n, picture in enumerate(pictures):
        whole.paste(picture, (0, sum(p.height for p in pictures[:n])))
    return whole
