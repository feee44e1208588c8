"""Killed again and again, at any moment, and resumed, a run ends with the bytes of one that nobody disturbed.

Six kinds of runs: inference to NIfTI, to an OME-Zarr, to a DICOM series and to a DICOM SEG, training, and training in
two processes. Each is started, killed (SIGKILL, to the whole group or to one of its two workers) after a random time
and resumed, until HIRESMED_KILLS kills have met each kind; each run that comes to its end is compared.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import dicom_files
import front_door
import numpy as np
import pytest
import torch
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io.dicom_series import write_ct_series
from hiresmed.methods.patchddm import PatchDDMUNet
from hiresmed.phantoms import BrainPhantom

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("HIRESMED_KILLS", "3"))
SCANS = front_door.FrontDoor("msgan_ct3d", tile_size=16, base_size=16)
BRAINS = front_door.FrontDoor(
    "patchddm_brats",
    {"network_def#channels": 4, "network_def#channel_multipliers": [1, 2], "network_def#num_res_blocks": 1},
    spacing=8.0, reference_size=[24, 30, 24], tile_size=16, num_samples=2, steps=3,
)  # fmt: skip
TRAINING = {
    "cases_list": [{"phantom": 0, "shape": [48, 40]}, {"phantom": 0, "shape": [32, 32], "section": "validation"}],
    "base_size": 16, "base_patch": 16, "patch_size": 8, "batch_size": 2, "iterations": 3, "max_epochs": 8,
    "val_interval": 2, "discriminator_def#channels": 4, "discriminator_def#num_layers": 1,
}  # fmt: skip
OF_THE_RUN = ("seconds", "peak_rss_bytes", "peak_device_bytes")  # of report.json; all else is of the result
TIMES = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")  # of a DICOM SEG


@dataclass
class Run:
    """A command whose results are to survive kills.

    Attributes:
        words: of the command, but for the knobs output_dir and resume.
        begun: a pattern of what lies in the output folder when the work has begun.
        workers: processes of torchrun, one of which every second kill meets alone.
    """

    words: list[str]
    begun: str
    workers: int = 1

    def start(self, folder: Path) -> subprocess.Popen:
        with open(f"{folder}.log", "ab") as log:
            return subprocess.Popen(
                [*self.words, "--output_dir", str(folder), "--resume", "true"],
                stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip

    def measure(self, folder: Path) -> tuple[float, float]:
        """An undisturbed run: seconds until its work had begun, and until its end."""
        start = time.monotonic()
        process = self.start(folder)
        while process.poll() is None and not any(folder.glob(self.begun)):
            time.sleep(0.01)
        begun_s = time.monotonic() - start
        assert process.wait(900) == 0, log_of(folder)
        return begun_s, time.monotonic() - start

    def finish(self, folder: Path) -> None:
        """Goes on to the end, undisturbed; a kill in its last moments leaves nothing to go on with."""
        code = self.start(folder).wait(900)
        assert code == 0 or "there is nothing to resume" in log_of(folder), log_of(folder)


def log_of(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()[-3000:]


def scans(folder: Path, kind: str) -> Run:
    """The cascade on a DICOM series or NIfTI of 48 x 40 x 56 voxels, written as `kind`."""
    weights = front_door.other_file(folder, "scans.pt", front_door.generator(3).state_dict())
    scan = ArrayVolume(front_door.bricks((48, 40, 56), -1000, 600, np.int16), np.diag([-1.0, -1, 1, 1]))
    image = write_ct_series(scan, folder / "scan", seed=0)
    knobs = SCANS.settings(weights, folder, image=image, output_format=kind)
    del knobs["output_dir"]
    return Run(SCANS.command(knobs), "*.partial/*")


def brain(folder: Path) -> Run:
    """A segmentation of four DICOM series, written as DICOM SEG and NIfTI."""
    pytest.importorskip("highdicom", reason="DICOM SEG are written by highdicom")
    torch.manual_seed(0)
    weights = front_door.other_file(folder, "brains.pt", PatchDDMUNet(3, 8, 1, 4, (1, 2), 1).state_dict())
    phantom = BrainPhantom((31, 36, 27), seed=5, look_alike=False)
    for channel, sequence in zip(phantom.read()[0], ("t1", "t1ce", "t2", "flair")):
        dicom_files.write_series(folder / "brain" / sequence, channel, phantom.affine)
    knobs = BRAINS.settings(weights, folder, image=folder / "brain")
    del knobs["output_dir"]
    return Run(BRAINS.command(knobs), "*")


def training(workers: int) -> Run:
    door = front_door.FrontDoor("msgan_xray2d")
    launcher: tuple[str, ...] = ("-m",)
    if workers > 1:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}", "-m")
    words = door.command({"bundle_root": door.bundle, **door.tiny, **TRAINING}, launcher, "train.yaml")
    if workers > 1:
        configs = str([str(door.bundle / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")])
        words[words.index("--config_file") + 1] = configs
    return Run(words, "checkpoints/*", workers)


RUNS = {
    "nii.gz": lambda folder: scans(folder, "nii.gz"),
    "ome-zarr": lambda folder: scans(folder, "ome-zarr"),
    "dicom": lambda folder: scans(folder, "dicom"),
    "seg": brain,
    "training": lambda folder: training(1),
    "training in two processes": lambda folder: training(2),
}


def results(folder: Path) -> dict[str, bytes]:
    """What a finished run left, by name; without what is true of the run and not of the result."""
    contents = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts):
        content = path.read_bytes()
        if path.name == "report.json":
            report = json.loads(content)
            content = json.dumps({name: value for name, value in report.items() if name not in OF_THE_RUN}).encode()
        if path.name.endswith("_labels.dcm"):
            content = segmentation(path)
        if path.parent.name == "checkpoints":
            content = repr(plain(torch.load(path, weights_only=True))).encode()
        contents[str(path.relative_to(folder))] = content
    return contents


def plain(value):
    """What a checkpoint holds, to the bit: pickle's own bytes also tell which equal texts are one object in memory."""
    if isinstance(value, dict):
        return [(name, plain(entry)) for name, entry in value.items()]
    if isinstance(value, list | tuple):
        return type(value)(plain(entry) for entry in value)
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return value


