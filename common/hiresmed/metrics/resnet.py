"""ResNets as feature networks, built of MONAI's layers: ResNet-50 for pictures, MedicalNet's for volumes.

Letters: B = batch, H, W = height, width, S = spatial shape (D, H, W).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from monai.networks.nets import ResNet, resnet10, resnet50
from torch import nn

from ..core.errors import InputError
from .extractor import FeatureExtractor, find_weights, load_into, load_state, required_sha256

# ImageNet's mean and deviation in RGB, 0..1
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PREPROCESSINGS = ("rgb-imagenet-mean-std", "rgb-minus1..1", "bgr-0..1-minus-imagenet-mean")
# RadImageNet's files hold nn.Sequential(*torchvision's children): positions instead of names
_CHILDREN = {"0": "conv1", "1": "bn1", **{str(k + 3): f"layer{k}" for k in range(1, 5)}}


def backbone_state(state: dict) -> dict[str, torch.Tensor]:
    """A ResNet's weights by torchvision's names, without classifiers and other heads.

    Files differ in their wrapping: torchvision's (plain), SwAV's (`module.`, projection_head, prototypes),
    RadImageNet's (`backbone.0`, ...), MedicalNet's (inside `state_dict`, `module.`, conv_seg).

    Example:
        >>> sorted(backbone_state({"module.bn1.bias": 1, "module.backbone.4.0.conv1.weight": 2, "fc.bias": 3}))
        ['bn1.bias', 'layer1.0.conv1.weight']
    """
    state = state["state_dict"] if isinstance(state.get("state_dict"), dict) else state
    backbone = {}
    for key, value in state.items():
        parts = re.sub(r"^(module\.)?(backbone\.)?", "", key).split(".")
        parts[0] = _CHILDREN.get(parts[0], parts[0])
        if parts[0] in _CHILDREN.values():
            backbone[".".join(parts)] = value
    return backbone


def _load(network: ResNet, path: Path, sha256: str) -> None:
    state = load_state(path, sha256)
    load_into(network, backbone_state(state if isinstance(state, dict) else {}), path)


class ResNet50Features(FeatureExtractor):
    """`resnet50`: the 2048 features before the classifier, with ImageNet, SwAV or RadImageNet weights.

    RadImageNet has several networks with different preprocessings, so the one used in training must be given.

    Args:
        weights: file in torchvision's layout (SwAV's and RadImageNet's PyTorch files are unwrapped), or its folder.
        sha256: of that file; mandatory.
        preprocessing: `rgb-imagenet-mean-std` (torchvision, SwAV), `rgb-minus1..1`, `bgr-0..1-minus-imagenet-mean`.
        file_name: the file's name, where `weights` is a folder or the file is in $HIRESMED_WEIGHTS.
    """

    name = "resnet50"
    dim = 2048
    input_size = 224
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        sha256: str | None = None,
        weights: str | os.PathLike | None = None,
        preprocessing: str = PREPROCESSINGS[0],
        file_name: str = "resnet50-0676ba61.pth",
    ) -> None:
        super().__init__()
        if preprocessing not in PREPROCESSINGS:
            raise InputError(
                f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {preprocessing!r}; choose the one "
                "that the weights were trained with."
            )
        path = find_weights(file_name, weights)
        sha256 = required_sha256(sha256, path)
        # without conv1_t_stride=2 torchvision's weights load as well, but the features are wrong by a fifth
        self.network = resnet50(
            spatial_dims=2, n_input_channels=3, conv1_t_stride=2, shortcut_type="B", bias_downsample=False,
            feed_forward=False,
        )  # fmt: skip
        _load(self.network, path, sha256)
        self.sha256 = sha256
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        if self.preprocessing == "rgb-minus1..1":
            return images
        unit = (images + 1) / 2
        if self.preprocessing.startswith("bgr"):
            return (unit - self.mean).flip(1)
        return (unit - self.mean) / self.std

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


class MedicalNetFeatures(FeatureExtractor):
    """`medicalnet_resnet10`, `medicalnet_resnet50`: volumes (B, 1, *S) in [-1, 1] -> features (B, 512 or 2048).

    Chen et al. 2019, arXiv 1904.00625. MONAI's network halves the grid in layers 3 and 4; MedicalNet was trained with
    dilation 2 and 4 there, and so is this one. Volumes keep their grid (the features are averages over space), and are
    standardised by the mean and deviation of their foreground, the voxels above -1; MedicalNet's noise in the
    background is left out, so that features do not change from call to call.

    Args:
        depth: 10 or 50.
        weights: MedicalNet's file, or its folder; default $HIRESMED_WEIGHTS/resnet_<depth>_23dataset.pth.
        sha256: of that file; mandatory.
    """

    preprocessing = "foreground-mean-std"
    resize = "none"
    input_size = 0

    def __init__(self, depth: int, sha256: str | None = None, weights: str | os.PathLike | None = None) -> None:
        super().__init__()
        if depth not in (10, 50):
            raise InputError(f"MedicalNet's depth must be 10 or 50, got {depth}; choose one of them.")
        path = find_weights(f"resnet_{depth}_23dataset.pth", weights)
        sha256 = required_sha256(sha256, path)
        self.name = f"medicalnet_resnet{depth}"
        self.dim = {10: 512, 50: 2048}[depth]
        self.network = with_dilation(
            {10: resnet10, 50: resnet50}[depth](
                spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="B", bias_downsample=False,
                feed_forward=False,
            )
        )  # fmt: skip
        _load(self.network, path, sha256)
        self.sha256 = sha256
        self.eval()

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim != 5 or images.shape[1] != 1:
            raise InputError(
                f"MedicalNet's volumes must have shape (B, 1, D, H, W), got {tuple(images.shape)}; change them."
            )
        return self.preprocess(images.float())

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([_standardised(image) for image in images])

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def _standardised(image: torch.Tensor) -> torch.Tensor:
    foreground = image[image > -1]
    if foreground.numel() < 2 or foreground.max() == foreground.min():
        raise InputError(
            "MedicalNet's volumes must have a foreground of more than one value above -1, got one without; leave empty "
            "volumes out."
        )
    return (image - foreground.mean()) / foreground.std()


def with_dilation(network: ResNet) -> ResNet:
    """MONAI's 3-D ResNet with MedicalNet's layers 3 and 4: stride 1, 3 x 3 x 3 convolutions with dilation 2 and 4."""
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for module in layer.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
    return network
