"""The part of the library that a bundle needs, found by reading the sources and not by importing them, and its copy."""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

PACKAGE = "hiresmed"
# import name -> name on PyPI, where they differ; torch.utils.tensorboard is torch's door to a package of its own
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "PyYAML",
    "ignite": "pytorch-ignite",
    "torch.utils.tensorboard": "tensorboard",
}
# what MONAI itself brings, by the names of their own fields in metadata.json
BASE = {"torch", "monai", "numpy"}


class Library:
    """The sources of a package, module by module.

    Args:
        root: the package's folder.
        name: what its modules call it, and the configs.
    """

    def __init__(self, root: pathlib.Path, name: str = PACKAGE) -> None:
        self.root, self.name = root, name
        self.trees: dict[pathlib.Path, ast.Module] = {}
        self.followed: dict[pathlib.Path, list[pathlib.Path]] = {}

    def needed(self, targets: Iterable[str]) -> list[pathlib.Path]:
        """Files of all modules that the dotted names lie in, and of all that these import, relative to the root.

        Imports inside functions count. A package's `__init__` is followed only for the names that are asked of it.

        Raises:
            ValueError: a name that the library does not have, in one sentence.

        Example:
            >>> Library(pathlib.Path("common/hiresmed")).needed(["hiresmed.core.errors.InputError"])
            [PosixPath('__init__.py'), PosixPath('errors.py')]
        """
        found: set[pathlib.Path] = set()
        waiting = [module for target in targets for module in self._of_target(target)]
        while waiting:
            module = waiting.pop()
            if module in found:
                continue
            found.add(module)
            if module.name != "__init__.py":
                waiting += self._imported(module)
        packages = {folder / "__init__.py" for module in found for folder in module.parents}
        return sorted(found | packages)

    def imports(self, module: pathlib.Path) -> Iterator[tuple[str, bool]]:
        """(import name, whether the module does without it) of each package from outside that a module imports."""
        guarded = {
            inner
            for node in ast.walk(self._tree(module))
            if isinstance(node, ast.Try) and any("ImportError" in ast.dump(h) for h in node.handlers)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(self._tree(module)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            yield from ((name, node in guarded) for name in names)

    def pruned(self, init: pathlib.Path, kept: Iterable[pathlib.Path]) -> str:
        """Text of an `__init__` without the imports of modules that are not kept, nor their names in `__all__`."""
        kept, tree = set(kept), self._tree(init)
        lines = (self.root / init).read_text(encoding="utf-8").splitlines()
        dropped: set[str] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level and not set(self._of_import(init, node)) <= kept:
                dropped |= {alias.asname or alias.name for alias in node.names}
                _blank(lines, node)
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
                names = [name for name in ast.literal_eval(node.value) if name not in dropped]
                _blank(lines, node)
                lines[node.lineno - 1] = "\n".join(["__all__ = [", *(f'    "{name}",' for name in names), "]"])
        return "\n".join(line for line in lines if line is not None) + "\n"

    def _tree(self, module: pathlib.Path) -> ast.Module:
        if module not in self.trees:
            self.trees[module] = ast.parse((self.root / module).read_text(encoding="utf-8"), filename=str(module))
        return self.trees[module]

    def _of_target(self, target: str) -> list[pathlib.Path]:
        """The modules in which `hiresmed.room.Name` lies: through the room's `__init__`, if it only passes it on."""
        folder, (_, *parts) = pathlib.Path(), target.split(".")
        while parts:
            if (self.root / folder / f"{parts[0]}.py").is_file():
                return [folder / f"{parts[0]}.py"]
            if not (self.root / folder / parts[0] / "__init__.py").is_file():
                return [self._of_name(folder, parts[0], target)]
            folder, parts = folder / parts[0], parts[1:]
        return [folder / "__init__.py"]

    def _of_name(self, folder: pathlib.Path, name: str, wanted: str) -> pathlib.Path:
        """The module from which a package's `__init__` has a name; the `__init__`, if it defines it."""
        init = folder / "__init__.py"
        for node in self._tree(init).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                if name in {alias.asname or alias.name for alias in node.names}:
                    return self._of_import(init, node)[0]
            elif name in {getattr(t, "id", None) for t in getattr(node, "targets", [])} | {getattr(node, "name", None)}:
                return init
        raise ValueError(
            f"{wanted} should be in the library, but {init} has no {name}; correct the config that names it."
        )

    def _of_import(self, module: pathlib.Path, node: ast.ImportFrom) -> list[pathlib.Path]:
        """The files that a relative import reads, one for each name where these come from a package."""
        folder = module.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        parts = node.module.split(".") if node.module else []
        base = ".".join([self.name, *folder.parts, *parts])
        return sorted({found for alias in node.names for found in self._of_target(f"{base}.{alias.name}")})

    def _imported(self, module: pathlib.Path) -> list[pathlib.Path]:
        if module not in self.followed:
            nodes = [n for n in ast.walk(self._tree(module)) if isinstance(n, ast.ImportFrom) and n.level]
            self.followed[module] = [found for node in nodes for found in self._of_import(module, node)]
        return self.followed[module]


def _blank(lines: list, node: ast.stmt) -> None:
    lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)


def renamed(text: str, new: str, package: str = PACKAGE) -> str:
    """A text in which every dotted name of the library, and every absolute import of it, begins with `new`.

    Example:
        >>> renamed("{_target_: hiresmed.cli.open_door}  # hiresmed draws; see hiresmed.", "ct_lib.v1")
        '{_target_: ct_lib.v1.cli.open_door}  # hiresmed draws; see hiresmed.'
        >>> renamed("from hiresmed import tiles", "ct_lib.v1")
        'from ct_lib.v1 import tiles'
    """
    text = re.sub(rf"(?<![\w./-]){package}(?=\.[A-Za-z_])", new, text)
    return re.sub(rf"(?m)((?:from|import)\s+){package}\b(?![\w.-])", rf"\g<1>{new}", text)


def names_in(text: str, package: str = PACKAGE) -> set[str]:
    """Every dotted name of the library in a text."""
    return set(re.findall(rf"(?<![\w./-]){package}(?:\.[A-Za-z_]\w*)+", text))


def requirements(library: Library, modules: Iterable[pathlib.Path]) -> tuple[set[str], set[str]]:
    """PyPI names of what the modules import beside the standard library and MONAI's own base: (needed, optional)."""
    needed, optional = set(), set()
    for module in modules:
        for name, guarded in library.imports(module):
            top = name.partition(".")[0]
            known = DISTRIBUTIONS.get(name) or DISTRIBUTIONS.get(top, top)
            if known not in BASE and top not in sys.stdlib_module_names:
                (optional if guarded else needed).add(known)
    return needed, optional - needed


def write_copy(library: Library, modules: Iterable[pathlib.Path], folder: pathlib.Path, name: str) -> None:
    """Copies the modules into a folder as a package that is called `name`, each `__init__` without what is left out."""
    modules = list(modules)
    for module in modules:
        text = (library.root / module).read_text(encoding="utf-8")
        if module.name == "__init__.py":
            text = library.pruned(module, modules)
        target = folder / module
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(renamed(text, name, library.name), encoding="utf-8", newline="\n")
