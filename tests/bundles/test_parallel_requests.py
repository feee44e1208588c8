"""Twenty requests at once to one network, as a server's threads make them: each gets the image of its own patient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import front_door
import numpy as np
import pytest
import torch
from hiresmed.core.pyramids import MemoryStores
from hiresmed.methods.msgan import CascadeInferer, sketcher_of

pytestmark = pytest.mark.usefixtures("one_thread")
REQUESTS = 20


def patient(number: int) -> torch.Tensor:
    """(1, 1, 26, 24, 22) HU; no two are alike."""
    scan = front_door.bricks((26, 24, 22), -1000, 600, np.int16)
    noise = np.random.default_rng(number).integers(-200, 200, scan.shape)
    return torch.from_numpy((scan + noise).astype(np.float32))[None, None]


def test_parallel_requests_are_answered_as_single_ones_and_never_with_another_patient():
    network = front_door.generator(3).eval()
    inferer = CascadeInferer(sketcher_of("signed"), MemoryStores(), tile_size=16, base_size=16, progress=False)

    @torch.no_grad()
    def answer(number: int) -> torch.Tensor:
        return inferer(patient(number), network)

    single = [answer(number) for number in range(REQUESTS)]
    assert len({image.numpy().tobytes() for image in single}) == REQUESTS
    with ThreadPoolExecutor(REQUESTS) as threads:
        parallel = list(threads.map(answer, range(REQUESTS)))
    assert all(torch.equal(one, other) for one, other in zip(single, parallel))
