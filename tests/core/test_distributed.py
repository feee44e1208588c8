"""N processes train as one does, however they were started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import dcgan_gradients
import ignite.distributed as idist
import programs
import pytest
import tiny_gan
import torch
from hiresmed.core import distributed
from hiresmed.core.errors import InputError
from torch import nn

SCRIPT = Path(tiny_gan.__file__)
GRADIENTS = Path(dcgan_gradients.__file__)
LAUNCHER_KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def clean_environment(**more: str) -> dict[str, str]:
    drop = ("SLURM_", "TORCHELASTIC_", *LAUNCHER_KEYS)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    # two processes cannot share the one GPU that a machine may have
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def torchrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *arguments]
    done = subprocess.run(command, env=clean_environment(**environment), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def group(*words: object) -> list[subprocess.CompletedProcess]:
    """A script in two processes with torchrun's variables."""
    done = programs.run_group(words, 2, CUDA_VISIBLE_DEVICES="")
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    return done


def alone(output_dir: Path, epochs: int) -> dict[str, torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = tiny_gan.make_resumable(output_dir, epochs, noisy=False)
    trainer.run()
    torch.set_num_threads(before)
    return tiny_gan.weights(trainer)


def assert_close(path: Path, expected: dict[str, torch.Tensor]) -> None:
    weights = torch.load(path, weights_only=True)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_of_torchrun_inside_srun_train_as_one_with_penalty_ema_and_micro_batches(tmp_path):
    """2 x 2 images in micro-batches of 1 against 1 x 4; SLURM's variables are those of torchrun's agent."""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    slurm |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "1"}
    torchrun("--standalone", str(SCRIPT), str(tmp_path), "2", "2", **slurm)
    assert_close(tmp_path / "final.pt", alone(tmp_path / "alone", 2))
    left = [(tmp_path / f"threads_{rank}.txt").read_text() for rank in range(2)]
    assert not any("gloo" in names for names in left), "a thread of gloo's that outlives Python aborts the process"
    checkpoint = torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)
    assert len(checkpoint["random"]) == 2
    assert not torch.equal(checkpoint["random"][0]["torch"], checkpoint["random"][1]["torch"])
    assert not any("module." in name for name in checkpoint["objects"]["generator"])


