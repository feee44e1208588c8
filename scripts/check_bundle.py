"""Check an exported bundle as the Model Zoo and its users do: needs MONAI and the bundle's declared packages alone.

    python scripts/check_bundle.py dist/msgan_ct3d [--zip dist/msgan_ct3d_v0.1.0.zip] [--schema meta_schema.json]

Prints a line a check; exit status 1 where one fails. Works from any folder, on a copy; the network is not used.
Without models/model.pt the checks that need weights take freshly initialised ones.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata as installed

import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ReferenceResolver,
    ckpt_export,
    download,
    load,
    onnx_export,
    verify_metadata,
    verify_net_in_out,
)  # fmt: skip

FILES = ("LICENSE", "configs/metadata.json", "configs/train.json", "configs/inference.json", "configs/logging.conf",
         "docs/README.md", "docs/data_license.txt")  # fmt: skip
LARGEST = 25_000_000  # bytes of one file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION = re.compile(r"\d+(\.\w+)+")


class NotChecked(Exception):  # noqa: N818
    """A check that cannot be made here; its text says why."""


class Bundle:
    """An exported folder under examination.

    Args:
        folder: the exported folder; weights are put into it where it has none, so give a copy.
        zipped: its zip, for the check of downloads.
        schema: MONAI's metadata schema.
        train: knobs with which training is set up quickly.
    """

    def __init__(self, folder: pathlib.Path, zipped=None, schema=None, train: dict | None = None) -> None:
        self.folder, self.zipped, self.schema, self.train = folder, zipped, schema, dict(train or {})
        self.name, self.configs = folder.name, folder / "configs"
        self.metadata = json.loads((self.configs / "metadata.json").read_text(encoding="utf-8"))
        self.package = f"{self.name}_lib"
        self.model = folder / "models/model.pt"

    def checks(self) -> Iterator[tuple[str, Callable[[], None]]]:
        names = (name for name in vars(type(self)) if name.startswith("check_"))
        return ((name.removeprefix("check_").replace("_", " "), getattr(self, name)) for name in names)

    def parser(self, *files: str) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(self.configs / name) for name in files])
        parser.read_meta(str(self.configs / "metadata.json"))
        parser["bundle_root"] = str(self.folder)
        return parser

    def network(self) -> torch.nn.Module:
        return self.parser("inference.json").get_parsed_content("network_def")

    # the folder

    def check_directory(self) -> None:
        missing = [name for name in FILES if not (self.folder / name).is_file()]
        assert not missing, f"missing: {missing}"
        assert not (self.folder / self.package / "__init__.py").exists(), "releases could not stand side by side"

    def check_version_and_changelog(self) -> None:
        version = self.metadata["version"]
        assert VERSION.fullmatch(version) and version in self.metadata["changelog"], version
        assert self.metadata["name"] == self.name, self.metadata["name"]

    def check_no_large_file(self) -> None:
        large = [p.name for p in self.folder.rglob("*") if p.is_file() and p.stat().st_size > LARGEST]
        assert not large, f"over 25 MB: {large}"

    def check_requirements(self) -> None:
        """Names and versions that pip takes, and that are the ones installed here."""
        wanted = self.metadata["required_packages_version"]
        assert all(NAME.fullmatch(n) and VERSION.fullmatch(v) for n, v in wanted.items()), wanted
        absent = [name for name in wanted if not _version(name)]
        assert not absent, f"not installed here: {absent}"

    def check_weights_are_those_of_the_metadata(self) -> None:
        if not self.metadata["weights"]:
            raise NotChecked("no weights come with this release")
        for name, about in self.metadata["weights"].items():
            assert hashlib.sha256((self.folder / name).read_bytes()).hexdigest() == about["sha256"], name

    # the configs

    def check_metadata(self) -> None:
        if self.schema is None or importlib.util.find_spec("jsonschema") is None:
            raise NotChecked("needs --schema and the package jsonschema")
        verify_metadata(meta_file=str(self.configs / "metadata.json"), filepath=str(self.schema))

    def check_twins(self) -> None:
        for name in ("train", "inference"):
            yaml, twin = (
                ConfigParser.load_config_file(str(self.configs / f"{name}.{end}")) for end in ("yaml", "json")
            )
            assert yaml == twin, f"{name}.json is not what {name}.yaml says"

    def check_references(self) -> None:
        """Every config parses over its base with all references defined."""
        for path in sorted(self.configs.glob("*.yaml")):
            base = self._base(path)
            parser = self.parser(*dict.fromkeys([*base, path.name]))
            parser.parse()
            items = parser.ref_resolver.items.items()
            wanted = {r for name, item in items for r in ReferenceResolver.find_refs_in_config(item.get_config(), name)}
            undefined = [name for name in wanted if name not in parser]
            assert not undefined, f"{path.name}: {undefined} not defined"

    def _base(self, path: pathlib.Path) -> list[str]:
        command = re.search(r"--config_file +(.*)", path.read_text(encoding="utf-8"))
        return re.findall(r"configs/([\w]+\.yaml)", command.group(1)) if command else ["train.yaml"]

    def check_keys_of_inference(self) -> None:
        self._check_keys("inference", {})

    def check_keys_of_training(self) -> None:
        self._check_keys("train", self.train)

    def _check_keys(self, name: str, knobs: dict) -> None:
        with tempfile.TemporaryDirectory() as folder:
            knobs = {"bundle_root": str(self.folder), "output_dir": folder, "device": "cpu"} | knobs
            file = str(self.configs / f"{name}.json")
            found = ConfigWorkflow(file, workflow_type=name, logging_file=False, **knobs)
            found.initialize()
            missing = found.check_properties()
            found.finalize()
        assert missing == [], missing

    # the network

    def check_net_in_out(self) -> None:
        where = {"meta_file": str(self.configs / "metadata.json"), "config_file": str(self.configs / "inference.json")}
        verify_net_in_out("network_def", device="cpu", n=1, any=1, bundle_root=str(self.folder), **where)

    def check_ckpt_export(self) -> None:
        self._export(ckpt_export, "model.ts")
        assert (self.folder / "model.ts").stat().st_size > 0

    def check_onnx_export(self) -> None:
        if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
            raise NotChecked("onnx and onnxscript are not installed")
        self._export(onnx_export, "model.onnx")

    def _export(self, how: Callable, name: str) -> None:
        where = {
            "ckpt_file": str(self.model),
            "config_file": str(self.configs / "inference.json"),
            "net_id": "network_def",
        }
        shape = self.input_shape()
        how(filepath=str(self.folder / name), use_trace=True, input_shape=shape, bundle_root=str(self.folder), **where)

    def input_shape(self) -> list[int]:
        """Of one input with each n and * as one, from the metadata."""
        image = self.metadata["network_data_format"]["inputs"]["image"]
        sizes = [8 if str(s) == "*" else int(str(s).replace("*n", "")) for s in image["spatial_shape"]]
        return [1, image["num_channels"], *sizes]

    # its use

    def check_load(self) -> None:
        """`load` gives the network of this folder's own code, for training and inference, with its weights."""
        self._load_from(self.folder.parent)

    def check_download(self) -> None:
        if self.zipped is None:
            raise NotChecked("no --zip")
        with tempfile.TemporaryDirectory() as folder:
            download(
                name=self.name, bundle_dir=folder, url=pathlib.Path(self.zipped).resolve().as_uri(), progress=False
            )
            copy = pathlib.Path(folder) / self.name
            if not (copy / "models/model.pt").exists():
                shutil.copy(self.model, copy / "models/model.pt")
            self._load_from(pathlib.Path(folder))

    def _load_from(self, folder: pathlib.Path) -> None:
        weights = torch.load(self.model, weights_only=True)
        sys.path.insert(0, str(folder / self.name))  # as users do: `load` takes no bundle_root
        try:
            for workflow in ("train", "inference"):
                network = load(self.name, bundle_dir=str(folder), workflow_type=workflow, device="cpu")
                own_code = type(network).__module__.split(".")[0] == self.package
                assert own_code or type(network).__module__.startswith("monai."), type(network)
                same = (torch.equal(value, weights[key]) for key, value in network.state_dict().items())
                assert all(same), "other weights"
        finally:
            sys.path.remove(str(folder / self.name))

    def check_needs_nothing_of_the_repository(self) -> None:
        assert "hiresmed" not in sys.modules, "the library of the repository was imported"


