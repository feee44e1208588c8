"""Runs programs in processes of their own that need not import torch and MONAI first, which takes seconds each time.

One process imports them, once a session; each program runs in a fork of it, with its own arguments, folder,
environment and output, from its first line to the interpreter's end, as after `python -m module`, `-c code` or `file`.
What a test says of memory, of imports or of the start itself belongs into a new interpreter: `subprocess.run`.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

IMPORTED = (
    "torch", "torch.distributed", "monai.bundle", "monai.engines", "monai.handlers", "monai.transforms", "nibabel",
    "tifffile", "zarr", "PIL.Image", "hiresmed.cli.door", "hiresmed.training", "hiresmed.metrics",
    "hiresmed.methods.msgan", "hiresmed.methods.patchddm", "hiresmed.methods.inr_gan", "hiresmed.methods.dcgan",
)  # fmt: skip
_server: subprocess.Popen | None = None


class Program:
    """A running program; `words` are those of a command line after the interpreter."""

    def __init__(
        self, words: Sequence[object], cwd: str | Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = self._folder.name
        for name in ("stdout", "stderr"):
            Path(self.folder, name).touch()
        self.words = list(map(str, words))
        environment = {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"}
        self.pid: int = _ask(start=self.words, cwd=str(cwd or os.getcwd()), env=environment, folder=self.folder)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(poll=self.pid)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def finished(self) -> subprocess.CompletedProcess:
        """Waits for its end, and tells what it wrote."""
        self.wait()
        texts = [Path(self.folder, name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self.words, self.returncode, *texts)


def run(
    words: Sequence[object], cwd: str | Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """subprocess.run of `python WORDS`, with its output as text."""
    return Program(words, cwd, env).finished()


def run_group(
    words: Sequence[object], count: int, cwd: str | Path | None = None, **env: str
) -> list[subprocess.CompletedProcess]:
    """The program in `count` processes that find one another as those of torchrun on one machine do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(count)]
    programs = [Program(words, cwd, {**os.environ, **group, **rank, **env}) for rank in ranks]
    return [program.finished() for program in programs]


def _ask(**request):
    global _server
    if _server is None:
        _server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.communicate)  # without further requests it ends
    try:
        _server.stdin.write(json.dumps(request) + "\n")
        _server.stdin.flush()
        return json.loads(_server.stdout.readline())
    except BaseException:  # a test that ran out of time leaves an answer behind: the next one begins anew
        _server.kill()
        _server = None
        raise


def _serve() -> dict:
    """Forks a process for each request to start one; returns that request in the new process alone."""
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = os.fork()
            if answer == 0:
                return request
        else:
            pid = request.get("wait") or request["poll"]
            pid, status = os.waitpid(pid, 0 if "wait" in request else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(request: dict) -> None:
    """Gives this process the program's own output, folder, environment and arguments."""
    for descriptor, name in enumerate(("/dev/null", "stdout", "stderr")):
        file = os.open(os.path.join(request["folder"], name), os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])


if __name__ == "__main__":
    request = _serve()
    _become(request)
    kind, *others = request["start"]
    sys.argv = [kind, *others[1:]] if kind == "-c" else others if kind == "-m" else [kind, *others]
    sys.path.append(sys.path.pop(0))  # this folder, whose modules a test's code may import
    sys.path.insert(0, os.getcwd() if kind in ("-c", "-m") else os.path.dirname(os.path.abspath(kind)))
    if kind == "-c":
        exec(others[0], {"__name__": "__main__"})
    elif kind == "-m":
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(kind, run_name="__main__")
