"""Process set-up for one or many processes, on CPU (gloo) or GPUs (nccl), by torchrun, srun, or srun torchrun."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import ignite.distributed as idist
import torch
import torch.distributed as dist
from monai.utils import set_determinism
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, DistributedSampler

from . import weights
from .errors import InputError
from .knobs import parse_bool, parse_int
from .output_files import unlock_folders

_wrapped: weakref.WeakSet[nn.parallel.DistributedDataParallel] = weakref.WeakSet()


def initialize(seed: int = 0, timeout_minutes: float = 30.0) -> None:
    """Joins the process group if the launcher started several processes, and seeds all ranks alike.

    Launchers: none (one process), torchrun, srun with several tasks, srun of torchrun. All ranks get the same seed, so
    that all build the same networks; handlers.seeding.Seeding gives each its own from the first epoch on. cuDNN is set
    to deterministic algorithms (MONAI's set_determinism). After an elastic restart (torchrun --max-restarts) the
    processes find one another again.

    Args:
        seed: from 0 on.
        timeout_minutes: how long a rank waits for the others in one exchange before it gives up.
    """
    if _several_processes() and not dist.is_initialized():
        _join(timedelta(minutes=timeout_minutes))
    # ignite's first query of the group is a collective: all ranks must make it together, not rank 0 in a handler
    idist.get_rank()
    set_determinism(parse_int(seed, "seed"))


def finalize() -> None:
    """Gives back the output folder and leaves the process group, if there is one.

    Networks of prepare_network cannot be trained any further then.

    Gloo's threads end with the last reference to the group. One that still releases a tensor while Python shuts down
    aborts the process (pytorch #179291), and torchrun kills the others: one in twenty runs on a busy machine.
    """
    unlock_folders()
    if dist.is_available() and dist.is_initialized():
        idist.finalize()
        for network in _wrapped:
            for part in ("reducer", "logger", "process_group"):
                setattr(network, part, None)
        gc.collect()


def _several_processes() -> bool:
    """Whether a launcher started this process as one of a group; hides SLURM's ranks where torchrun's count."""
    if "TORCHELASTIC_RUN_ID" in os.environ or "RANK" in os.environ:
        # inside srun, ignite would take SLURM's ranks, which count torchrun's agents and not its workers
        os.environ.pop("SLURM_JOB_ID", None)
        return True
    # only srun sets the step's task count; a batch script or an salloc shell is one process among allocated tasks
    return "SLURM_JOB_ID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _join(timeout: timedelta) -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if backend == "nccl" and here > torch.cuda.device_count():
        raise InputError(
            f"A machine's processes must each have a GPU of their own, got {here} processes and "
            f"{torch.cuda.device_count()} of them; lower --nproc_per_node, or hide the GPUs to train on the CPU "
            "(CUDA_VISIBLE_DEVICES=)."
        )
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        idist.initialize(backend, timeout=timeout)
        return
    # torchrun's agent keeps one store over all restarts, in which workers would find the addresses of dead ones
    # (pytorch #135712): each attempt gets a prefix of its own. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 would help too, but
    # torchrun reads it before any worker runs, so the user would have to set it in the shell.
    rank = int(os.environ["RANK"])
    processes = int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, processes, is_master=False, timeout=timeout)
    attempt = f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        backend, store=dist.PrefixStore(attempt, store), rank=rank, world_size=processes, timeout=timeout
    )


def prepare_network(
    network: nn.Module,
    device: str | torch.device | None = None,
    partly_used: bool = False,
    channels_last: bool | str = True,
) -> nn.Module:
    """The network on its device; in a group of processes also wrapped so that gradients are averaged.

    Not ignite's auto_model, which wraps in DataParallel when one process sees several GPUs. Buffers are not broadcast
    (two forwards of D before its backward would change them in between), normalisation is left as it is: BatchNorm
    statistics are those of each process.

    Args:
        partly_used: an iteration may leave some parameters out (a cascade trains one stage at a time).
        channels_last: the layout of images and weights; false for networks with torch's own group norm that are trained
            in bfloat16 on a CPU: its backward pass took 60 times longer channels last (torch 2.13; see group_norm.py).
    """
    device = torch.device(device) if device is not None else idist.device()
    network = network.to(device)
    if parse_bool(channels_last, "channels_last"):
        network = weights.channels_last(network)
    if idist.get_world_size() == 1 or not any(p.requires_grad for p in network.parameters()):
        return network
    wrapped = nn.parallel.DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=partly_used,
    )
    _wrapped.add(wrapped)
    return wrapped


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, out of its DistributedDataParallel or AveragedModel."""
    while isinstance(network, (nn.parallel.DistributedDataParallel, AveragedModel)):
        network = network.module
    return network


def average_buffers(networks: Sequence[nn.Module]) -> None:
    """Every process gets the mean over all processes of each network's floating point buffers.

    With `broadcast_buffers` off each process has batch statistics of its own; once an epoch they are averaged, so that
    all processes validate, save and resume the same network. All processes must call it together.
    """
    processes = idist.get_world_size()
    if processes == 1:
        return
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= processes


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the CPU."""
    return cast(torch.Tensor, idist.all_reduce(tensor)).cpu()


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """All processes' tensors one after another along the first axis, on the CPU."""
    return cast(torch.Tensor, idist.all_gather(tensor)).cpu()


def any_process(value: bool) -> bool:
    """Whether `value` is true in any process of the group; all must call it together."""
    return bool(idist.all_reduce(int(value), "MAX")) if idist.get_world_size() > 1 else value


def gather_objects(value: Any) -> list[Any]:
    """The value of each process, in the order of ranks; all must call it together.

    In a dictionary, as ignite treats numbers and text in other ways, which processes with None would not follow.
    """
    return [entry["value"] for entry in cast(list, idist.all_gather({"value": value}))]


def rank_share(count: int) -> range:
    """Which of `count` items this process handles: every world-size-th, beginning with its rank."""
    return range(idist.get_rank(), count, idist.get_world_size())


def local_batch_size(batch_size: int) -> int:
    """This process's share of a global batch size.

    Raises:
        InputError: if the processes cannot share it equally.
    """
    processes = idist.get_world_size()
    if batch_size < 1 or batch_size % processes:
        raise InputError(
            f"The global batch_size must be a positive multiple of the {processes} processes, got {batch_size}; "
            "change it, or start another number of processes."
        )
    return batch_size // processes


def distributed_sampler(
    dataset: Dataset, shuffle: bool = True, seed: int = 0, drop_last: bool = True
) -> DistributedSampler:
    """A sampler whose k-th global batch holds the same images, whatever the number of processes (one included)."""
    return DistributedSampler(
        dataset, idist.get_world_size(), idist.get_rank(), shuffle=shuffle, seed=seed, drop_last=drop_last
    )
