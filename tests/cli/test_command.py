"""The command `hiresmed` finds bundles, says what they are, and runs what monai.bundle would, or says what is wrong."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fire.parser import DefaultParseValue
from hiresmed.cli import bundle_folders
from hiresmed.cli.bundle_folders import BundleFolder, Knob, bundle, bundles
from hiresmed.cli.command import main, run_command
from hiresmed.cli.door import restore_text
from hiresmed.core.errors import InputError
from hiresmed.core.processor import processor_name
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[2]
METADATA = {
    "version": "1.2.3", "task": "Adds", "description": "It adds.", "pytorch_version": "2", "monai_version": "1",
    "numpy_version": "2", "required_packages_version": {},
}  # fmt: skip
INFERENCE = """# Add two numbers.
#
#   python -m monai.bundle run --config_file configs/inference.yaml --first 3

bundle_root: .
first: 1                 # a number
size: null               # of it, say [3, 3]
rate: {_target_: builtins.dict, recipe: "@size", fast: 1, slow: 2}  # of two kinds
device: {_target_: torch.device, device: cpu}

# more of them
second: 2
mean: {_target_: statistics.fmean, data: ["@first", "@second"]}
run: ["$print('the mean is', @mean)"]
"""


def write(folder: Path, name: str = "adder", **configs: str) -> Path:
    (folder / name / "configs").mkdir(parents=True)
    (folder / name / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    for config, text in {"inference": INFERENCE, **configs}.items():
        (folder / name / "configs" / f"{config}.yaml").write_text(text)
    return folder / name


@pytest.fixture
def adder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HIRESMED_BUNDLES", str(tmp_path))
    more = "# Overlay on inference: adds more.\n\nsecond: 20\n"
    most = "# Overlay on more: adds most.\n\nsecond: 200\n"
    train = "# Learn.\n\nepochs: 3\nrun: []\n"
    command = "python -m monai.bundle run --config_file \"['configs/train.yaml','configs/wide.yaml']\""
    wide = f"# Wider.\n#   {command}\n\nwidth: 3\n"
    return write(tmp_path, more=more, most=most, train=train, wide=wide)


def names(files: list[Path]) -> list[str]:
    return [path.stem for path in files]


def test_an_overlay_brings_what_its_header_lies_over(adder):
    folder = BundleFolder(adder)
    assert names(folder.files()) == ["inference"]
    assert names(folder.files(["more"])) == ["inference", "more"]
    assert names(folder.files(["most"])) == ["inference", "more", "most"]
    assert names(folder.files(["wide"])) == ["train", "wide"]
    assert names(folder.files(["inference", "wide"])) == ["inference", "wide"]
    assert names(folder.files(["configs/train.yaml", "wide"])) == ["train", "wide"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bundles").glob("*/configs/**/*.yaml")), ids=lambda p: f"{p.parts[-3]}-{p.stem}"
)
def test_each_config_of_our_bundles_can_be_run_by_its_name(path):
    folder = BundleFolder(next(p.parent for p in path.parents if p.name == "configs"))
    files = folder.files([path.relative_to(folder.root / "configs").as_posix()])
    assert path in files
    assert sum("run" in yaml.safe_load(f.read_text()) for f in files[:1]) == 1, "the first is a workflow"


def test_the_knobs_are_the_first_lines_with_their_comments(adder):
    assert BundleFolder(adder).knobs() == [
        Knob("bundle_root", ".", ""),
        Knob("first", "1", "a number"),
        Knob("size", "null", "of it, say [3, 3]"),
        Knob("rate", "fast: 1, slow: 2", "of two kinds"),
        Knob("device", "{_target_: torch.device, device: cpu}", ""),
        Knob("second", "2", ""),
    ]


def test_every_knob_that_our_bundles_explain_is_one_of_the_config():
    for folder in bundles().values():
        known = yaml.safe_load(folder.config("inference").read_text())
        knobs = folder.knobs()
        assert {k.name for k in knobs} <= set(known) and {"seed", "output_dir", "weights_path"} <= {
            k.name for k in knobs
        }


def test_the_command_is_monais_own_with_the_bundles_root(adder):
    words = run_command(BundleFolder(adder), ["more", "--first", "5", "--size=[3,3]"])
    folder = adder / "configs"
    assert words[:4] == [sys.executable, "-m", "monai.bundle", "run"]
    assert words[4:6] == ["--config_file", f"['{folder / 'inference.yaml'}','{folder / 'more.yaml'}']"]
    assert words[6:] == ["--bundle_root", str(adder), "--first", "5", "--size=[3,3]"]
    assert run_command(BundleFolder(adder), ["--bundle_root", "x"])[6:] == ["--bundle_root", "x"]


IMAGE = INFERENCE.replace("size:", "image: null\nsize:").replace("run: [", 'run: ["$print(ascii(@image))", ')
NAMES = ["a#1.png", "$open('executed', 'w')", "[a],b.png", "a::b.png", "%first", "@first", "it's.png", "$import os"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_reaches_monais_parser_as_what_it_is(name, adder):
    (adder / "configs" / "inference.yaml").write_text(IMAGE)
    for words in (["--image", name], [f"--image={name}"]):
        word = run_command(BundleFolder(adder), words)[-1]
        value = DefaultParseValue(word.removeprefix("--image="))
        parser = ConfigParser({"image": value, "first": 1})
        assert parser.get_parsed_content("image") == name
        restore_text(parser, {"image": word.removeprefix("--image=")})
        assert parser.get_parsed_content("image") == name


def test_a_file_name_is_never_executed_whatever_folder_the_bundle_lies_in(tmp_path, monkeypatch, capsys):
    door = "initialize: [{_target_: hiresmed.cli.door.open_door}]\n"
    folder = write(tmp_path, "adder#1,2", inference=IMAGE + door)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(folder), "--image", "$open('executed', 'w')"]) == 0
    assert capsys.readouterr().out == "\"$open('executed', 'w')\"\nthe mean is 1.5\n"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "added"], "added is no bundle; did you mean adder?"),
        (["run", "zzz"], "set HIRESMED_BUNDLES"),
        (["run", "adder", "moer"], "moer is no config of adder; did you mean"),
        (["run", "adder", "--frist", "3"], "--frist is no knob of this config; did you mean --first?"),
        (["run", "adder", "--width", "3"], "--width is no knob of this config"),
        (["run", "adder", "--maen::data", "3"], "--maen is no knob of this config; did you mean --mean?"),
        (["run", "adder", "--mean::dat::0", "3"], "--mean::dat is no knob of this config; did you mean --mean::data?"),
        (["info", "adder", "infrence"], "did you mean inference?"),
        (["export", "adder"], "scripts/export_bundle.py"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_right_name(adder, capsys, words, told):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and told in said.err and said.err.count("\n") == 1


def test_it_runs_the_bundle_in_the_current_folder_and_leaves_out_monais_listing(adder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "adder", "more", "--first", "5"]) == 0
    assert capsys.readouterr().out == "the mean is 12.5\n"


def test_the_status_of_a_failed_run_is_handed_on(adder, monkeypatch):
    monkeypatch.setattr("hiresmed.cli.command.run_command", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    assert main(["run", "adder"]) == 7


def test_bundles_are_looked_for_in_this_order(tmp_path, monkeypatch):
    for place in ("named", "here", "here/bundles", "package/bundles", "repository/bundles"):
        write(tmp_path / place, "same")
        write(tmp_path / place, place.replace("/", "_"))
    package = tmp_path / "repository" / "common" / "hiresmed"
    package.mkdir(parents=True)
    write(package / "bundles", "same")
    monkeypatch.setattr(bundle_folders, "__file__", str(package / "cli" / "bundle_folders.py"))
    monkeypatch.setenv("HIRESMED_BUNDLES", str(tmp_path / "named"))
    monkeypatch.chdir(tmp_path / "here")
    places = ["named", "here", "here/bundles", "repository/bundles", "repository/common/hiresmed/bundles"]
    for place in places:
        assert bundles()["same"].root == tmp_path / place / "same"
        (tmp_path / place / "same" / "configs" / "metadata.json").unlink()
    assert "same" not in bundles() and "here_bundles" in bundles()
    assert bundle(str(tmp_path / "package/bundles/package_bundles")).name == "package_bundles"


def test_list_and_info_say_what_there_is(adder, capsys):
    assert main(["list"]) == 0
    assert "adder                1.2.3    Adds (no weights yet)\n" in capsys.readouterr().out
    (adder / "models").mkdir()
    (adder / "models" / "model.pt").write_bytes(b"abc")
    assert main(["info", "adder"]) == 0
    said = capsys.readouterr().out
    assert "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in said  # of "abc", FIPS 180-2
    assert "  first              1                          a number\n" in said
    assert "  most                                 Overlay on more: adds most.\n" in said


def test_the_doctor_finds_damaged_weights_and_missing_packages(adder, capsys):
    from hiresmed.cli.doctor import examine

    (adder / "models").mkdir()
    (adder / "models" / "model.pt").write_bytes(b"abc")
    (adder / "models" / "model.pt.sha256").write_text(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    folder = BundleFolder(adder)
    folder.metadata["required_packages_version"] = {"torch": "2", "nowhere": "1.0"}
    assert examine({"adder": folder}) == 1
    said = capsys.readouterr().out
    assert "wrong: nowhere must be installed, got none; run: pip install nowhere==1.0." in said
    assert "(as noted)" in said and "free in" in said and "\n  GPU" in said
    assert processor_name() in said and "\n  bfloat16 on cpu      " in said and "\n  Python " in said
    (adder / "models" / "model.pt").write_bytes(b"abd")
    assert examine({"adder": folder}) == 1
    assert "wrong: adder: model.pt must have the sha256 ba7816bf8f01..." in capsys.readouterr().out


def test_the_repositorys_bundles_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HIRESMED_BUNDLES", raising=False)
    assert bundles()["dcgan_mri"].root == ROOT / "bundles" / "dcgan_mri"


def test_no_bundle_anywhere_is_a_sentence(monkeypatch):
    monkeypatch.setattr("hiresmed.cli.bundle_folders.search_path", lambda: [])
    assert main(["list"]) == 2
    with pytest.raises(InputError, match="is no bundle"):
        bundle("adder")


def commands_of(page: Path) -> list[str]:
    """The lines of a page's blocks of code that run a bundle."""
    blocks = page.read_text(encoding="utf-8").split("```")[1::2]
    return [line.strip() for block in blocks for line in block.splitlines() if line.startswith("hiresmed run ")]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in commands_of(page)}))
def test_every_command_of_readme_and_docs_names_bundles_configs_and_knobs_that_there_are(line, monkeypatch):
    monkeypatch.setenv("HIRESMED_BUNDLES", str(ROOT / "bundles"))
    name, *words = shlex.split(line, comments=True)[2:]
    if not name.startswith("."):  # a folder of the reader's own
        assert run_command(bundle(name), words)


def test_the_pages_have_commands():
    assert sum(len(commands_of(page)) for page in PAGES) > 10


def test_the_command_imports_none_of_the_packages_that_take_seconds():
    code = "import sys, hiresmed.cli.command; print({'torch', 'monai', 'ignite', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_info_lists_no_config_that_only_a_script_runs():
    folder = BundleFolder(ROOT / "bundles" / "msgan_ct3d")
    assert {"inference", "train", "super_resolution", "patch_baseline"} <= set(folder.offered)
    assert not {"demo_weights", "demo_finer", "base_first", "quality_study"} & set(folder.offered)
    assert {"demo_weights", "demo_finer"} <= set(folder.configs)
