"""Inception v3 as a feature network, for the three families of weights with which figures are published.

Szegedy et al. 2016, arXiv 1512.00567. MONAI has no Inception, and torchvision is not among our dependencies. The
layers are the same in all three; how average pools count the border, and the pool of the last block, differ:

| extractor | weights | average pools | pool of the last block |
|---|---|---|---|
| inception_v3_tf2015 | of FID (TensorFlow, 5 December 2015) | without the border | maximum |
| inception_v3_torchvision | torchvision's, ImageNet | with the border's zeros | average |
| inception_v3_keras | Keras .h5, ImageNet or RadImageNet | without the border | average |

Letters: B = batch, N = image side in pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .extractor import FeatureExtractor, find_weights, load_into, load_state, required_sha256
from .keras_weights import keras_state


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm (eps .001), ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu_()


class _Pooling(nn.Module):
    """A block with a pooled branch: 3 x 3, stride 1, average or maximum."""

    count_border = True
    pool = "average"

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool == "maximum":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=self.count_border)


class BlockA(_Pooling):
    """35 x 35 (at N = 299): 1x1, 5x5, two 3x3, pool."""

    def __init__(self, inputs: int, pool_width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 64, 1)
        self.branch5x5_1 = ConvNorm(inputs, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(inputs, pool_width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(self.pooled(x))], 1)


class BlockB(nn.Module):
    """35 -> 17: strided 3x3, two 3x3 with a stride, maximum."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(_Pooling):
    """17 x 17: 1x1, one and two 7x7 as rows and columns, pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(768, 192, 1)
        self.branch7x7_1 = ConvNorm(768, width, 1)
        self.branch7x7_2 = ConvNorm(width, width, **row)
        self.branch7x7_3 = ConvNorm(width, 192, **column)
        self.branch7x7dbl_1 = ConvNorm(768, width, 1)
        self.branch7x7dbl_2 = ConvNorm(width, width, **column)
        self.branch7x7dbl_3 = ConvNorm(width, width, **row)
        self.branch7x7dbl_4 = ConvNorm(width, width, **column)
        self.branch7x7dbl_5 = ConvNorm(width, 192, **row)
        self.branch_pool = ConvNorm(768, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        two = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        two = self.branch7x7dbl_5(self.branch7x7dbl_4(two))
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(self.pooled(x))], 1)


class BlockD(nn.Module):
    """17 -> 8: strided 3x3, 7x7 and strided 3x3, maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(768, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(768, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(_Pooling):
    """8 x 8: 1x1, 3x3 and two 3x3 spread into rows and columns side by side, pool."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 3), "padding": (0, 1)}
        column: dict[str, Any] = {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvNorm(inputs, 320, 1)
        self.branch3x3_1 = ConvNorm(inputs, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, **row)
        self.branch3x3_2b = ConvNorm(384, 384, **column)
        self.branch3x3dbl_1 = ConvNorm(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, **row)
        self.branch3x3dbl_3b = ConvNorm(384, 384, **column)
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        spread = [self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([self.branch1x1(x), *spread, self.branch_pool(self.pooled(x))], 1)


class InceptionV3(nn.Module):
    """Preprocessed images (B, 3, N, N), N >= 75, -> features (B, 2048): the last block, averaged over space.

    Module names are torchvision's, and modules are made in Keras' order: 94 convolutions and their norms.

    Args:
        count_border: whether average pools count the border's zeros.
        last_pool: average or maximum, in the last block.
    """

    def __init__(self, count_border: bool = True, last_pool: str = "average") -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(128)
        self.Mixed_6c = BlockC(160)
        self.Mixed_6d = BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = BlockE(2048)
        for block in self.modules():
            if isinstance(block, _Pooling):
                block.count_border = count_border
        self.Mixed_7c.pool = last_pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


class InceptionFeatures(FeatureExtractor):
    """The 2048 features of Inception v3; a subclass for each family of weights.

    Args:
        weights: file, or folder that holds it under its usual name; default $HIRESMED_WEIGHTS/<usual name>.
        sha256: of that file; mandatory, since it is part of every figure.
    """

    dim = 2048
    input_size = 299
    preprocessing = "rgb-minus1..1"
    usual_name: str
    count_border = False
    last_pool = "average"

    def __init__(self, sha256: str | None = None, weights: str | os.PathLike | None = None) -> None:
        super().__init__()
        path = find_weights(self.usual_name, weights)
        sha256 = required_sha256(sha256, path)
        self.network = InceptionV3(self.count_border, self.last_pool)
        self.load(path, sha256)
        self.sha256 = sha256
        self.eval().requires_grad_(False)

    def load(self, path: Path, sha256: str) -> None:
        """The file's weights without its classifiers."""
        state = load_state(path, sha256)
        load_into(self.network, {k: v for k, v in state.items() if not k.startswith(("fc.", "AuxLogits."))}, path)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


class InceptionTf2015(InceptionFeatures):
    """`inception_v3_tf2015`: the network of FID and KID, converted to torchvision's key names (as pytorch-fid's file).

    Its input is (x - 128) / 128 of 0..255, as in TensorFlow's graph, clean-fid and torch-fidelity; pytorch-fid divides
    by 127.5, and enlarges bilinearly without antialiasing, so its figures differ.
    """

    name = "inception_v3_tf2015"
    usual_name = "pt_inception-2015-12-05-6726825d.pth"
    preprocessing = "rgb-0..255-minus-128-over-128"
    last_pool = "maximum"

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return ((images + 1) * 127.5 - 128) / 128


class InceptionTorchvision(InceptionFeatures):
    """`inception_v3_torchvision`: torchvision's ImageNet weights, which were trained on [-1, 1] (transform_input)."""

    name = "inception_v3_torchvision"
    usual_name = "inception_v3_google-0cc3c7bd.pth"
    count_border = True


class InceptionKeras(InceptionFeatures):
    """`inception_v3_keras`: a Keras .h5 file, with or without the top; input in [-1, 1], also for RadImageNet's."""

    name = "inception_v3_keras"
    usual_name = "RadImageNet-InceptionV3_notop.h5"

    def load(self, path: Path, sha256: str) -> None:
        load_into(self.network, keras_state(self.network, path, sha256), path)