def _version(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None


def examine(bundle: Bundle) -> list[str]:
    """Runs all checks, a line each; returns the names of those that failed."""
    failed = []
    if not bundle.model.exists():
        torch.manual_seed(0)
        torch.save(bundle.network().state_dict(), bundle.model)
        print(f"{bundle.name}: no weights come with it; freshly initialised ones are taken", flush=True)
    for title, check in bundle.checks():
        try:
            check()
            result = "ok"
        except NotChecked as reason:
            result = f"not checked: {reason}"
        except Exception as error:
            failed.append(title)
            traceback.print_exc()
            result = f"FAILED: {error}"
        print(f"{bundle.name}: {title}: {result}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="an exported folder")
    parser.add_argument("--zip", type=pathlib.Path, help="its zip")
    parser.add_argument("--schema", type=pathlib.Path, help="MONAI's metadata schema")
    parser.add_argument("--train", type=json.loads, default={}, help="knobs of training, as JSON, to set it up quickly")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(shutil.copytree(arguments.folder, pathlib.Path(folder) / arguments.folder.resolve().name))
        schema = None if arguments.schema is None else shutil.copy(arguments.schema, folder)
        failed = examine(Bundle(copy, arguments.zip, schema, arguments.train))
    sys.exit(f"{arguments.folder}: failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
