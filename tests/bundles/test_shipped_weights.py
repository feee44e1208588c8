"""The weights in models/: whole, of the network that inference builds, and small."""

from __future__ import annotations

import pathlib

import pytest
import torch
from hiresmed.report import sha256_of
from hiresmed.weights import load_weights
from monai.bundle import ConfigParser

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_shipped_weights_are_the_named_ones_fit_the_network_and_are_numbers(bundle):
    path = bundle / "models/model.pt"
    digest, name = (bundle / "models/model.pt.sha256").read_text().split()
    assert (digest, name) == (sha256_of(path), path.name)
    assert path.stat().st_size < 25_000_000
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.yaml"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    drawn = {name: value.clone() for name, value in network.state_dict().items()}
    loaded = load_weights(network, path).state_dict()
    assert all(value.isfinite().all() for value in loaded.values())
    weights = [name for name, _ in network.named_parameters()]
    assert all(not torch.equal(loaded[name], drawn[name]) for name in weights), "every weight was trained"
