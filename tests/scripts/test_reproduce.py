"""The page of claims is what its file says, and what a claim's check names is there."""

from __future__ import annotations

import ast
import collections
import copy
import pathlib
import sys

import pytest
from hiresmed.core.errors import InputError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import reproduce


def test_the_page_is_made_from_the_file_of_claims():
    assert reproduce.PAGE.read_text(encoding="utf-8") == reproduce.page(reproduce.claims(), reproduce.checked_before())


def test_each_claim_has_a_name_of_its_own_and_its_check_names_tests_that_are_there():
    entries = reproduce.claims()
    assert max(collections.Counter(e["id"] for e in entries).values()) == 1
    for entry in entries:
        for test in entry.get("check", {}).get("tests", []):
            path, _, name = test.partition("::")
            functions = {
                node.name for node in ast.walk(ast.parse((reproduce.ROOT / path).read_text())) if hasattr(node, "name")
            }
            assert not name or name in functions, test


def test_each_script_that_a_command_begins_with_is_there():
    for entry in reproduce.claims():
        first = entry["command"].split()[0]
        if first.startswith("scripts/"):
            assert (reproduce.ROOT / first).exists(), entry["id"]


@pytest.mark.parametrize("key", ["verdict", "figure", "why"])
def test_a_claim_without_verdict_figure_or_reason_is_refused(monkeypatch, key):
    entries = copy.deepcopy(reproduce.claims())
    entry = next(e for e in entries if e["verdict"] == "does not hold")
    del entry[key]
    monkeypatch.setattr(reproduce.yaml, "safe_load", lambda text: entries)
    with pytest.raises(InputError):
        reproduce.claims()


def test_a_check_tells_a_test_that_fails_from_one_that_passes(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_right():\n    assert True\n\n\ndef test_wrong():\n    assert False\n"
    )
    outcomes = [
        reproduce.check({"check": {"tests": [f"{tmp_path}/test_it.py::{t}"]}}) for t in ("test_right", "test_wrong")
    ]
    assert [outcome["passed"] for outcome in outcomes] == [True, False]
    assert reproduce.check({}) is None
