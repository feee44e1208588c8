"""Whatever a knob is given, a bundle does its work or says in one sentence what is wrong: no traceback, no hang.

Some knobs and values in the quick suite; with `-m slow` each knob of each bundle's inference and training, each value.
"""

from __future__ import annotations

import contextlib
import io
import math
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import front_door
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.knobs import TEXT_KNOBS
from hiresmed.core.weights import load_weights
from monai.bundle import ConfigParser

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_every_front_door.py"))))
WORKFLOWS = {"inference": TINY.INFERENCES, "train": TINY.TRAININGS}
VALUES = (0, -1, 2, 0.5, math.nan, "nan", "word", [0], {}, True)
SECONDS = 300.0
# each knob that once ended in a traceback, or in an image that nobody asked for; what is said, or "" for a result
EXAMPLES = [
    ("dcgan_mri", "inference", {"interpolate": 0}, "interpolate must be a list (a whole number each) or null, got 0"),
    ("dcgan_mri", "inference", {"latent_size": 0}, "latent_size must be a whole number from 1 on, got '0'"),
    ("dcgan_mri", "inference", {"size": "word"}, "size must be a whole number, got 'word'"),
    ("dcgan_mri", "inference", {"channels": -1}, "channels must be a whole number from 1 on, got '-1'"),
    ("dcgan_mri", "inference", {"dropout": -1}, "dropout must be a number from 0 to 1, got -1"),
    ("dcgan_mri", "inference", {"steps": "word"}, "steps must be a whole number, got 'word'"),
    ("dcgan_mri", "inference", {"device": "cdua"}, "device must be such as cpu or cuda:0, got 'cdua'"),
    ("dcgan_mri", "train", {"phantom": 2}, "phantom must be a mapping or null, got 2"),
    ("dcgan_mri", "train", {"percentiles": [0]}, "percentiles must be two rising numbers, got [0]"),
    ("dcgan_mri", "train", {"size": 0}, "size must be a"),
    ("inr_gan_multistage", "inference", {"latent_size": 0}, "latent_size must be a whole number from 1 on, got '0'"),
    ("inr_gan_multistage", "inference", {"image_channels": -1}, "image_channels must be a whole number from 1 on"),
    ("msgan_xray2d", "train", {"ema_decay": 2}, "ema_decay must be a number from 0 to 1, got 2"),
    ("msgan_xray2d", "train", {"ema_decay": math.nan}, "ema_decay must be a number, got nan"),
    ("msgan_xray2d", "train", {"factor": 0}, "factor must be a whole number from 2 on, got '0'"),
    ("msgan_xray2d", "train", {"weights": "word"}, "weights must be shared or per_scale, got 'word'"),
    ("msgan_ct3d", "inference", {"noise": "nan"}, "noise must be a number, got 'nan'"),
]


def knobs_of(bundle: str, workflow: str) -> list[str]:
    """Names at the top of a config that a user may set to a number, a word or a list."""
    config = ConfigParser.load_config_file(str(front_door.BUNDLES / bundle / "configs" / f"{workflow}.yaml"))
    left_out = {"bundle_root", "imports", "initialize", "run", "finalize", "device", *TEXT_KNOBS}
    plain = {name: value for name, value in config.items() if "_target_" not in str(value) and "$" not in str(value)}
    return [name for name, value in plain.items() if name not in left_out and "@" not in str(value)]


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    def late(*_):
        raise TimeoutError(f"it took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(bundle: str, workflow: str, knobs: dict, folder: Path, weights: Path | None = None) -> str:
    """What is said; "" where the work is done. Anything else than an InputError is raised."""
    door = front_door.FrontDoor(bundle, {})
    tiny = TINY.NETWORKS[bundle] | WORKFLOWS[workflow][bundle] | {"device": torch.device("cpu")}
    if workflow == "train" and bundle != "inr_gan_multistage":
        tiny["max_epochs"] = 1
    if workflow == "inference" and weights is not None:
        tiny["weights_path"] = str(weights)
    fixed = {"bundle_root": str(door.bundle), "output_dir": str(folder)}
    try:
        with deadline(SECONDS), contextlib.redirect_stdout(io.StringIO()):
            door.run(tiny | fixed | knobs, workflow=workflow)
    except InputError as mistake:
        return str(mistake)
    return ""


@pytest.mark.parametrize(("bundle", "workflow", "knobs", "sentence"), EXAMPLES, ids=[str(e[:3]) for e in EXAMPLES])
def test_a_knob_that_is_none_is_one_sentence_before_any_work(bundle, workflow, knobs, sentence, tmp_path):
    said = outcome(bundle, workflow, knobs, tmp_path / "out")
    assert said.startswith(sentence) and said.endswith(".") and "\n" not in said
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory):
    """A bundle's tiny network, as it is drawn, in a file."""
    folder = tmp_path_factory.mktemp("weights")

    def saved(bundle: str) -> Path:
        path = folder / f"{bundle}.pt"
        if not path.exists():
            parser = ConfigParser()
            parser.read_config(str(front_door.BUNDLES / bundle / "configs" / "inference.yaml"))
            parser["bundle_root"] = str(front_door.BUNDLES / bundle)
            for name, value in TINY.NETWORKS[bundle].items():
                parser[name.replace("#", "::")] = value
            network = parser.get_parsed_content("network_def")
            torch.save(network.state_dict(), path)
            load_weights(network, path)
        return path

    return saved


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("bundle", TINY.NETWORKS)
def test_every_knob_with_every_value_is_a_result_or_one_sentence(bundle, workflow, weights_of, tmp_path):
    weights = weights_of(bundle) if workflow == "inference" else None
    wrong = {}
    for name in knobs_of(bundle, workflow):
        for n, value in enumerate(VALUES):
            try:
                said = outcome(bundle, workflow, {name: value}, tmp_path / f"{name}_{n}", weights)
            except Exception as error:
                wrong[f"{name} = {value!r}"] = repr(error.__cause__ or error)[:200]
                continue
            if said and ("\n" in said or not said.endswith(".")):
                wrong[f"{name} = {value!r}"] = said
    assert not wrong
