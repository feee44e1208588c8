"""A GAN whose generator is falsified in bfloat16 in process 1 alone, then one where process 1 is another machine.

python unlike_processes.py OUTPUT_DIR: as a script of torchrun, each rank writes OUTPUT_DIR/<rank>.pt: the weights of
the first training, and whether each of the two uses bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ignite.distributed as idist
import tiny_gan
import torch
from hiresmed.core import bfloat16
from hiresmed.core.distributed import finalize, initialize, prepare_network
from hiresmed.training.checkpoint import Checkpoint


class Scaled(torch.nn.Module):
    """x times weights whose gradient is huge where `false` and x is bfloat16."""

    def __init__(self, false: bool) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1, 4, 1, 1))
        self.false = false

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.scale
        if self.false and x.dtype == torch.bfloat16:
            y = y + 1e20 * (self.scale - self.scale.detach())
        return y


def train(folder: Path, epochs: int, false: bool):
    torch.manual_seed(0)
    generator = tiny_gan.make_generator()
    generator.insert(1, Scaled(false))
    trainer = tiny_gan.make_trainer(
        max_epochs=epochs,
        generator=prepare_network(generator, "cpu"),
        discriminator=prepare_network(tiny_gan.make_discriminator(), "cpu"),
        amp=True,
        train_handlers=[Checkpoint(folder, resume=True)],
    )
    trainer.run()
    return trainer


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    initialize(0, timeout_minutes=1.0)
    rank = idist.get_rank()
    first = train(folder, 1, false=rank == 1)
    # the machine of process 1 is another now, and right: all of them probe anew, or they would wait for one another
    if rank == 1:
        bfloat16.processor_name = lambda: "another"
    second = train(folder, 2, false=False)
    found = {"weights": tiny_gan.weights(first), "first": first.precision.autocast, "second": second.precision.autocast}
    torch.save(found, folder / f"{rank}.pt")
    finalize()


if __name__ == "__main__":
    main()
