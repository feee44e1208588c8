"""A network of noise prediction that begins as the best guess that knows nothing: eps = x_t.

At late times x_t is noise but for a little, and an error of the predicted noise weighs sigma_t / alpha_t times as much
in x_0 (157 times at the last step of the paper's schedule). A network that begins with zero spends thousands of batches
on learning to hand its input on; one that begins by doing so can spend them on the tumour. No parameter is added.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ...core.errors import InputError
from .unet import ConvNd, PatchDDMUNet, ResidualBlock, Upsample


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
            f"A network that starts as noise must be a PatchDDMUNet, got {type(network).__name__}; start it as it is, "
            "in train.yaml by `fresh: '@network_def'`."
        )
    images = network.out_channels
    if network.channels < 2 * images:
        raise InputError(
            f"A network of {images} predicted channels must be at least {2 * images} wide to start as noise, got "
            f"{network.channels}; raise channels."
        )
    carriers = 2 * images
    decoder = list(network.decoder)
    last_up = max((n for n, step in enumerate(decoder) if isinstance(step, Upsample)), default=-1)
    # as many blocks as the decoder's last level has, less that which takes the stem
    encoder = [cast(ResidualBlock, step) for step in network.encoder][: len(decoder) - last_up - 2]
    head_norm = cast(nn.GroupNorm, network.head[0])
    head = cast(ConvNd, network.head[-1])
    with torch.no_grad():
        for k in range(images):
            for row, sign in ((2 * k, 1.0), (2 * k + 1, -1.0)):
                _only(network.stem, row, network.in_channels - images + k, sign)
                _only(head, k, row, sign, clear=row == 2 * k)
        head_norm.weight[:carriers] = 1
        head_norm.bias[:carriers] = 0
        for block in encoder:
            _pass_on(block, carriers, 0)
        if last_up >= 0:  # what comes from below starts with nothing to say on these channels
            _clear(cast(Upsample, decoder[last_up]).conv, carriers)
        else:
            for middle in network.middle:
                _pass_on(cast(ResidualBlock, middle), carriers, 0)
        skips = [network.channels, *(block.conv2.out_channels for block in encoder)]
        for step in decoder[last_up + 1 :]:
            block = cast(ResidualBlock, step)
            wide = skips.pop()
            _pass_on(block, carriers, block.norm1.num_channels - wide if network.skip == "concatenate" else 0)
    return network


def _clear(conv: ConvNd, channels: int) -> None:
    """The first output channels are 0, whatever comes in."""
    conv.weight[:channels] = 0
    if conv.bias is not None:
        conv.bias[:channels] = 0


def _only(conv: ConvNd, row: int, column: int, value: float, clear: bool = True) -> None:
    """A convolution's output channel `row` is value times its input channel `column`; of others nothing, if cleared."""
    if clear:
        conv.weight[row] = 0
        if conv.bias is not None:
            conv.bias[row] = 0
    conv.weight[(row, column, *[n // 2 for n in conv.kernel_size])] = value


def _pass_on(block: ResidualBlock, carriers: int, first: int) -> None:
    """A block hands on the carriers, which are its input channels from `first` on, and adds nothing to them."""
    _clear(block.conv2, carriers)
    if not isinstance(block.shortcut, nn.Identity):
        for row in range(carriers):
            _only(block.shortcut, row, first + row, 1.0)
