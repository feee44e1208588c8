"""The weights in models/: whole, of the network that inference builds, and small."""

from __future__ import annotations

import pathlib

import pytest
import torch
from hiresmed.core.output_files import sha256_of
from hiresmed.core.weights import load_weights
from monai.bundle import ConfigParser

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = sorted(ROOT.glob("bundles/*/models/*.pt"))


def test_every_bundle_ships_weights():
    bundles = {path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json")}
    assert {path.parents[1] for path in SHIPPED if path.name == "model.pt"} == bundles


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_shipped_weights_are_the_named_ones_fit_the_network_and_are_numbers(path):
    digest, name = path.with_name(f"{path.name}.sha256").read_text().split()
    assert (digest, name) == (sha256_of(path), path.name)
    assert path.stat().st_size < 25_000_000
    parser = ConfigParser()
    parser.read_config(str(path.parents[1] / "configs/inference.yaml"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    drawn = {name: value.clone() for name, value in network.state_dict().items()}
    loaded = load_weights(network, path).state_dict()
    assert all(value.isfinite().all() for value in loaded.values())
    weights = [name for name, _ in network.named_parameters()]
    assert all(not torch.equal(loaded[name], drawn[name]) for name in weights), "every weight was trained"
