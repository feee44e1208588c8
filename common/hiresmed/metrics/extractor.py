"""The interface of feature networks to the metrics: features, and the description that every figure must state.

Letters: B = batch, H, W = height, width, D = feature dimension.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import InputError
from ..core.output_files import sha256_of

WEIGHTS_FOLDER_VARIABLE = "HIRESMED_WEIGHTS"


class FeatureExtractor(nn.Module, ABC):
    """Images (B, 1 or 3, H, W), RGB or grey, in [-1, 1], any size -> features (B, D).

    Attributes:
        name: prefix of every figure; only Inception's may be called "FID" or "KID".
        dim: D.
        preprocessing: id of the steps between [-1, 1] and the network; it changes with any of them.
        resize: how the image is resized to `input_size`.
        input_size: height and width of the network's input.
        comparable: whether figures can be compared beyond one run of one program.
    """

    name: str
    dim: int
    preprocessing: str
    resize = "bicubic, antialiased (torch)"
    input_size: int
    comparable = True
    sha256: str | None = None
    seed: int | None = None

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Preprocessed images (B, 3, input_size, input_size) -> (B, D)."""

    @abstractmethod
    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Resized RGB images in [-1, 1] -> what the network was trained on."""

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] -> (B, 3, input_size, input_size), resized and preprocessed."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"A feature extractor's images must have shape (B, 1 or 3, H, W), got {tuple(images.shape)}; change "
                "them."
            )
        images = images.float()
        size = (self.input_size, self.input_size)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return self.preprocess(images.expand(-1, 3, -1, -1))

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(self.prepare(images))

    def describe(self) -> dict:
        """Everything that a figure must state, JSON-able; equal dicts mean comparable features."""
        fields = ("name", "sha256", "preprocessing", "resize", "input_size", "seed", "comparable")
        return {("extractor" if f == "name" else f): getattr(self, f) for f in fields}


def find_weights(file_name: str, path: str | os.PathLike | None = None) -> Path:
    """The local weight file: `path` (a file, or a folder that holds it) or $HIRESMED_WEIGHTS/file_name.

    Nothing is ever downloaded. Raises InputError that names the file and where to put it.
    """
    place = path if path is not None else os.environ.get(WEIGHTS_FOLDER_VARIABLE)
    if place:
        file = Path(place).expanduser()
        file = file / file_name if file.is_dir() else file
        if file.is_file():
            return file
    reason = f"{place} holds none" if place else f"neither a path nor ${WEIGHTS_FOLDER_VARIABLE} is given"
    raise InputError(
        f"The weight file {file_name} must be on this machine, but {reason}; put it into a folder, and name that "
        f"folder in the environment variable {WEIGHTS_FOLDER_VARIABLE} or the file itself as `weights`."
    )


def required_sha256(sha256: str | None, path: Path) -> str:
    """The sha256 that the user gave for the file, in lower case; InputError where none is given."""
    if not sha256:
        raise InputError(
            f"The sha256 of the weight file {path} must be given as `sha256`, since figures depend on the weights, got "
            f"none; if the file is the one you want, give {sha256_of(path)}."
        )
    return sha256.lower()


def check_sha256(path: Path, sha256: str) -> None:
    """Raises InputError where the file has another sha256."""
    actual = sha256_of(path)
    if actual != sha256.lower():
        raise InputError(
            f"The weight file {path} must have the sha256 {sha256}, got {actual}: the file is damaged or another one; "
            f"fetch it again, or give its own sha256 as `sha256` if it is the one you want."
        )


def load_state(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """The state dict in a weight file (weights_only), after its sha256 has been compared; raises InputError."""
    check_sha256(path, sha256)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that holds no plain tensors
        raise InputError(
            f"The weight file {path} must hold a state dict of plain tensors, got one that "
            "torch.load(weights_only=True) "
            f"cannot read ({type(error).__name__}); save it again with torch.save(network.state_dict(), path)."
        ) from error


def load_into(network: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Loads a state dict strictly and in float32; raises InputError where it is another network's."""
    try:
        network.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            f"The weight file {path} must fit {type(network).__name__}, got another network's "
            f"({str(error).splitlines()[-1].strip()}); give the right file."
        ) from error
    network.eval().requires_grad_(False)
