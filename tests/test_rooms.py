"""Rooms do not know one another: the bundle's config introduces them; and the package can be renamed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hiresmed
import pytest

LIBRARY = Path(hiresmed.__file__).parent
FILES = sorted(LIBRARY.rglob("*.py"))
ROOMS = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()}


def imports(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, dotted path below the package) of each relative import; absolute ones begin with their package's name."""
    here = path.relative_to(LIBRARY).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, ["", *alias.name.split(".")]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, ["", *node.module.split(".")]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level + 1]) + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)


def test_there_are_rooms_and_files_to_look_at():
    rooms = {"data", "transforms", "networks", "samplers", "inferers", "engines", "handlers", "metrics", "losses"}
    assert rooms <= ROOMS
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_room_imports_only_itself_and_the_plain_modules(path):
    """A plain module beside the rooms imports no room either, else the rooms would meet in it."""
    own = path.relative_to(LIBRARY).parts[0]
    for line, target in imports(path):
        assert target[:2] != ["", "hiresmed"], f"line {line}: an exported copy has another name; import relatively"
        assert target[0] not in ROOMS - {own}, f"line {line}: {own} imports the room {target[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_no_name_is_both_a_module_and_a_thing_in_it(path):
    """A config names `package.name`, and since Python 3.12 the module package/name.py wins over the function."""
    body = ast.parse(path.read_text()).body
    definitions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert path.stem not in definitions, f"{path.name} defines {path.stem}; name the file after its subject"
    if path.name == "__init__.py":
        modules = {module.stem for module in path.parent.glob("*.py")}
        modules |= {package.parent.name for package in path.parent.glob("*/__init__.py")}
        exported = {
            alias.asname or alias.name
            for node in body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        assert (definitions | exported) & modules == set(), "the package exports names of its own modules"
