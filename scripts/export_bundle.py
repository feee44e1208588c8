"""Export bundles as folders that stand alone, and as zips: for the Model Zoo, monai.bundle.load, MONAI Label.

    python scripts/export_bundle.py bundles/msgan_ct3d [bundles/...] [--output_dir dist]

Writes <output_dir>/<name>/ and <output_dir>/<name>_v<version>.zip, the same bytes from the same sources. The library's
shared packages and the bundle's own method come along as a private package `<name>_lib.v<version>`. A file of more than
25 MB goes to <output_dir>/<name>_v<version>_large/ instead, to be uploaded to --large_files_url; large_files.yml names
it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator

import export_texts as texts
import yaml
from export_library import PACKAGE, library_files, methods_in, requirements, write_copy

HERE = pathlib.Path(__file__).resolve().parent
# in an installed package these scripts lie in its folder `export`
LIBRARY = HERE.parent if HERE.name == "export" else HERE.parent / "common" / PACKAGE
LARGE = 25_000_000  # bytes; the Model Zoo takes no larger file
TWINS = ("train", "inference")  # what monai.bundle.load, MONAI Label and MONAI FL look for as JSON
COMMAND_LINE = {"fire", "PyYAML"}  # `python -m monai.bundle` and its YAML files, which MONAI does not itself require
PLAIN = ("LICENSE", "configs/logging.conf")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


class Export:
    """One bundle on its way into a folder of its own.

    Args:
        bundle: its folder in the repository.
        folder: the empty folder to fill.
    """

    def __init__(self, bundle: pathlib.Path, folder: pathlib.Path) -> None:
        self.bundle = bundle
        self.folder = folder
        self.metadata = json.loads(_text(bundle / "configs/metadata.json"))
        self.name = self.metadata["name"]
        self.version = self.metadata["version"]
        self.package = texts.package_name(self.name, self.version)
        self.weights = {
            str(path.relative_to(bundle)): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in sorted(bundle.glob("models/**/*.pt"))
        }

    def write(self) -> None:
        """The whole folder.

        Raises:
            ValueError: a package that the code imports, but metadata.json does not declare; configs of another shape.
        """
        for name in PLAIN:
            self._put(name, (self.bundle / name).read_bytes())
        configs = self._configs()
        files = library_files(LIBRARY, methods_in(configs.values()))
        self._check_declared(files)
        write_copy(LIBRARY, files, self.folder / self.package.replace(".", "/"), self.package)
        for name, text in configs.items():
            self._put(f"configs/{name}", texts.standalone_config(text, self.package))
        for name in TWINS:
            content = yaml.safe_load((self.folder / f"configs/{name}.yaml").read_bytes())
            self._put(f"configs/{name}.json", json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n")
        metadata = texts.standalone_metadata(_text(self.bundle / "configs/metadata.json"), self.package, self.weights)
        self._put("configs/metadata.json", metadata)
        self._docs()
        self._models()

    def _configs(self) -> dict[str, str]:
        return {path.name: _text(path) for path in sorted(self.bundle.glob("configs/*.yaml"))}

    def _check_declared(self, files: list[pathlib.Path]) -> None:
        """Whatever the copy cannot do without is declared, and no extra that it never imports."""
        needed, optional = requirements(LIBRARY, files)
        undeclared = sorted((needed | COMMAND_LINE) - set(self.metadata["required_packages_version"]))
        unused = sorted(set(self.metadata.get("extra_packages_version", {})) - optional)
        if undeclared:
            raise ValueError(
                f"required_packages_version of {self.name}'s metadata.json must declare all that the code imports, got "
                f"no {', '.join(undeclared)}; add it."
            )
        if unused:
            raise ValueError(
                f"extra_packages_version of {self.name}'s metadata.json must declare optional imports only, got "
                f"{', '.join(unused)}; remove it."
            )

    def _docs(self) -> None:
        for path in _files(self.bundle / "docs"):
            name = f"docs/{path.relative_to(self.bundle / 'docs')}"
            if path.suffix == ".md":
                text = texts.without_missing_pictures(_text(path), path.parent)
                card = texts.standalone_card(text, self.package, self.metadata, bool(self.weights))
                self._put(name, card)
            elif path.suffix == ".txt":
                self._put(name, texts.renamed(_text(path), self.package))
            else:
                self._put(name, path.read_bytes())

    def _models(self) -> None:
        for path in _files(self.bundle / "models"):
            self._put(f"models/{path.relative_to(self.bundle / 'models')}", path.read_bytes())
        if not self.weights:
            self._put("models/README.txt", texts.NO_WEIGHTS)

    def _put(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


# the library has both, too, but importing it, and with it MONAI, takes ten times as long as an export
def sha256_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_megabytes(path: pathlib.Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below a folder in order, without hidden ones and Python's caches."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(p.startswith((".", "__pycache__")) for p in path.relative_to(folder).parts):
            yield path


def set_aside(folder: pathlib.Path, large: pathlib.Path, url: str | None) -> None:
    """Moves what is over 25 MB from an exported folder to `large` and names it in large_files.yml.

    Raises:
        ValueError: there is such a file, but no url.
    """
    large_files = [path for path in _files(folder) if path.stat().st_size > LARGE]
    if large_files and url is None:
        raise ValueError(
            f"{large_files[0].name} of {folder.name} must be at most 25 MB, got {in_megabytes(large_files[0])}; give "
            "--large_files_url, the address of the folder to which it will be uploaded."
        )
    entries = []
    for path in large_files:
        name = path.relative_to(folder).as_posix()
        address = f"{str(url).rstrip('/')}/{name}"
        entries.append({"path": name, "url": address, "hash_val": sha256_of(path), "hash_type": "sha256"})
        (large / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, large / name)
    if entries:
        (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False))


def write_zip(folder: pathlib.Path, path: pathlib.Path) -> None:
    """The folder as a zip whose bytes depend on names and contents alone; its name is the zip's top folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in _files(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", FIXED_TIME)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def export_bundle(bundle: pathlib.Path, output_dir: pathlib.Path, large_files_url: str | None = None) -> pathlib.Path:
    """Exports one bundle, replacing an earlier export of it; returns the zip's path.

    Raises:
        ValueError: not a bundle, or one that cannot stand alone, in one sentence.
    """
    if not (bundle / "configs/metadata.json").is_file():
        raise ValueError(
            f"BUNDLE must be a folder with configs/metadata.json, got {bundle}; give one such as bundles/msgan_ct3d."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=output_dir) as aside:
        folder = pathlib.Path(aside) / bundle.resolve().name
        export = Export(bundle, folder)
        if export.name != folder.name:
            raise ValueError(
                f"name in metadata.json must be the folder's, {folder.name}, got {export.name}; correct it."
            )
        export.write()
        release = f"{export.name}_v{export.version}"
        large = pathlib.Path(aside) / f"{release}_large"
        set_aside(folder, large, large_files_url)
        write_zip(folder, pathlib.Path(aside) / f"{release}.zip")
        for part in (folder, large, pathlib.Path(aside) / f"{release}.zip"):
            if part.is_dir():
                shutil.rmtree(output_dir / part.name, ignore_errors=True)
            if part.exists():
                os.replace(part, output_dir / part.name)
    weights = "" if export.weights else ", without weights: it has none yet"
    zipped = output_dir / f"{release}.zip"
    print(f"{output_dir / export.name} and {zipped.name} ({in_megabytes(zipped)}{weights})")
    return zipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=pathlib.Path, metavar="BUNDLE", help="folder of a bundle")
    parser.add_argument("--output_dir", type=pathlib.Path, default=pathlib.Path("dist"), help="default: dist")
    parser.add_argument("--large_files_url", help="where files of more than 25 MB will be uploaded")
    arguments = parser.parse_args()
    try:
        for bundle in arguments.bundles:
            export_bundle(bundle, arguments.output_dir, arguments.large_files_url)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
