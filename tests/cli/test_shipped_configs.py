"""MONAI's notice is silent for the configs that are shipped, as they are shipped, and for no others."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

from hiresmed.cli.command import main
from hiresmed.cli.shipped_configs import NOTICE, are_shipped, without_notice
from hiresmed.cli.shipped_hashes import SHA256
from hiresmed.core.errors import InputError

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "shipped_configs.py"))

INFERENCE = ROOT / "bundles" / "msgan_ct3d" / "configs" / "inference.yaml"


def test_the_list_is_of_the_configs_as_they_are():
    assert SCRIPT["TARGET"].read_text(encoding="utf-8") == SCRIPT["text"](), "run: python scripts/shipped_configs.py"
    assert set(SHA256) >= {f"{p.parent.name}/{n}.yaml" for p in (ROOT / "bundles").glob("*/configs")
                           for n in ("train", "inference", "evaluate")}  # fmt: skip


def test_a_copy_is_known_wherever_it_lies_and_an_edited_one_is_not(tmp_path):
    copy = tmp_path / "other.yaml"
    copy.write_bytes(INFERENCE.read_bytes())
    assert are_shipped([INFERENCE, copy])
    copy.write_bytes(INFERENCE.read_bytes().replace(b"\n", b"\r\n"))
    assert are_shipped([copy]), "a clone on Windows"
    copy.write_text(INFERENCE.read_text() + "\n# mine\n")
    assert not are_shipped([INFERENCE, copy])
    assert without_notice({"A": "b"}, [copy]) == {"A": "b"}


def warned_of(environment: dict[str, str]) -> str:
    # on lines of their own: from Python 3.13 on a warning quotes the line that it came from
    code = f"import warnings\nwarnings.warn({NOTICE + ' x: any _target_'!r})\nwarnings.warn('of mine')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return done.stderr


def test_only_the_notice_is_silenced():
    environment = without_notice({}, [INFERENCE])
    assert NOTICE not in warned_of(environment) and "of mine" in warned_of(environment)
    assert NOTICE in warned_of({})
    assert without_notice({"PYTHONWARNINGS": "error"}, [INFERENCE])["PYTHONWARNINGS"].startswith("error,")


def test_the_command_hands_it_to_the_run(monkeypatch, tmp_path):
    environments = []

    def popen(command, env, **_):
        environments.append(env)
        raise InputError("no more is wanted of it")

    monkeypatch.setattr("hiresmed.cli.command.subprocess.Popen", popen)
    edited = tmp_path / "msgan_ct3d"
    (edited / "configs").mkdir(parents=True)
    (edited / "configs" / "metadata.json").write_text("{}")
    (edited / "configs" / "inference.yaml").write_text(INFERENCE.read_text().replace("seed: 0", "seed: 1"))
    for place in (ROOT / "bundles" / "msgan_ct3d", edited):
        assert main(["run", str(place), "--seed", "3"]) == 2
    assert [NOTICE in env.get("PYTHONWARNINGS", "") for env in environments] == [True, False]
