"""A conditional diffusion model of 16 x 16 images: two convolutions, trained on discs in noise."""

from __future__ import annotations

import torch
from hiresmed.core.coordinates import patch_coordinates
from hiresmed.methods.patchddm import NoiseSchedule
from hiresmed.methods.patchddm.trainer import DiffusionTrainer
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Blobs(Dataset):
    """A bright disc in noise, its mask, and coordinates, on 16 x 16: a function of (epoch, index) alone."""

    def __init__(self, size: int = 8, dtype: torch.dtype = torch.float32, side: int = 16) -> None:
        self.size, self.dtype, self.epoch, self.side = size, dtype, 0, side

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        coords = patch_coordinates((0, 0), [self.side] * 2, [self.side] * 2, "endpoint")
        centre = torch.rand(2, 1, 1, generator=generator) - 0.5
        label = ((coords - centre).norm(dim=0, keepdim=True) < 0.45).float()
        image = 0.8 * (2 * label - 1) + 0.5 * torch.randn(label.shape, generator=generator)
        return {"image": image.to(self.dtype), "label": label.to(torch.uint8), "coords": coords.to(self.dtype)}


class Tiny(nn.Module):
    """Two convolutions; the time shifts the features between them."""

    def __init__(self, width: int = 4, dtype: torch.dtype = torch.float32, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, width, kernel, padding="same")
        self.time = nn.Linear(1, width)
        self.second = nn.Conv2d(width, 1, kernel, padding="same")
        self.to(dtype)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        shift = self.time((t / 1000).to(self.time.weight.dtype)[:, None])[..., None, None]
        return self.second(torch.nn.functional.silu(self.first(x) + shift))


def make_trainer(dtype=torch.float64, size=8, batch_size=4, prediction="eps", **changes) -> DiffusionTrainer:
    torch.manual_seed(0)
    network = changes.pop("network", None) or Tiny(dtype=dtype)
    arguments = {
        "device": "cpu",
        "max_epochs": 1,
        "train_data_loader": DataLoader(Blobs(size, dtype), batch_size),
        "network": network,
        "optimizer": torch.optim.AdamW(network.parameters(), 1e-3),
        "schedule": NoiseSchedule(prediction=prediction),
    }
    return DiffusionTrainer(**{**arguments, **changes})


def weights(trainer: DiffusionTrainer) -> dict[str, torch.Tensor]:
    networks = {"network": trainer.network, **({} if trainer.ema is None else {"ema": trainer.ema})}
    return {f"{n}.{k}": v.clone() for n, module in networks.items() for k, v in module.state_dict().items()}
