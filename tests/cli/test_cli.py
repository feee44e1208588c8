"""On every way in, mistyped knobs are refused, paths and null arrive as they were written, and errors speak plainly."""

from __future__ import annotations

import ast
import io
import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path

import monai.bundle
import programs
import pytest
import torch
from hiresmed.cli.bundle_folders import BundleFolder
from hiresmed.cli.door import options_of, restore_text
from hiresmed.core.errors import InputError, first_input_error, install_error_hook
from hiresmed.core.knobs import TEXT_KNOBS, as_expression, parse_text
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.handlers import StatsHandler

ROOT = Path(__file__).parents[2]
CONFIG = """
tile_size: 128
image: null
spacing: 2.0                  # mm; null: the image's own
learning_rate: 1.0e-3
max_epochs: 3
phantom: {shape: [8, 8]}
network_def: {_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 1, kernel_size: 3}
optimizer: {_target_: torch.optim.Adam, params: $@network_def.parameters(), lr: "@learning_rate"}
train:
  trainer: {_target_: hiresmed.training.batches.GanBatch, inputs: [], real: "@tile_size"}
result: {_target_: builtins.dict, image: "@image", spacing: "@spacing", tile_size: "@tile_size", epochs: "@max_epochs",
         phantom: "@phantom"}
initialize: [{_target_: hiresmed.cli.door.open_door, workflow: train}]
run: ["$print('result:', ascii(ascii(@result)))"]
"""


@pytest.fixture
def config(tmp_path) -> str:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "inference.yaml").write_text(CONFIG)
    (folder / "overlay.yaml").write_text('rollout: 0.5\ntile_size: "$int(64 * @rollout)"\n')
    (folder / "metadata.json").write_text("{}")
    return str(folder / "inference.yaml")


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which the front door replaces


def opened(files, **overrides) -> ConfigWorkflow:
    """A workflow after its `initialize`; the InputError in what MONAI makes of one."""
    try:
        workflow = ConfigWorkflow(files, logging_file=False, **overrides)
        workflow.initialize()
    except Exception as error:
        raise first_input_error(error) or error from None
    return workflow


def result(files, **overrides) -> dict:
    return opened(files, **overrides).parser.get_parsed_content("result")


MISTYPED = {
    "tile_sise": "--tile_sise is no knob of this config; did you mean --tile_size?",
    "imagee": "--imagee is no knob of this config; did you mean --image?",
    "qqq": "--qqq is no knob of this config; its knobs are the first lines of the config.",
    "rollout": "--rollout is no knob of this config; its knobs are the first lines of the config.",
    "network_def::in_chanels": "did you mean --network_def::in_channels?",
    "network_def::paddin": "did you mean --network_def::padding?",
    "train::trainer::conditon": "did you mean --train::trainer::condition?",
    "phantom::shap": "did you mean --phantom::shape?",
}  # fmt: skip


@pytest.mark.parametrize("name", MISTYPED)
def test_python_refuses_a_mistyped_knob_with_the_nearest(config, name):
    with pytest.raises(InputError) as caught:
        opened(config, **{name: 64})
    assert MISTYPED[name] in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tile_size": 64, "image": "/data/--strange.nii"},
        {"network_def#in_channels": 2, "network_def::padding": 1},
        {"phantom::seed": 3, "phantom::fine_shape": 4},
        {"network_def": {"_target_": "torch.nn.ReLU"}, "optimizer": None},
        {"width": 3, "network_def::padding": "@width"},
    ],
)
def test_knobs_parts_of_knobs_and_what_something_refers_to_pass(config, overrides):
    opened(config, **overrides)
    with pytest.raises(InputError, match="did you mean --tile_size"):
        opened(config, **overrides, tile_sise=64)


def test_an_overlay_may_bring_knobs_of_another_workflow(config):
    overlay = Path(config).with_name("both.yaml")
    overlay.write_text("tile_size: 32\nema_decay: 0.0\n")
    with pytest.raises(InputError, match="--ema_decay is no knob"):
        opened(config, ema_decay=0.1)
    opened([config, str(overlay)], ema_decay=0.1)


