"""What README, cards and pages name is there: scripts, tests, configs."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/README.md")])
PLACES = re.compile(r"(?<![\w/.-])(?:tests|scripts|docs)/[\w./-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_script_and_test_that_a_page_names_is_in_the_repository(page):
    text = page.read_text(encoding="utf-8")
    bundle = page.parents[1]  # a card's paths may begin in its bundle
    missing = [place for place in PLACES.findall(text) if not any((top / place).exists() for top in (ROOT, bundle))]
    assert [place for place in missing if place != "docs/README.md"] == []  # every card's own name


def test_the_law_finds_a_path_that_is_not_there():
    assert PLACES.findall("run `pytest tests/networks/test_lean.py`.") == ["tests/networks/test_lean.py"]
    assert not (ROOT / "tests/networks/test_lean.py").exists()