def segmentation(path: Path) -> bytes:
    """A DICOM SEG without the time of its making."""
    import pydicom

    dataset = pydicom.dcmread(path)
    for keyword in TIMES:
        if keyword in dataset:
            del dataset[keyword]
    return (str(dataset) + str(dataset.file_meta)).encode() + dataset.PixelData


def workers_of(process: subprocess.Popen) -> list[int]:
    told = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(word) for word in told.split()]


def kill(process: subprocess.Popen, one_worker: bool) -> None:
    """SIGKILL to all of the run's processes, or to one worker, whereupon torchrun ends the others."""
    workers = workers_of(process) if one_worker else []
    if workers:
        os.kill(workers[-1], signal.SIGKILL)
        try:
            process.wait(120)
            return
        except subprocess.TimeoutExpired:
            pytest.fail("torchrun did not end the other workers")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kind", RUNS)
def test_whenever_it_is_killed_it_ends_with_the_same_bytes(kind, tmp_path):
    dice = random.Random(f"{kind} {KILLS}")
    run = RUNS[kind](tmp_path)
    begun_s, lasted_s = run.measure(tmp_path / "whole")
    wanted = results(tmp_path / "whole")
    assert len(wanted) >= 3
    killed = 0
    attempts = 0
    while killed < KILLS:
        folder = tmp_path / f"attempt_{attempts}"
        attempts += 1
        for _ in range(min(dice.randint(1, 5), KILLS - killed)):
            process = run.start(folder)
            try:
                process.wait(dice.uniform(0.9 * begun_s, lasted_s))
                break  # it came to its end before it could be killed
            except subprocess.TimeoutExpired:
                kill(process, one_worker=run.workers > 1 and killed % 2 == 1)
                killed += 1
        run.finish(folder)
        got = results(folder)
        differing = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
        assert not differing, f"after {killed} kills: {differing}"
        shutil.rmtree(folder)
    print(f"{kind}: {killed} kills, {attempts} runs with equal bytes")
