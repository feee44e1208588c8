"""The layout is a law: core imports nothing of ours, a package only what precedes it, a method no other method."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hiresmed
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = Path(hiresmed.__file__).parent
FILES = sorted(LIBRARY.rglob("*.py"))
ORDER = ("core", "io", "reports", "training", "metrics", "phantoms", "datasets", "methods", "cli", "bundles")
UNCONDITIONAL = {"inr_gan", "dcgan"}  # may import methods.sampling


def package_of(parts: tuple[str, ...]) -> str:
    """core, io ..., or methods.<name>; empty for the package itself."""
    if parts[:1] == ("methods",) and len(parts) > 1 and (LIBRARY / "methods" / parts[1]).is_dir():
        return f"methods.{parts[1]}"
    return parts[0] if parts and (LIBRARY / parts[0]).is_dir() else ""


def imports(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, path below the package) of each relative import; absolute ones begin with an empty name."""
    folder = path.relative_to(LIBRARY).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, ("", *alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, ("", *node.module.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            yield from ((node.lineno, (*base, alias.name)) for alias in node.names)


def allowed(importer: str, imported: str) -> bool:
    """Whether the law lets one package import another."""
    if importer == imported or not imported:
        return True
    if not importer:  # the top module imports nothing
        return False
    if imported.startswith("methods.") and importer.startswith("methods."):
        return imported == "methods.sampling" and importer.split(".")[1] in UNCONDITIONAL
    return ORDER.index(imported.split(".")[0]) < ORDER.index(importer.split(".")[0])


def test_every_package_has_its_place_in_the_order():
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()} == set(ORDER)
    assert [path.name for path in LIBRARY.glob("*.py")] == ["__init__.py"]
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_file_imports_only_what_the_order_allows(path):
    importer = package_of(path.relative_to(LIBRARY).parts[:-1])
    for line, target in imports(path):
        assert target[:2] != ("", "hiresmed"), f"line {line}: an exported copy has another name; import relatively"
        assert target[:1] == ("",) or allowed(importer, package_of(target)), (
            f"line {line}: {importer} must not import {package_of(target)}"
        )


@pytest.mark.parametrize(
    ("importer", "imported", "law"),
    [
        ("core", "io", False),
        ("io", "core", True),
        ("datasets", "phantoms", True),
        ("phantoms", "datasets", False),
        ("methods.msgan", "methods.patchddm", False),
        ("methods.dcgan", "methods.sampling", True),
        ("methods.msgan", "methods.sampling", False),
        ("methods.sampling", "methods.dcgan", False),
        ("reports", "methods.msgan", False),
        ("methods.msgan", "cli", False),
    ],
)
def test_the_law_itself(importer, imported, law):
    assert allowed(importer, imported) is law


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


def test_every_public_name_is_used_by_more_than_tests():
    """By another place of the library, a config, a script or a page: what only tests call serves nobody."""
    defined: dict[str, str] = {}
    used = {"emit"}  # of a logging.Handler: Python calls it
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                defined[node.name] = path.name
            elif path.name != "__init__.py":
                used |= {getattr(node, field, None) for field in ("id", "attr")}
                used |= {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/*/*"), *ROOT.glob("scripts/**/*")]:
        if path.suffix in (".md", ".yaml", ".py", ".json"):
            used |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    assert {name: file for name, file in defined.items() if name not in used} == {}
