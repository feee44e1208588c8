"""A conditional GAN of 16 x 16 images and four channels, without normalisation: built by tests, and run as a script.

python tiny_gan.py OUTPUT_DIR EPOCHS [ACCUMULATION]: trains, one process or many, resuming what is in OUTPUT_DIR,
prints a line per iteration, and writes OUTPUT_DIR/final.pt at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from hiresmed.core.distributed import (
    distributed_sampler,
    finalize,
    initialize,
    local_batch_size,
    prepare_network,
    unwrap,
)
from hiresmed.training.batches import GanBatch, batch_tensor
from hiresmed.training.checkpoint import Checkpoint
from hiresmed.training.objectives import LeastSquares
from hiresmed.training.penalties import R1Penalty
from hiresmed.training.seeding import Seeding
from hiresmed.training.trainer import AdversarialTrainer
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Patches(Dataset):
    """Sketch and image of 16 x 16, a function of (epoch, index) alone."""

    def __init__(self, size: int = 8, dtype: torch.dtype = torch.float32) -> None:
        self.size, self.dtype, self.epoch = size, dtype, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        sketch = torch.randn(1, 16, 16, generator=generator).to(self.dtype)
        return {"sketch": sketch, "image": torch.tanh(2 * sketch.roll(1, -1)), "index": index, "epoch": self.epoch}


class ConditionalBatch:
    """prepare_batch of image translation: the generator gets `inputs`; D gets `condition`, then the image.

    Args:
        inputs: keys of the generator's arguments, each (N, C, S) or what that network takes.
        real: key of the real image (N, C, S).
        condition: keys shown to D, concatenated along the channels, each on the image's grid S; None: the `inputs`;
            an empty list: D gets the image alone.
    """

    def __init__(self, inputs: Sequence[str], real: str = "image", condition: Sequence[str] | None = None) -> None:
        self.inputs = tuple(inputs)
        self.real = real
        self.condition = self.inputs if condition is None else tuple(condition)

    def __call__(self, batchdata: Mapping, device: torch.device, non_blocking: bool = False) -> GanBatch:
        keys = {*self.inputs, *self.condition, self.real}
        tensors = {key: batch_tensor(batchdata, key, device, non_blocking) for key in keys}
        condition = torch.cat([tensors[k] for k in self.condition], 1) if self.condition else None
        return GanBatch(tuple(tensors[k] for k in self.inputs), tensors[self.real], condition)


class RandomSketch(ConditionalBatch):
    """Adds noise of torch's global generator to the sketch, so that a test notices a wrong random state."""

    def __call__(self, batchdata, device, non_blocking=False):
        noisy = batchdata["sketch"] + 0.1 * torch.randn_like(batchdata["sketch"])
        return super().__call__({**batchdata, "sketch": noisy}, device, non_blocking)


def make_generator(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, padding=1)).to(dtype)


def make_discriminator(dtype: torch.dtype = torch.float32) -> nn.Module:
    layers = nn.Conv2d(2, 4, 4, 2, 1), nn.Softplus(), nn.Conv2d(4, 1, 4, 2, 1)
    return nn.Sequential(*layers).to(dtype)


def make_trainer(dtype: torch.dtype = torch.float32, batch_size: int = 4, loader: DataLoader | None = None, **changes):
    """Trainer on CPU: least squares + 10 x L1, Adam; `changes` replace its arguments."""
    torch.manual_seed(0)
    generator = changes.pop("generator", None) or make_generator(dtype)
    discriminator = changes.pop("discriminator", None) or make_discriminator(dtype)
    arguments = {
        "device": "cpu",
        "max_epochs": 2,
        "train_data_loader": loader or DataLoader(Patches(dtype=dtype), batch_size),
        "generator": generator,
        "discriminator": discriminator,
        "g_optimizer": torch.optim.Adam(generator.parameters(), 2e-3, (0.5, 0.999)),
        "d_optimizer": torch.optim.Adam(discriminator.parameters(), 2e-3, (0.5, 0.999)),
        "objective": LeastSquares(),
        "prepare_batch": ConditionalBatch(["sketch"]),
        "generator_losses": {"l1": (10.0, nn.L1Loss())},
    }
    return AdversarialTrainer(**{**arguments, **changes})


def make_resumable(output_dir, epochs: int, accumulation: int = 1, noisy: bool = True) -> AdversarialTrainer:
    """A float64 training of this process group with everything that a checkpoint must hold."""
    dtype = torch.float64
    torch.manual_seed(0)
    generator, discriminator = make_generator(dtype), make_discriminator(dtype)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    ema = torch.optim.swa_utils.AveragedModel(generator, multi_avg_fn=average)
    data = Patches(16, dtype)
    return make_trainer(
        dtype,
        max_epochs=epochs,
        loader=DataLoader(data, local_batch_size(4), sampler=distributed_sampler(data)),
        generator=prepare_network(generator, "cpu"),
        discriminator=prepare_network(discriminator, "cpu"),
        prepare_batch=(RandomSketch if noisy else ConditionalBatch)(["sketch"]),
        penalties=[R1Penalty(1.0, every=3)],
        accumulation_steps=accumulation,
        ema=ema,
        train_handlers=[Seeding(0), Checkpoint(output_dir, resume=True)],
    )


def weights(trainer: AdversarialTrainer) -> dict[str, torch.Tensor]:
    """All weights and averaged weights of a trainer, by name."""
    networks = {"g": unwrap(trainer.generator), "d": unwrap(trainer.discriminator), "ema": trainer.ema}
    states = {name: network.state_dict() for name, network in networks.items() if network is not None}
    return {f"{name}.{key}": value.clone() for name, state in states.items() for key, value in state.items()}


def main() -> None:
    output_dir, epochs = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    initialize(0, timeout_minutes=1.0)
    several = idist.get_world_size() > 1
    trainer = make_resumable(output_dir, epochs, int(sys.argv[3]) if len(sys.argv) > 3 else 1, noisy=not several)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: print("iteration", engine.state.iteration, flush=True)
    )
    if os.environ.get("DIE_AT") and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and idist.get_rank() == 1:
        when = Events.ITERATION_COMPLETED(once=int(os.environ["DIE_AT"]))
        trainer.add_event_handler(when, lambda: os.kill(os.getpid(), 9))
    trainer.run()
    if idist.get_rank() == 0:
        torch.save(weights(trainer), output_dir / "final.pt")
    rank = idist.get_rank()
    finalize()
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]  # none but on Linux
    (output_dir / f"threads_{rank}.txt").write_text("\n".join(names))


if __name__ == "__main__":
    main()
