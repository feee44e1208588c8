"""Fixtures that tests of several rooms share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Sums in one order, whatever the machine: for tests of equal bytes, and quicker for tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
