"""The part of the library that an exported bundle carries: the shared packages and the folders of its methods."""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

PACKAGE = "hiresmed"
METHODS = "methods"
# the command `hiresmed`, the bundles from Python, and what setup.py adds to an installed package
REPOSITORY_ONLY = {"cli/command.py", "cli/doctor.py", "cli/shipped_configs.py", "cli/shipped_hashes.py"}
NOT_OF_A_BUNDLE = {"bundles", "export"}
# import name -> name on PyPI, where they differ; torch.utils.tensorboard imports a package of its own
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "PyYAML",
    "ignite": "pytorch-ignite",
    "itk": "itk-io",  # of ITK's parts the one that reads files
    "torch.utils.tensorboard": "tensorboard",
}
# MONAI's own requirements, which have their own fields in metadata.json
BASE = {"torch", "monai", "numpy"}


def methods_in(texts: Iterable[str]) -> set[str]:
    """The methods that configs name.

    Example:
        >>> methods_in(["{_target_: hiresmed.methods.dcgan.DcganGenerator}"])
        {'dcgan'}
    """
    return {name for text in texts for name in re.findall(rf"\b{PACKAGE}\.{METHODS}\.(\w+)", text)}


def library_files(root: pathlib.Path, methods: Iterable[str]) -> list[pathlib.Path]:
    """All modules of the shared packages and of the methods' folders, relative to the library's root."""
    other_methods = {folder.name for folder in (root / METHODS).iterdir() if folder.is_dir()} - set(methods)
    files = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return [
        file
        for file in files
        if file.as_posix() not in REPOSITORY_ONLY
        and file.parts[0] not in NOT_OF_A_BUNDLE
        and not (file.parts[0] == METHODS and file.parts[1] in other_methods)
    ]


def requirements(root: pathlib.Path, files: Iterable[pathlib.Path]) -> tuple[set[str], set[str]]:
    """PyPI names of what the files import besides the standard library and MONAI's requirements: (needed, optional).

    Optional is what is imported inside `try` ... `except ImportError` only.
    """
    needed: set[str] = set()
    optional: set[str] = set()
    for file in files:
        for name, is_guarded in _imports(ast.parse((root / file).read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            distribution = DISTRIBUTIONS.get(name) or DISTRIBUTIONS.get(top, top)
            if distribution not in BASE and top not in sys.stdlib_module_names:
                (optional if is_guarded else needed).add(distribution)
    return needed, optional - needed


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(name, whether ImportError is caught) of each absolute import."""
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in ast.dump(handler) for handler in node.handlers)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        yield from ((name, node in guarded) for name in names)


def renamed(text: str, new: str) -> str:
    """A text in which every dotted name of the library, and every absolute import of it, begins with `new`.

    Example:
        >>> renamed("{_target_: hiresmed.cli.door.open_door}  # hiresmed draws; see hiresmed.", "ct_lib.v1")
        '{_target_: ct_lib.v1.cli.door.open_door}  # hiresmed draws; see hiresmed.'
        >>> renamed("from hiresmed import tiles", "ct_lib.v1")
        'from ct_lib.v1 import tiles'
    """
    text = re.sub(rf"(?<![\w./-]){PACKAGE}(?=\.[A-Za-z_])", new, text)
    return re.sub(rf"(?m)((?:from|import)\s+){PACKAGE}\b(?![\w.-])", rf"\g<1>{new}", text)


def write_copy(root: pathlib.Path, files: Iterable[pathlib.Path], folder: pathlib.Path, name: str) -> None:
    """Copies the library's files into a folder as a package that is called `name`."""
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (root / file).read_text(encoding="utf-8")
        target.write_text(renamed(text, name), encoding="utf-8", newline="\n")
