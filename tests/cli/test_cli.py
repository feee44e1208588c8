"""Mistyped knobs are refused with the nearest name; every other override passes; errors speak plainly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hiresmed.cli.door import check_overrides
from hiresmed.core.errors import InputError, first_input_error

CONFIG = """
tile_size: 128
image: null
network_def: {_target_: torch.nn.Conv2d, in_channels: 1}
train: {trainer: {max_epochs: 3}}
"""


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / "inference.yaml").write_text(CONFIG)
    (tmp_path / "overlay.yaml").write_text("rollout: 0.5\n")
    return str(tmp_path / "inference.yaml")


def argv(config: str, *words: str) -> list[str]:
    return ["/venv/monai/bundle/__main__.py", "run", "--config_file", config, *words]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--tile_sise", "did you mean --tile_size"),
        ("--tilesize=64", "did you mean --tile_size"),
        ("--imgae", "did you mean --image"),
        ("--networkdef#in_channels", "did you mean --network_def"),
        ("--qqq", "its knobs are the first lines of the config"),
        ("--rollout", "its knobs are the first lines of the config"),
    ],
)
def test_a_mistyped_knob_is_refused_with_the_nearest_name(config, word, told):
    with pytest.raises(InputError, match=rf"{word.split('=')[0]} is no knob of this config; {told}"):
        check_overrides(argv(config, word, "64"))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--tile_size", "64"),
        ("--tile_size=64", "--image", "/data/--strange.nii"),
        ("--network_def#in_channels", "2", "--network_def::out_channels", "3"),
        ("--train#trainer#max_epochs", "5"),
        ("--meta_file", "m.json", "--logging_file", "l.conf", "--run_id", "run", "--tracking", "none"),
        ("--init_id=initialize", "--final-id", "finalize", "--args_file", "a.json", "--workflow_type", "infer"),
    ],
)
def test_knobs_parts_of_knobs_and_monais_own_arguments_pass(config, words):
    check_overrides(argv(config, *words))
    with pytest.raises(InputError):
        check_overrides(argv(config, *words, "--tile_sise", "64"))


def test_a_knob_of_an_overlay_counts(config):
    both = f"['{config}','{Path(config).with_name('overlay.yaml')}']"
    check_overrides(argv(both, "--rollout", "0.2", "--tile_size", "4"))
    with pytest.raises(InputError, match="did you mean --rollout"):
        check_overrides(argv(both, "--rolout", "0.2"))


def test_other_programs_arguments_are_none_of_ours(config):
    check_overrides(["/venv/bin/pytest", "--config_file", config, "--tile_sise", "4"])
    check_overrides(["/venv/monai/bundle/__main__.py", "run", "--tile_sise", "4"])
    check_overrides([])


PROGRAM = """
from hiresmed.core.errors import InputError, speak_plainly
speak_plainly()
try:
    try:
        raise {kind}("the knob should be 3, but is 4; set it to 3.")
    except Exception as error:
        raise RuntimeError("Failed to instantiate component 'x'") from error
except Exception as error:
    raise RuntimeError("MONAI wraps twice") from error
"""


def spoken(kind: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM.format(kind=kind)], capture_output=True, text=True)


def test_a_users_mistake_ends_as_one_line_and_ours_as_a_traceback():
    theirs, ours = spoken("InputError"), spoken("KeyError")
    assert (theirs.returncode, theirs.stderr) == (1, "error: the knob should be 3, but is 4; set it to 3.\n")
    assert ours.returncode == 1 and "Traceback" in ours.stderr and "error: the knob" not in ours.stderr


def test_the_mistake_is_found_in_causes_contexts_and_circles():
    mistake = InputError("here")
    outer = RuntimeError("there")
    outer.__context__ = mistake
    assert first_input_error(outer) is mistake is first_input_error(mistake)
    circle = RuntimeError("round")
    circle.__cause__ = ValueError("and")
    circle.__cause__.__cause__ = circle
    assert first_input_error(circle) is None is first_input_error(None)


MODULE_CONFIG = """
batch: {_target_: hiresmed.core.tiles, _mode_: MODE}
initialize: [{_target_: hiresmed.cli.open_door}]
run: ["$print(@batch)"]
"""


@pytest.mark.parametrize("mode", ["default", "callable"])
def test_a_module_as_target_ends_as_one_sentence(tmp_path, mode):
    (tmp_path / "train.yaml").write_text(MODULE_CONFIG.replace("MODE", mode))
    words = ["run", "--config_file", str(tmp_path / "train.yaml")]
    done = subprocess.run([sys.executable, "-m", "monai.bundle", *words], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "must name a class or a function, got the module hiresmed.core.tiles; name what it defines" in line