def test_a_knob_of_an_overlay_counts(config):
    both = [config, str(Path(config).with_name("overlay.yaml"))]
    opened(both, rollout=0.2)
    with pytest.raises(InputError, match="did you mean --rollout"):
        opened(both, rolout=0.2)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bundles").glob("*/configs/**/*.yaml")), ids=lambda p: p.parts[-3] + p.stem
)
def test_every_config_of_ours_is_its_own_and_no_knob_in_it_is_refused(path):
    from hiresmed.cli.door import check_ids, config_contents

    folder = BundleFolder(next(p.parent for p in path.parents if p.name == "configs"))
    files = folder.files([path.relative_to(folder.root / "configs").as_posix()])
    config = ConfigParser.load_config_files([str(file) for file in files])
    contents = config_contents(folder.root / "configs", ConfigParser(config))
    check_ids(config, contents)
    with pytest.raises(InputError, match="did you mean --output_dir"):
        check_ids({**config, "output_dirr": 1}, contents)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda:0", "device must be one of this machine, got cuda:0, where torch finds 0 GPUs; leave it out"),
        ("gpu", "device must be such as cpu or cuda:0, got 'gpu'; correct it, or leave it out."),
        ("cpu", None),
    ],
)
def test_a_device_that_there_is_not_is_one_sentence(config, monkeypatch, name, sentence):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with open(config, "a") as file:
        file.write("device: {_target_: torch.device, device: cpu}\nused: '@device'\n")
    if sentence is None:
        opened(config, device=name)
    else:
        with pytest.raises(InputError) as caught:
            opened(config, device=name)
        assert sentence in str(caught.value)


