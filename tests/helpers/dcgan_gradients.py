"""Gradients of one step of DCGAN and of WGAN-GP, in float64, by the processes of a group together or by one alone.

python dcgan_gradients.py OUTPUT_FILE: as a script of torchrun, rank 0 writes those of every case.
"""

from __future__ import annotations

import sys
from unittest import mock

import ignite.distributed as idist
import torch
from hiresmed.core.distributed import average_buffers, finalize, initialize, prepare_network, unwrap
from hiresmed.methods.dcgan import DcganCritic, DcganGenerator
from hiresmed.training import AdversarialTrainer, BinaryCrossEntropy, GradientPenalty, Wasserstein
from hiresmed.training.batches import GanBatch

NORMS = ("none", "instance", "group")
METHODS = ("dcgan", "wgan_gp")
BATCH = 4
drawn = torch.rand


def my_places(count: int, *shape: int, **options) -> torch.Tensor:
    """What torch.rand would draw for the images of this process, were one process to draw for all."""
    whole = drawn(BATCH, *shape, generator=torch.Generator().manual_seed(9), **options)
    return whole[idist.get_rank() :: idist.get_world_size()][:count]


def gradients(norm: str, method: str) -> dict[str, torch.Tensor]:
    """All gradients after one iteration with a critic and a generator step, by name."""
    torch.manual_seed(0)
    generator = DcganGenerator(size=16, width=8, latent_size=6, norm=norm, dropout=0.0).double()
    critic = DcganCritic(size=16, width=8, norm=norm).double()
    random = torch.Generator().manual_seed(1)
    z = torch.randn(BATCH, 6, generator=random, dtype=torch.float64)
    real = torch.rand(BATCH, 1, 16, 16, generator=random, dtype=torch.float64) * 2 - 1
    mine = slice(idist.get_rank(), None, idist.get_world_size())
    generator, critic = (prepare_network(n, "cpu") for n in (generator, critic))
    trainer = AdversarialTrainer(
        device="cpu", max_epochs=1, train_data_loader=[0], generator=generator, discriminator=critic,
        g_optimizer=torch.optim.SGD(generator.parameters(), 1e-3),
        d_optimizer=torch.optim.SGD(critic.parameters(), 1e-3),
        objective=Wasserstein() if method == "wgan_gp" else BinaryCrossEntropy(),
        penalties=[GradientPenalty(5.0)] if method == "wgan_gp" else [],
        prepare_batch=lambda *_: GanBatch((z[mine],), real[mine]),
    )  # fmt: skip
    with mock.patch("torch.rand", my_places):
        trainer.run()
    networks = {"g": unwrap(generator), "d": unwrap(critic)}
    return {f"{n}.{name}": p.grad.clone() for n, net in networks.items() for name, p in net.named_parameters()}


def main() -> None:
    torch.set_num_threads(1)
    initialize(0, timeout_minutes=2)
    found = {f"{norm} {method}": gradients(norm, method) for norm in NORMS for method in METHODS}
    norms = torch.nn.BatchNorm1d(3)
    norms.running_mean.fill_(float(idist.get_rank()))
    average_buffers([norms])
    if idist.get_rank() == 0:
        torch.save({**found, "buffers": {"running_mean": norms.running_mean}}, sys.argv[1])
    finalize()


if __name__ == "__main__":
    main()
