"""SqueezeNet v1.1 as a feature network: small, real, and free to use offline.

Iandola et al. 2016, arXiv 1602.07360; v1.1 moves the pooling forward (2.4 x less work, the same accuracy). MONAI has
no SqueezeNet, and torchvision is not among our dependencies; the key names are torchvision's, so its files load too.
Letters: B = batch.
"""

from __future__ import annotations

import torch
from torch import nn

from .extractor import FeatureExtractor, find_weights, load_into, load_state

# Caffe's ImageNet weights with torchvision's key names, 1,235,496 parameters
WEIGHTS = "squeezenet1_1_imagenet_bgr.pth"
SHA256 = "264db1106cdc076fe47de73502abb9e4182ac4a09aa7314bdb055d738afec7a7"
MEAN_BGR = (104.0, 117.0, 123.0)


class Fire(nn.Module):
    """Squeeze to few channels (1x1), expand by 1x1 and 3x3 side by side: (B, in, H, W) -> (B, 2 expand, H, W)."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet v1.1: preprocessed images (B, 3, 227, 227) -> logits of the 1000 ImageNet classes (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(),
            Fire(64, 16, 64), Fire(128, 16, 64), pool(),
            Fire(128, 32, 128), Fire(256, 32, 128), pool(),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).flatten(1)


class SqueezeNetFeatures(FeatureExtractor):
    """`squeezenet`: the 512 activations of the last Fire module (`features.12`, after its ReLU), averaged over space.

    They are not the Inception features of FID and KID: figures are named after this network.

    Args:
        weights: file, or folder that holds it; default $HIRESMED_WEIGHTS/squeezenet1_1_imagenet_bgr.pth.
        sha256: of a file other than that one (which must have been trained on BGR, 0..255 less the mean, as that one).
    """

    name = "squeezenet"
    dim = 512
    input_size = 227
    preprocessing = "bgr-0..255-minus-104-117-123"
    mean: torch.Tensor

    def __init__(self, weights: str | None = None, sha256: str = SHA256) -> None:
        super().__init__()
        path = find_weights(WEIGHTS, weights)
        self.network = SqueezeNet()
        load_into(self.network, load_state(path, sha256), path)
        self.sha256 = sha256
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.eval()

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flip(1) + 1) * 127.5 - self.mean

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.features(images).mean((2, 3))
