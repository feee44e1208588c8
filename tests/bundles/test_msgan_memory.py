"""A volume with twice as many voxels along each axis needs the same memory, and without tiles it does not."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import front_door
import nibabel
import numpy as np
import programs
import pytest
import torch
from hiresmed.methods.msgan import MultiScaleGenerator

BUNDLE = Path(__file__).parents[2] / "bundles" / "msgan_ct3d"
SMALL = {"width": 8, "num_blocks": 1, "fine_width": 4}
MB = 1e6


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(MultiScaleGenerator(3, sketch_kind="signed", base=SMALL, stage=SMALL).state_dict(), path)
    return path


def peak_of_a_run(folder: Path, weights: Path, size: int, tile_size: int) -> float:
    """Largest resident set, as the run itself reports it (VmHWM), of a process that redraws a cube of `size` voxels.

    The base is 24 voxels wide or more, so that both sizes meet full tiles at every stage.
    """
    values = np.random.default_rng(0).integers(-1000, 1000, [size // 8] * 3).astype(np.int16)
    for axis in range(3):
        values = values.repeat(8, axis)
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "cube.nii")
    knobs = {"image": folder / "cube.nii", "output_dir": folder / "out", "weights_path": weights, "bundle_root": BUNDLE}
    knobs |= {"network_def#base": SMALL, "network_def#stage": SMALL, "tile_size": tile_size, "base_size": 24}
    knobs["overwrite"] = True
    words = ["-m", "monai.bundle", "run", "--config_file", BUNDLE / "configs/inference.yaml"]
    done = programs.run([*words, *(word for name, value in knobs.items() for word in (f"--{name}", value))])
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out" / "report.json").read_text())["peak_rss_bytes"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc")
def test_twice_the_size_per_axis_needs_the_same_memory_tiled_and_far_more_untiled(tmp_path, weights):
    runs = [partial(peak_of_a_run, tmp_path / str(size), weights, size, 24) for size in (48, 96)]
    small, large = front_door.lowest_peaks(*runs, bound=8 * MB)
    untiled = peak_of_a_run(tmp_path / "untiled", weights, 96, 96)
    assert abs(large - small) < 8 * MB
    assert untiled - small > 40 * MB, "the bound is one that a whole volume in memory breaks"