def test_mlflow_logs_whatever_losses_a_trainer_has(config, monkeypatch):
    with open(config, "a") as file:
        file.write("train::handlers:\n- {_target_: MLFlowHandler, output_transform: "
                   "\"$monai.handlers.from_engine(['loss'], first=True)\"}\n")  # fmt: skip
    monkeypatch.setattr("hiresmed.cli.door.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tracking must find the package mlflow, got none; run: pip install mlflow."):
        opened(config)
    monkeypatch.setattr("hiresmed.cli.door.find_spec", lambda name: True)
    transform = opened(config).parser["train::handlers::0::output_transform"]
    assert transform({"loss_d": torch.tensor(2.0), "r1": 1, "pred": torch.zeros(2)}) == {"loss_d": 2.0, "r1": 1.0}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"learning_rate": -1}, "learning_rate must be a number above 0, got -1"),
        ({"learning_rate": "1e-3x"}, "learning_rate must be a number above 0"),
        ({"max_epochs": 0, "train::trainer::targets": {"_target_": "builtins.dict", "max_epochs": "@max_epochs"}},
         "max_epochs must be a whole number from 1 on"),
    ],
)  # fmt: skip
def test_a_rate_or_a_count_that_is_none_is_refused_before_work(config, overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        opened(config, **overrides)


NAMES = ["a b.png", "a#1.png", "$(x).png", "$1#.png", "[a].png", "a,b.png", "a::b.png", "it's.png", '"a".png', "@image",
         "%tile_size", "{a}.png", "1e5", "null", "$image.png", "ä€.png", "back\\slash", "x%::y", "$'a'"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_the_same_after_monais_parser_whatever_it_holds(name, tmp_path, config):
    (tmp_path / name).touch()
    path = str(tmp_path / name)
    for text in (path, name):
        assert result(config, image=as_expression(text))["image"] == text
    assert parse_text(path) == path
    assert result(config, image=Path(path))["image"] == Path(path)


def test_text_knobs_lists_and_quotes(tmp_path):
    assert (
        parse_text("['a#.nii', '$b.nii']")
        == ["a#.nii", "$b.nii"]
        == parse_text(str(as_expression(["a#.nii", "$b.nii"])))
    )
    assert parse_text(ascii(as_expression("$x#"))) == "$x#" and parse_text('"$y()"') == "$y()"
    assert parse_text("null") is None is parse_text("None") and parse_text("12") == "12" and parse_text("[a]") == "[a]"


@pytest.fixture
def command_line(tmp_path, monkeypatch, capsys):
    """`python -m monai.bundle run WORDS` in tmp_path and this process; what the config printed."""

    def run(*words: str) -> dict:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", *words])
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("result: "))
        return ast.literal_eval(ast.literal_eval(line.removeprefix("result: ")))

    return run


def test_monais_command_takes_a_users_file_name_as_a_name_and_null_as_null(config, tmp_path, command_line):
    """Executed, cut at #, and split before."""
    evil = "$open('executed', 'w')"
    values = command_line("--config_file", config, "--image", evil, "--spacing", "null", "--phantom::shape", "null")
    assert not (tmp_path / "executed").exists() and values["image"] == evil
    assert values["spacing"] is None and values["phantom"] == {"shape": None}
    values = command_line("--config_file", config, "--image=a,b#1.png", "--spacing=None", "--tile_size", "[1,2]")
    assert values == {
        "image": "a,b#1.png", "spacing": None, "tile_size": [1, 2], "epochs": 3, "phantom": {"shape": [8, 8]}
    }  # fmt: skip


def test_an_args_file_is_read_as_it_was_written(config, tmp_path, command_line):
    (tmp_path / "args.json").write_text(json.dumps({"config_file": config, "image": "$a#b", "spacing": None}))
    values = command_line("--args_file", "args.json", "--tile_size", "3")
    assert (values["image"], values["spacing"], values["tile_size"]) == ("$a#b", None, 3)


def test_an_args_file_with_a_mistyped_knob_ends_in_one_sentence(config, tmp_path):
    """It drew the phantom for `imagee`."""
    (tmp_path / "args.json").write_text(json.dumps({"config_file": config, "imagee": "/my/xray.png"}))
    done = programs.run(["-m", "monai.bundle", "run", "--args_file", "args.json"], cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "result:" not in done.stdout
    assert "error: --imagee is no knob of this config; did you mean --image?\n" in done.stderr


def test_monai_bundle_run_in_python_refuses_a_mistyped_knob(config):
    with pytest.raises(RuntimeError) as caught:
        monai.bundle.run(config_file=config, imagee="/my/xray.png")
    assert "did you mean --image?" in str(first_input_error(caught.value))


def test_from_python_text_that_says_null_is_null_and_an_existing_path_keeps_its_hash(config, tmp_path):
    (tmp_path / "a#1.png").touch()
    values = result(config, spacing="null", image=str(tmp_path / "a#1.png"))
    assert values["spacing"] is None and values["image"] == str(tmp_path / "a#1.png")


def test_every_knob_that_offers_null_takes_it():
    """Seven did not."""
    count = 0
    for folder in (BundleFolder(path) for path in sorted((ROOT / "bundles").iterdir())):
        for workflow in ("train", "inference"):
            parser = ConfigParser(ConfigParser.load_config_file(folder.config(workflow)))
            for knob in folder.knobs(workflow):
                if "null" in knob.meaning and knob.value != "null":
                    for word in ("null", "None"):
                        parser[knob.name] = word
                        restore_text(parser, {knob.name: word})
                        assert parser[knob.name] is None, (folder.name, workflow, knob.name)
                    count += 1
    assert count >= 7


def test_other_programs_arguments_are_none_of_ours():
    words = ["run", "--config_file", "x", "--tile-size=4", "--a#b", "c"]
    assert options_of(["/venv/bin/pytest", *words]) == {} == options_of([])
    assert options_of(["/venv/monai/bundle/__main__.py", *words]) == {"config_file": "x", "tile_size": "4", "a::b": "c"}


def test_the_text_knobs_are_knobs_of_ours():
    known = {
        knob.name
        for path in (ROOT / "bundles").iterdir()
        for w in ("train", "inference")
        for knob in BundleFolder(path).knobs(w)
    }
    assert set(TEXT_KNOBS) <= known


PROGRAM = """
from hiresmed.core.errors import InputError, install_error_hook
install_error_hook()
try:
    try:
        raise {kind}("the knob must be 3, got 4; set it to 3.")
    except Exception as error:
        raise RuntimeError("Failed to instantiate component 'x'") from error
except Exception as error:
    raise RuntimeError("MONAI wraps twice") from error
"""


def spoken(kind: str) -> subprocess.CompletedProcess:
    return programs.run(["-c", PROGRAM.format(kind=kind)])


def test_a_users_mistake_ends_as_one_line_and_ours_as_a_traceback():
    theirs, ours = spoken("InputError"), spoken("KeyError")
    assert (theirs.returncode, theirs.stderr) == (1, "error: the knob must be 3, got 4; set it to 3.\n")
    assert ours.returncode == 1 and "Traceback" in ours.stderr and "error: the knob" not in ours.stderr


@pytest.mark.parametrize(("kind", "with_traceback"), [(InputError, False), (KeyError, True)])
def test_inside_an_engine_too_only_our_mistakes_are_logged_with_a_traceback(kind, with_traceback, monkeypatch):
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    install_error_hook()
    install_error_hook()

    def fail(engine, batch):
        raise kind("the knob must be 3, got 4; change it.")

    engine = Engine(fail)
    StatsHandler(name="engine_that_fails", iteration_log=False, epoch_log=False).attach(engine)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("engine_that_fails").addHandler(handler)
    try:
        with pytest.raises(kind):
            engine.run([0])
    finally:
        logging.getLogger("engine_that_fails").removeHandler(handler)
    assert "the knob must be 3, got 4" in stream.getvalue()
    assert ("Traceback" in stream.getvalue()) == with_traceback


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
initialize: [{_target_: hiresmed.cli.door.open_door}]
run: ["$print(@batch)"]
"""


@pytest.mark.parametrize("mode", ["default", "callable"])
def test_a_module_as_target_ends_as_one_sentence(tmp_path, mode):
    (tmp_path / "train.yaml").write_text(MODULE_CONFIG.replace("MODE", mode))
    words = ["run", "--config_file", str(tmp_path / "train.yaml")]
    done = programs.run(["-m", "monai.bundle", *words])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "must name a class or a function, got the module hiresmed.core.tiles; name what it defines" in line
