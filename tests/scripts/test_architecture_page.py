"""docs/architecture.md names functions that exist, and its picture shows the imports as they are."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ("core", "io", "reports", "training", "metrics", "phantoms", "datasets", "methods", "cli")
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(ROOMS)})\.[\w.]+|monai\.[\w.]+)`", PAGE)))


def resolved(name: str) -> object:
    """The thing that a dotted name of the page stands for."""
    parts = name.split(".") if name.startswith("monai.") else ["hiresmed", *name.split(".")]
    for depth in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        for part in parts[depth:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"{name} names nothing")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_exists(name):
    assert resolved(name) is not None


def test_the_page_tells_the_way_of_every_method():
    assert len(NAMES) > 60
    for bundle in (path.name for path in (ROOT / "bundles").iterdir()):
        assert re.search(rf"^### .*{bundle}", PAGE, re.MULTILINE), f"docs/architecture.md has no way for {bundle}"


def test_the_picture_shows_the_imports_as_they_are():
    house = runpy.run_path(str(ROOT / "scripts" / "house_picture.py"))
    assert house["PICTURE"].read_text(encoding="utf-8") == house["drawing"](house["imports"]()), (
        "docs/images/house.svg is not of these imports; run scripts/house_picture.py"
    )
    order = [name for row in house["ROWS"] for name in row]
    assert set(order) == set(house["packages"]())
    for name, others in house["imports"]().items():
        assert all(order.index(other) > order.index(name) for other in others), f"{name} imports what stands above it"
