"""What to type after a training: the command that uses its weights."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser

from .bundle_folders import BundleFolder, bundles, is_bundle, loaded
from .door import running_workflow

# of a run or its data, so that another value in training asks for nothing at inference
OF_THE_RUN = {
    "amp", "batch_size", "bundle_root", "cache_dir", "cases_list", "channel_order", "dataset_dir", "device", "label",
    "label_coding", "output_dir", "overwrite", "phantom", "resume", "seed", "skull_stripped", "split", "subject",
    "subjects", "num_samples",
}  # fmt: skip


def say_next_command() -> None:
    """Last step of a training's `finalize`, before the processes part: the first of them prints the command."""
    running = running_workflow()
    if running is None or idist.get_rank() != 0:
        return
    root = Path(running.config_root_path).resolve().parent
    output_dir = Path(str(running.parser.get_parsed_content("output_dir")))
    weights = output_dir / "model.pt"
    if is_bundle(root) and weights.is_file():
        print(f"Next: {command_with(BundleFolder(root), running.parser, weights)}", flush=True)


def command_with(folder: BundleFolder, training: ConfigParser, weights: Path) -> str:
    """Inference with these weights, and with each knob that both workflows have as the training had it.

    Args:
        folder: the bundle.
        training: its config as it was run.
        weights: file of the new weights.
    """
    words = ["--weights_path", str(weights)]
    for name, value in _knobs_of(folder, training):
        words += [f"--{name}", "null" if value is None else str(value)]
    known = bundles().get(folder.name)
    if __name__.startswith("hiresmed."):
        place = folder.name if known is not None and known.root.resolve() == folder.root else str(folder.root)
        command = ["hiresmed", "run", place]
    else:  # an exported bundle's copy of this package, which brings no command
        command = ["python", "-m", "monai.bundle", "run", "--config_file", str(folder.config("inference"))]
        command += ["--bundle_root", str(folder.root)]
    return shlex.join([*command, *words])


def _knobs_of(folder: BundleFolder, training: ConfigParser) -> Iterator[tuple[str, Any]]:
    """(name, value) of the knobs in which an inference by default would differ from the training."""
    inference = ConfigParser(loaded(folder.config("inference")))
    for name in (knob.name for knob in folder.knobs("inference")):
        if name not in OF_THE_RUN and name in training:
            value = training.get_parsed_content(name)
            if value != inference.get_parsed_content(name):
                yield name, value
