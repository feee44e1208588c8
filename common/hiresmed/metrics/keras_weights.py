"""Keras' .h5 weight files as state dicts of torch networks that create their layers in the same order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError
from .extractor import check_sha256


def keras_state(network: nn.Module, path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """A Keras .h5 file as the network's state dict: the k-th convolution and the k-th norm by order of creation.

    Keras numbers its layers as they are created (conv2d, conv2d_1, ...; a second model in one program continues the
    count), and stores them in another order, so the number in the name decides. Dense layers are left out; a norm
    without gamma has gamma 1.

    Args:
        network: its modules with a `conv` and a `bn` take the weights.
        sha256: the file's.

    Raises InputError: no h5py, another sha256, no Keras .h5 file, or one of another network.
    """
    check_sha256(path, sha256)
    kernels, norms = _keras_layers(path)
    state = network.state_dict()
    convs = [name for name, module in network.named_modules() if hasattr(module, "conv") and hasattr(module, "bn")]
    if len(kernels) != len(convs) or len(norms) != len(convs):
        raise InputError(
            f"The weight file {path} must hold {len(convs)} convolutions and norms, got {len(kernels)} and "
            f"{len(norms)}; give one of Keras' InceptionV3."
        )
    fields = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for name, conv, norm in zip(convs, kernels, norms):
        # (height, width, in, out) -> (out, in, height, width)
        state[f"{name}.conv.weight"] = torch.from_numpy(conv["kernel"]).permute(3, 2, 0, 1)
        norm.setdefault("gamma", np.ones_like(norm["beta"]))
        state |= {f"{name}.bn.{ours}": torch.from_numpy(norm[theirs]) for theirs, ours in fields.items()}
    return state


def _keras_layers(path: Path) -> tuple[list[dict], list[dict]]:
    """Arrays by name of each convolution and of each norm, in order of creation."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"h5py must be installed to read {path}, got none; run pip install h5py, or use other weights."
        ) from error
    layers: dict[str, dict[int, dict]] = {"conv2d": {}, "batch_normalization": {}}

    def collect(name: str, item) -> None:
        layer = re.search(r"(?:^|/)(conv2d|batch_normalization)(?:_(\d+))?/(?:.*/)?([a-z_]+)(?::0)?$", name)
        if layer and isinstance(item, h5py.Dataset):
            layers[layer[1]].setdefault(int(layer[2] or 0), {})[layer[3]] = item[()]

    try:
        with h5py.File(path, "r") as file:
            weights = file.get("model_weights", file)
            if "layer_names" not in weights.attrs:
                raise KeyError("layer_names")  # Keras 3's .weights.h5 renumbers its layers in another order
            weights.visititems(collect)
        kernels, norms = ([arrays[k] for k in sorted(arrays)] for arrays in layers.values())
        return kernels, norms
    except (OSError, KeyError) as error:
        raise InputError(
            f"The weight file {path} must be a Keras .h5 file with layer names (model.save(...h5), not Keras 3's "
            f".weights.h5), got another file ({type(error).__name__}); give such a file."
        ) from error
