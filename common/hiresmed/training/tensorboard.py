"""TensorBoard writer for scalars and pictures of a training, where TensorBoard is installed."""

from __future__ import annotations

import logging
import pathlib
from importlib.util import find_spec

import ignite.distributed as idist

logger = logging.getLogger(__name__)


def summary_writer(output_dir: str | pathlib.Path):
    """TensorBoard writer into output_dir/tensorboard; further processes write into sub-folders of their own.

    None, with a sentence of warning, where tensorboard is not installed.
    """
    rank = idist.get_rank()
    if find_spec("tensorboard") is None:
        if rank == 0:
            logger.warning(
                "TensorBoard is not installed, so losses and metrics are in the log and in training.png only; for its "
                "curves run: pip install tensorboard."
            )
        return None
    from torch.utils.tensorboard import SummaryWriter

    folder = pathlib.Path(output_dir) / "tensorboard"
    return SummaryWriter(str(folder if rank == 0 else folder / f"rank_{rank}"))
