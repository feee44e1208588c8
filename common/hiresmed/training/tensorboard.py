"""TensorBoard writer for scalars and pictures of a training."""

from __future__ import annotations

import pathlib

import ignite.distributed as idist


def summary_writer(output_dir: str | pathlib.Path):
    """TensorBoard writer into output_dir/tensorboard; further processes write into sub-folders of their own.

    Raises:
        ImportError: tensorboard is not installed (`pip install tensorboard`).
    """
    from torch.utils.tensorboard import SummaryWriter

    rank = idist.get_rank()
    folder = pathlib.Path(output_dir) / "tensorboard"
    return SummaryWriter(str(folder if rank == 0 else folder / f"rank_{rank}"))
