"""A network of noise prediction that begins as the best guess that knows nothing: eps = x_t.

At late times x_t is noise but for a little, and an error of the predicted noise weighs sigma_t / alpha_t times as much
in x_0 (157 times at the last step of the paper's schedule). A network that begins with zero spends thousands of batches
on learning to hand its input on; one that begins by doing so can spend them on the tumour. No parameter is added.
"""

from __future__ import annotations

import torch
from torch import nn

from ...core.errors import InputError
from .unet import PatchDDMUNet, ResidualBlock, Upsample


def start_as_noise(network: nn.Module, prediction: str = "eps") -> nn.Module:
    """The network, changed in place: it returns its last K input channels, each over its deviation.

    Two channels of the first level carry +x_t and -x_t through stem, skips and decoder to the head, where
    SiLU(a) - SiLU(-a) = a; they are trained like all others. Less the mean, too, where the head's norm is of single
    channels (the default). A network that was trained for another prediction keeps what its other channels know, so
    that it need not learn again what a tumour looks like.

    Args:
        network: a PatchDDMUNet, fresh or trained, of C channels in and K out, at least 2 K wide.
        prediction: of the schedule; for anything but "eps" the network stays as it is, whatever it is.

    Raises:
        InputError: another network, or one that is too narrow.
    """
    if prediction != "eps":
        return network
    if not isinstance(network, PatchDDMUNet):
        raise InputError(
            f"A network that starts as noise should be a PatchDDMUNet, but {type(network).__name__} came; start it as "
            "it is, in train.yaml by `fresh: '@network_def'`."
        )
    images = network.head[-1].out_channels
    if network.channels < 2 * images:
        raise InputError(
            f"A network of {images} predicted channels should be at least {2 * images} wide to start as noise, but is "
            f"{network.channels}; raise channels."
        )
    carriers = 2 * images
    decoder = list(network.decoder)
    last_up = max((n for n, step in enumerate(decoder) if isinstance(step, Upsample)), default=-1)
    first_level = list(network.encoder)[: len(decoder) - last_up - 2]  # as many blocks, less that which takes the stem
    with torch.no_grad():
        for k in range(images):
            for row, sign in ((2 * k, 1.0), (2 * k + 1, -1.0)):
                _only(network.stem, row, network.in_channels - images + k, sign)
                _only(network.head[-1], k, row, sign, clear=row == 2 * k)
        norm = network.head[0]
        norm.weight[:carriers], norm.bias[:carriers] = 1, 0
        for block in first_level:
            _pass_on(block, carriers, 0)
        if last_up >= 0:  # what comes from below starts with nothing to say on these channels
            decoder[last_up].conv.weight[:carriers] = 0
            decoder[last_up].conv.bias[:carriers] = 0
        else:
            for block in network.middle:
                _pass_on(block, carriers, 0)
        skips = [network.channels, *(block.conv2.out_channels for block in first_level)]
        for block in decoder[last_up + 1 :]:
            wide = skips.pop()
            _pass_on(block, carriers, block.norm1.num_channels - wide if network.skip == "concatenate" else 0)
    return network


def _only(conv: nn.Module, row: int, column: int, value: float, clear: bool = True) -> None:
    """A convolution's output channel `row` is value times its input channel `column`; of others nothing, if cleared."""
    if clear:
        conv.weight[row] = 0
        conv.bias[row] = 0
    conv.weight[(row, column, *[n // 2 for n in conv.kernel_size])] = value


def _pass_on(block: ResidualBlock, carriers: int, first: int) -> None:
    """A block hands on the carriers, which are its input channels from `first` on, and adds nothing to them."""
    block.conv2.weight[:carriers] = 0
    block.conv2.bias[:carriers] = 0
    if not isinstance(block.shortcut, nn.Identity):
        for row in range(carriers):
            _only(block.shortcut, row, first + row, 1.0)
