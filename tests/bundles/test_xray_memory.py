"""An X-ray with twice as many pixels along each axis needs the same memory, and without tiles it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import front_door
import pytest
import torch
from hiresmed.io import save_volume
from hiresmed.phantoms import ChestXrayPhantom

DOOR = front_door.FrontDoor("msgan_xray2d", base_size=64)
MB = 1e6


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(front_door.generator(2).state_dict(), path)
    return path


def peak_of_a_run(folder: Path, weights: Path, size: int, tile_size: int) -> float:
    """Largest resident set, as the run itself reports it (VmHWM), of a process that redraws a square phantom.

    The phantom comes from a TIFF, so that its projection, far larger than a tile, is not in the process's memory.
    """
    (image,) = save_volume(ChestXrayPhantom((size, size)), folder / f"phantom_{size}", "tiff")
    out = folder / f"{size}_{tile_size}"
    knobs = DOOR.settings(weights, out, image=image, tile_size=tile_size, overwrite=True)
    done = subprocess.run(
        DOOR.command(knobs), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (out / f"phantom_{size}_synthetic.tiff").is_file()
    return json.loads((out / "report.json").read_text())["peak_rss_bytes"]


@pytest.mark.slow  # in three dimensions a quick test says it
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc")
def test_twice_the_size_per_axis_needs_the_same_memory_tiled_and_far_more_untiled(tmp_path, weights):
    runs = [partial(peak_of_a_run, tmp_path, weights, size, 128) for size in (512, 1024)]
    small, large = front_door.lowest_peaks(*runs, bound=4 * MB)
    untiled = peak_of_a_run(tmp_path, weights, 1024, 1024)
    assert abs(large - small) < 0.01 * small
    # in bytes, not as a share: with some builds of torch the process needs twice as much before any image is read;
    # how much an untiled image adds depends on the processor (55 MB on an AMD Zen 4)
    assert untiled - small > 40 * MB, "the bound is one that a whole image in memory breaks"
