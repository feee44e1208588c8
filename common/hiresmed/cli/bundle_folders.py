"""Where bundles lie, and what their folders say of themselves; without torch, so that it is said at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError
from ..core.knobs import nearest_name

SUFFIXES = (".yaml", ".yml", ".json")
_KNOB = re.compile(r"^(\w+):\s+(\S.*?)(?:\s+#\s*(.*))?$")
# all of a component in one line but its plain values
_COMPONENT = re.compile(r"""^\{_target_: [\w.]+,? ?|\w+: "@\w+",? ?|\}$""")
# a command in a config's header: which files it reads together
_COMMAND_FILES = re.compile(r"configs/([\w/]+)\.(?:yaml|yml|json)")


@dataclass(frozen=True)
class Knob:
    """One line of a config that a user may set: its name, its value as written, what the comment says."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class BundleFolder:
    """A MONAI bundle on disk: a folder with configs/metadata.json."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @cached_property
    def metadata(self) -> dict:
        return json.loads((self.root / "configs" / "metadata.json").read_text(encoding="utf-8"))

    @cached_property
    def configs(self) -> dict[str, Path]:
        """{name without suffix: path}; of YAML and JSON the YAML, which has the comments."""
        folder = self.root / "configs"
        paths = (path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name != "metadata.json")
        return {path.stem: path for path in sorted(paths, key=_order, reverse=True)}

    @property
    def offered(self) -> list[str]:
        """Names of the configs that a user may run: not those that only a script runs, as their header says."""
        return [name for name, path in sorted(self.configs.items()) if "scripts/" not in " ".join(header(path))]

    @property
    def weights(self) -> Path:
        return self.root / "models" / "model.pt"

    def config(self, name: str) -> Path:
        """The config of that name (`train`, or its file name).

        Raises:
            InputError: there is none.
        """
        stem = re.sub(r"^configs/|\.(yaml|yml|json)$", "", name)
        if stem not in self.configs:
            near = nearest_name(stem, self.configs)
            hint = f"did you mean {near}?" if near else f"it has {', '.join(sorted(self.configs))}."
            raise InputError(f"{name} is no config of {self.name}; {hint}")
        return self.configs[stem]

    def files(self, names: Sequence[str] = ()) -> list[Path]:
        """The files to be read for a workflow and its overlays, in order; none named: inference.

        An overlay is a short file over others; the command in its header says over which.
        """
        paths: list[Path] = []
        for name in names or ("inference",):
            has_workflow = any("run" in loaded(path) for path in paths)
            # `inference multiclass`: an overlay of training may lie over another workflow that was named before it
            paths += [p for p in self._stack(name) if p not in paths and not (has_workflow and "run" in loaded(p))]
        return paths

    def _stack(self, name: str) -> list[Path]:
        """A config and what it lies over, as the command or the title in its header says; else over train."""
        path = self.config(name)
        command = next((line for line in header(path) if "--config_file" in line), "")
        below = [self.config(part) for part in _COMMAND_FILES.findall(command)]
        if path in below:
            return below
        if "run" in loaded(path):
            return [path]
        over = re.search(r"Overlay on ([\w/]+)", self.title(name))
        base = over[1] if over and over[1] in self.configs and over[1] != name else "train"
        return [*self._stack(base), path]

    def title(self, name: str) -> str:
        """The first line of a config's header, or nothing."""
        return next((line for line in header(self.config(name)) if line), "")

    def knobs(self, name: str = "inference") -> list[Knob]:
        """What a config's first lines offer to be set, in order."""
        path = self.config(name)
        if path.suffix == ".json":
            plain = {k: v for k, v in loaded(path).items() if not isinstance(v, dict)}
            return [Knob(k, json.dumps(v), "") for k, v in plain.items() if k not in ("run", "initialize", "finalize")]
        return list(_knobs(path.read_text(encoding="utf-8").splitlines()))


def _knobs(lines: Sequence[str]) -> Iterator[Knob]:
    """Top-level lines of one value each, up to the first part that is built after `device`.

    What is built before it, in one line and of plain values, such as by_recipe's, is a knob that shows these.
    """
    before_device = any(line.startswith("device:") for line in lines)
    for line in lines:
        if not line or line[0] in "# }-":
            continue
        match = _KNOB.match(line)
        if match is None or ("_target_" in match[2] and not before_device):
            return
        name, value, meaning = match.groups("")
        before_device = before_device and name != "device"
        if "_target_" not in value or name == "device":
            yield Knob(name, value, meaning)
        elif value.endswith("}"):
            yield Knob(name, _COMPONENT.sub("", value), meaning)


def _order(path: Path) -> tuple[int, str]:
    return -SUFFIXES.index(path.suffix), path.as_posix()


def header(config: Path) -> list[str]:
    """The lines of the comment that a config begins with, without their marks."""
    lines = config.read_text(encoding="utf-8").splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.lstrip("# ").rstrip() for line in lines[:end]]


def loaded(config: Path) -> dict:
    """A config's text as a dict, unresolved (JSON is YAML, too)."""
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML came with libyaml
    return yaml.load(config.read_text(encoding="utf-8"), fast) or {}


def ids_of(content: Any, prefix: str = "") -> Iterator[str]:
    """The ids of all that a config defines, as MONAI writes them: train, train::handlers, train::handlers::0 ..."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        parts = str(key).lstrip("+~").replace("#", "::").split("::")
        for depth in range(1, len(parts)):
            yield prefix + "::".join(parts[:depth])
        name = prefix + "::".join(parts)
        yield name
        yield from ids_of(value, f"{name}::")


def known_ids(files: Sequence[Path]) -> set[str]:
    """The ids of all that the files define: what an override may name."""
    return {name for path in files for name in ids_of(loaded(path))}


def search_path() -> list[Path]:
    """Folders of bundles, the first that has a name wins.

    $HIRESMED_BUNDLES (one or several folders), the current folder and its `bundles`, the repository of an editable
    install, what was installed with the package.
    """
    named = [Path(p).expanduser() for p in os.environ.get("HIRESMED_BUNDLES", "").split(os.pathsep) if p]
    library = Path(__file__).resolve().parents[1]
    return [*named, Path.cwd(), Path.cwd() / "bundles", library.parents[1] / "bundles", library / "bundles"]


def is_bundle(folder: Path) -> bool:
    """Whether the folder holds a MONAI bundle."""
    return (folder / "configs" / "metadata.json").is_file()


def bundles() -> dict[str, BundleFolder]:
    """All bundles that are found, by name, sorted."""
    folders: dict[str, BundleFolder] = {}
    for folder in search_path():
        if folder.is_dir():
            for child in folder.iterdir():
                if child.is_dir() and is_bundle(child):
                    folders.setdefault(child.name, BundleFolder(child))
    return dict(sorted(folders.items()))


def bundle(name: str) -> BundleFolder:
    """The bundle of that name, or in that folder.

    Raises:
        InputError: there is none.
    """
    folder = Path(name).expanduser()
    if is_bundle(folder):
        return BundleFolder(folder.resolve())
    known = bundles()
    if name not in known:
        near = nearest_name(name, known)
        places = ", ".join(dict.fromkeys(str(p) for p in search_path()))
        hint = f"did you mean {near}?" if near else f"none of that name was found in {places}; set HIRESMED_BUNDLES."
        raise InputError(f"{name} is no bundle; {hint}")
    return known[name]
