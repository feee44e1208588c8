"""A process of its own that has the stand-in card, so that no other test meets a device that it did not ask for.

Its functions are called through `CardProcess.call`, by name: what they take and return crosses between processes.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from front_door import BUNDLES, FrontDoor
from hiresmed.core.errors import InputError
from monai.bundle import ConfigParser
from monai.data import decollate_batch

FOLDER = Path(__file__).parent


class CardProcess:
    """One process with the card; what is called in it runs there, one call after another.

    An exception comes back with its traceback; a crash ends this process alone.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch
        self.pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=(str(FOLDER),))

    def call(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        return self.pool.submit(function, *args, **kwargs).result()

    def close(self) -> None:
        self.pool.shutdown()


def run(bundle: str, knobs: dict, overlays: Sequence[str] = (), workflow: str = "inference") -> int:
    """A bundle's config with these knobs; returns how many bytes of the card it needed at its peak."""
    gc.collect()  # the engine of the run before
    torch.card.reset_peak_memory_stats()
    before = torch.card.memory_allocated()
    FrontDoor(bundle, {}).run(knobs, *overlays, workflow=workflow)
    return torch.card.max_memory_allocated() - before


def mistake_on_a_small_card(
    bundle: str, knobs: dict, free: int, overlays: Sequence[str] = (), workflow: str = "inference"
) -> str:
    """What a run says that finds `free` bytes of the card, and no more."""
    gc.collect()
    torch.card.limit_memory(torch.card.memory_allocated() + free)
    try:
        FrontDoor(bundle, {}).run(knobs, *overlays, workflow=workflow)
    except InputError as error:
        return str(error)
    finally:
        torch.card.limit_memory(0)
    return ""


def serve(bundle: str, knobs: dict, request: dict) -> np.ndarray:
    """What a server (MONAI Label) hands to its writer: pre- and postprocessing as its BundleInferTask calls them."""
    parser = _parser(bundle, knobs)
    data = parser.get_parsed_content("preprocessing")(dict(request))
    inputs = data["image"][None].to(knobs["device"])
    network = parser.get_parsed_content("network")
    with torch.no_grad():
        pred = parser.get_parsed_content("inferer")(inputs, network)
    data["pred"] = decollate_batch(pred)[0]
    return np.asarray(parser.get_parsed_content("postprocessing")(data)["pred"])


def random_weights(bundle: str, knobs: dict, path: str) -> None:
    """A file of weights for a bundle's network; layers that begin as zeros are drawn, too, so that every one shows."""
    torch.manual_seed(0)
    state = _parser(bundle, knobs).get_parsed_content("network_def").state_dict()
    for weight in state.values():
        if weight.is_floating_point() and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    torch.save(state, path)


def refusals() -> list[str]:
    """The first line of the error of each operation that a card refuses."""
    on_card, on_host = torch.ones(2, 2, device="card"), torch.ones(2, 2)
    weights = torch.nn.Linear(2, 2)
    sentences = []
    for operation in (
        on_card.numpy,
        lambda: np.asarray(on_card),
        lambda: on_card + on_host,
        lambda: weights(on_card),
        lambda: torch.cat([on_card, on_host]),
        lambda: torch.conv2d(on_card[None, None], on_host[None, None]),
    ):
        try:
            operation()
            sentences.append("")
        except (RuntimeError, TypeError) as error:
            sentences.append(str(error).splitlines()[0])
    return sentences


def counted_bytes() -> tuple[int, int]:
    """Bytes in use, and at the peak, beyond those of before: of a tensor of 4000 bytes of which half was copied."""
    torch.card.reset_peak_memory_stats()
    before = torch.card.memory_allocated()
    whole = torch.zeros(1000, device="card")
    half = whole[:500].clone()
    del whole
    in_use = torch.card.memory_allocated() - before
    del half
    return in_use, torch.card.max_memory_allocated() - before


def _start(folder: str) -> None:
    sys.path.insert(0, folder)
    import stand_in_card

    torch.set_num_threads(1)
    stand_in_card.load()


def _parser(bundle: str, knobs: dict) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / bundle / "configs" / "inference.yaml"))
    parser.update({name.replace("#", "::"): value for name, value in knobs.items()})
    return parser