def test_bfloat16_that_is_wrong_in_one_process_is_used_in_none_and_another_machine_is_found_out_by_all(tmp_path):
    done = group(SCRIPT.with_name("unlike_processes.py"), tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["first"] is two["first"] is False
    assert all(torch.equal(value, two["weights"][name]) for name, value in one["weights"].items())
    assert sum(one.stderr.count("the run goes on in float32") for one in done) == 1
    assert one["second"] is two["second"] is True


@pytest.mark.slow
def test_two_tasks_of_plain_srun_train_as_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NUM_NODES": "1"}
    job |= {"SLURM_JOB_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "1"]
    tasks = [
        subprocess.Popen(command, env=clean_environment(**job, SLURM_PROCID=str(k), SLURM_LOCALID=str(k)))
        for k in range(2)
    ]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    assert_close(tmp_path / "final.pt", alone(tmp_path / "alone", 1))


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", [[], ["--standalone"]])
def test_after_a_worker_dies_torchrun_restarts_and_the_training_ends_as_if_nothing_had_been(tmp_path, rendezvous):
    torchrun(*rendezvous, "--max-restarts=1", str(SCRIPT), str(tmp_path), "3", DIE_AT="7")
    assert_close(tmp_path / "final.pt", alone(tmp_path / "alone", 3))


def test_gradients_of_two_by_two_images_are_those_of_four_for_every_norm_that_sees_one_image(tmp_path):
    """DCGAN and WGAN-GP, whose penalty is differentiated twice; batch statistics are averaged over the processes."""
    group(GRADIENTS, tmp_path / "gradients.pt")
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert torch.equal(shared.pop("buffers")["running_mean"], torch.full((3,), 0.5))
    assert len(shared) == 6
    for case, gradients in shared.items():
        expected = dcgan_gradients.gradients(*case.split())
        assert gradients.keys() == expected.keys()
        for name, value in gradients.items():
            assert expected[name].abs().max() > 0 or name.endswith("bias"), f"{case} {name}: nothing to compare"
            # of the whole network: a bias before a norm has the gradient 0, and holds the rounding of its neighbours'
            largest = max(g.abs().max().item() for n, g in expected.items() if n[0] == name[0])
            assert (value - expected[name]).abs().max() <= 1e-12 * max(1.0, largest), f"{case} {name}"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def slurm(node: int, task: int, tasks_a_node: int) -> dict[str, str]:
    """What srun sets for a task of a job on two nodes, both of which are this machine."""
    tasks = 2 * tasks_a_node
    counts = {"SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_JOB_NUM_NODES": "2"}
    counts |= {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "localhost,localhost", "SLURM_NODEID": str(node)}
    place = {"SLURM_PROCID": str(node * tasks_a_node + task), "SLURM_LOCALID": str(task)}
    return {"SLURM_JOB_ID": "7", "MASTER_ADDR": "127.0.0.1", **counts, **place}


def all_end_well(processes: list[subprocess.Popen]) -> None:
    try:
        assert [process.wait(timeout=500) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_plain_srun_of_two_tasks_on_each_of_two_nodes_trains_as_one_process(tmp_path):
    port = free_port()
    command = [sys.executable, str(SCRIPT), str(tmp_path), "1"]
    tasks = [(node, task) for node in range(2) for task in range(2)]
    all_end_well(
        [subprocess.Popen(command, env=clean_environment(**slurm(n, t, 2), MASTER_PORT=port)) for n, t in tasks]
    )
    assert_close(tmp_path / "final.pt", alone(tmp_path / "alone", 1))


@pytest.mark.slow
def test_srun_of_torchrun_on_two_nodes_with_two_workers_each_trains_as_one_process(tmp_path):
    """One task a node, torchrun's agent; SLURM's ranks count the agents, not the workers."""
    meeting = ["--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}", "--rdzv_id=7"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *meeting]
    all_end_well(
        [
            subprocess.Popen([*command, str(SCRIPT), str(tmp_path), "1"], env=clean_environment(**slurm(node, 0, 1)))
            for node in range(2)
        ]
    )
    assert_close(tmp_path / "final.pt", alone(tmp_path / "alone", 1))


@pytest.mark.slow
def test_a_training_whose_worker_was_killed_ends_with_the_bits_of_one_left_alone(tmp_path):
    torchrun("--standalone", "--max-restarts=1", str(SCRIPT), str(tmp_path / "killed"), "3", DIE_AT="7")
    torchrun("--standalone", str(SCRIPT), str(tmp_path / "whole"), "3")
    killed, whole = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(killed[name], whole[name])] == []


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a batch script's first line
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"TORCHELASTIC_RUN_ID": "x", "SLURM_JOB_ID": "1"}, True),
    ],
)
def test_the_launcher_is_told_by_its_variables(monkeypatch, environment, several):
    for key in [k for k in os.environ if k.startswith(("SLURM_", "TORCHELASTIC_", *LAUNCHER_KEYS))]:
        monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert distributed._several_processes() is several
    inside_torchrun = "TORCHELASTIC_RUN_ID" in environment
    assert ("SLURM_JOB_ID" in os.environ) == ("SLURM_JOB_ID" in environment and not inside_torchrun)


def test_one_process_needs_no_group_and_gets_the_network_itself(monkeypatch):
    for key in [k for k in os.environ if k.startswith(("SLURM_", "TORCHELASTIC_", *LAUNCHER_KEYS))]:
        monkeypatch.delenv(key)
    distributed.initialize(3)
    first = torch.rand(4)
    distributed.initialize(3)
    assert torch.equal(torch.rand(4), first), "seeded"
    assert not torch.distributed.is_initialized()
    network = nn.Linear(1, 1)
    assert distributed.prepare_network(network, "cpu") is network
    assert distributed.local_batch_size(6) == 6
    distributed.finalize()
    distributed.finalize()


def test_a_global_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)
    assert distributed.local_batch_size(8) == 2
    with pytest.raises(InputError, match="multiple of the 4 processes, got 6"):
        distributed.local_batch_size(6)


def test_the_kth_global_batch_holds_the_same_images_for_any_number_of_processes(monkeypatch):
    def batches(processes: int) -> list[set[int]]:
        monkeypatch.setattr(idist, "get_world_size", lambda: processes)
        shares = []
        for rank in range(processes):
            monkeypatch.setattr(idist, "get_rank", lambda r=rank: r)
            sampler = distributed.distributed_sampler(range(24), seed=5)
            sampler.set_epoch(2)
            indices, size = list(sampler), 8 // processes
            shares.append([set(indices[k : k + size]) for k in range(0, len(indices), size)])
        return [set().union(*parts) for parts in zip(*shares)]

    assert batches(1) == batches(2) == batches(4)
    assert batches(1) != [set(range(0, 8)), set(range(8, 16)), set(range(16, 24))]


def test_more_processes_than_gpus_are_refused_before_any_waits_for_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="got 2 processes and 1 of them; lower --nproc_per_node"):
        distributed.initialize(0)
