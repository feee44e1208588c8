"""An exported bundle stands alone: with the code that it needs and no more, under a name that no other release has."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "common" / "hiresmed"
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
every_bundle = pytest.mark.parametrize("name", [bundle.name for bundle in BUNDLES])
sys.path.insert(0, str(ROOT / "scripts"))
EXPORT = runpy.run_path(str(ROOT / "scripts/export_bundle.py"))
sys.path.pop(0)
export_bundle = EXPORT["export_bundle"]
set_aside = EXPORT["set_aside"]
METHODS = {
    "msgan_ct3d": {"msgan"},
    "msgan_xray2d": {"msgan"},
    "patchddm_brats": {"patchddm"},
    "inr_gan_multistage": {"inr_gan", "sampling"},
    "dcgan_mri": {"dcgan", "sampling"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> pathlib.Path:
    """All bundles, exported into one folder."""
    folder = tmp_path_factory.mktemp("dist")
    for bundle in BUNDLES:
        export_bundle(bundle, folder)
    return folder


def package_of(folder: pathlib.Path) -> pathlib.Path:
    (package,) = (folder / f"{folder.name}_lib").iterdir()
    return package


def targets(folder: pathlib.Path) -> set[str]:
    found = (re.findall(r"\w+_lib\.v\w+(?:\.\w+)+", p.read_text()) for p in folder.glob("configs/*.yaml"))
    return set().union(*found)


@functools.cache
def defined(init: pathlib.Path) -> set[str]:
    """Names that a module binds at its top, by reading it."""
    names = set()
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {part.id for t in node.targets for part in ast.walk(t) if isinstance(part, ast.Name)}
        elif hasattr(node, "name"):
            names.add(node.name)
    return names


def has(package: pathlib.Path, parts: list[str]) -> bool:
    """Whether a.b.name is a module of the package, or a name that a module of it binds."""
    place = package
    for n, part in enumerate(parts):
        if (place / f"{part}.py").is_file():
            return n + 1 == len(parts) or parts[n + 1] in defined(place / f"{part}.py")
        if not (place / part / "__init__.py").is_file():
            return part in defined(place / "__init__.py")
        place = place / part
    return True


@every_bundle
def test_whatever_a_config_or_a_module_asks_of_the_private_package_is_in_it(exported, name):
    package = package_of(exported / name)
    missing = [t for t in targets(exported / name) if not has(package, t.split(".")[2:])]
    for path in package.rglob("*.py"):
        here = list(path.relative_to(package).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
                missing += [f"{path.name}: {a.name}" for a in node.names if not has(package, [*base, a.name])]
    assert targets(exported / name) and missing == []


@every_bundle
def test_it_is_the_shared_packages_and_the_bundles_own_method(exported, name):
    package = package_of(exported / name)
    copied = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    library = {path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py")}
    methods = {path.split("/")[1] for path in copied if path.startswith("methods/") and path.count("/") > 1}
    assert methods == METHODS[name]
    other_methods = tuple(f"methods/{p.name}/" for p in (LIBRARY / "methods").iterdir() if p.name not in methods)
    assert library - copied == {path for path in library if path.startswith((*other_methods, "bundles/"))} | {
        "cli/command.py", "cli/doctor.py", "cli/shipped_configs.py", "cli/shipped_hashes.py"
    }  # fmt: skip


def test_a_card_without_its_pictures_does_not_show_them(tmp_path):
    without_missing_pictures = EXPORT["texts"].without_missing_pictures
    (tmp_path / "b.png").touch()
    card = "A\n\n![a](a.png)\n\n![b](b.png)\n\n![c](https://example.org/c.png)\n"
    assert without_missing_pictures(card, tmp_path) == card.replace("![a](a.png)\n\n", "")


@every_bundle
def test_bundle_root_is_a_plain_folder_and_the_code_is_found_there_before_its_first_use(exported, name):
    for workflow in ("train", "inference"):
        config = yaml.safe_load((exported / name / f"configs/{workflow}.yaml").read_text())
        assert config["bundle_root"] == "."
        assert config["library"] == {"_target_": "site.addsitedir", "sitedir": "@bundle_root"}
        assert config["initialize"][0]["_requires_"] == config["network_def"]["_requires_"] == "@library"


@every_bundle
def test_no_name_of_the_repositorys_library_is_left(exported, name):
    texts = [p for p in (exported / name).rglob("*") if p.suffix in (".py", ".yaml", ".json", ".md", ".txt")]
    named = re.compile(r"(?<![\w./-])hiresmed\.[a-z]|(from|import) +hiresmed\b(?!-)|hiresmed\[")
    assert [path.name for path in texts if named.search(path.read_text(encoding="utf-8"))] == []


@every_bundle
def test_json_twins_say_what_the_yaml_files_say(exported, name):
    for twin in ("train", "inference"):
        configs = exported / name / "configs"
        assert json.loads((configs / f"{twin}.json").read_text()) == yaml.safe_load(
            (configs / f"{twin}.yaml").read_text()
        )


@every_bundle
def test_metadata_fits_the_schema_and_names_the_weights_by_their_sha256(exported, name):
    metadata = json.loads((exported / name / "configs/metadata.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, json.loads((ROOT / "tests/schemas/meta_schema_20240725.json").read_text()))
    weights = {str(p.relative_to(exported / name)): p for p in (exported / name).glob("models/**/*.pt")}
    assert {k: v["sha256"] for k, v in metadata["weights"].items()} == {
        k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in weights.items()
    }
    card = (exported / name / "docs/README.md").read_text(encoding="utf-8")
    assert ("No weights come with this release" in card) == (not weights)


@every_bundle
def test_the_model_card_names_only_what_is_in_the_folder(exported, name):
    folder = exported / name
    card = (folder / "docs/README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", card) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (folder / "docs" / link).resolve().is_relative_to(folder.resolve())] == []
    assert [link for link in links if not (folder / "docs" / link).exists()] == []
    assert [c for c in re.findall(r"configs/\w+\.\w+", card) if not (folder / c).is_file()] == []
    mentioned = set(re.findall(rf"{name}_lib\.v\w+((?:\.\w+)+)", card))
    assert [m for m in mentioned if not has(package_of(folder), m[1:].split("."))] == []


def test_the_same_sources_give_the_same_bytes(exported, tmp_path):
    """Whatever the files' times, and whatever lies beside them that is no part of the bundle."""
    copy = pathlib.Path(
        shutil.copytree(ROOT / "bundles/msgan_xray2d", tmp_path / "b" / "msgan_xray2d", copy_function=shutil.copy)
    )
    (copy / "docs/.hidden").write_text("x")
    again = export_bundle(copy, tmp_path)
    assert again.read_bytes() == (exported / again.name).read_bytes()
    names = zipfile.ZipFile(again).namelist()
    assert names == sorted(names, key=lambda n: pathlib.PurePath(n).parts) and names[0].startswith("msgan_xray2d/")
    assert {info.date_time for info in zipfile.ZipFile(again).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_two_releases_and_two_bundles_in_one_process_each_run_their_own_code(exported, tmp_path):
    newer = pathlib.Path(shutil.copytree(ROOT / "bundles/dcgan_mri", tmp_path / "b" / "dcgan_mri"))
    path = newer / "configs/metadata.json"
    path.write_text(path.read_text().replace('"0.1.0"', '"0.2.0"'))
    export_bundle(newer, tmp_path)
    errors = tmp_path / "dcgan_mri/dcgan_mri_lib/v0_2_0/core/errors.py"
    errors.write_text(errors.read_text() + "\nNEWER = True\n")
    code = "import site, sys\n" + "".join(
        f"site.addsitedir({str(root)!r})\nfrom {package}.core import errors\n"
        "print(hasattr(errors, 'NEWER'), errors.__file__)\n"
        for root, package in (
            (exported / "dcgan_mri", "dcgan_mri_lib.v0_1_0"),
            (tmp_path / "dcgan_mri", "dcgan_mri_lib.v0_2_0"),
            (exported / "msgan_ct3d", "msgan_ct3d_lib.v0_1_0"),
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["False", "True", "False"], done.stderr
    assert [pathlib.Path(line.split()[1]).parents[3] for line in lines] == [
        exported / "dcgan_mri", tmp_path / "dcgan_mri", exported / "msgan_ct3d",
    ]  # fmt: skip


def test_a_file_over_25_mb_is_set_aside_and_named_with_its_sha256(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "models").mkdir(parents=True)
    (folder / "models/model.pt").write_bytes(b"7" * 25_000_001)
    (folder / "models/small.pt").write_bytes(b"7" * 25_000_000)
    with pytest.raises(ValueError, match=r"model\.pt of bundle must be at most 25 MB, got 25\.0 MB; give --large"):
        set_aside(folder, tmp_path / "large", None)
    set_aside(folder, tmp_path / "large", "https://example.org/files/")
    assert (folder / "models/small.pt").exists() and not (folder / "models/model.pt").exists()
    digest = hashlib.sha256((tmp_path / "large/models/model.pt").read_bytes()).hexdigest()
    assert yaml.safe_load((folder / "large_files.yml").read_text()) == {
        "large_files": [
            {
                "path": "models/model.pt",
                "url": "https://example.org/files/models/model.pt",
                "hash_val": digest,
                "hash_type": "sha256",
            }
        ]
    }


@pytest.mark.parametrize("package", ["itk-io", "fire"])
def test_a_package_that_the_code_imports_must_be_declared(tmp_path, package):
    copy = pathlib.Path(shutil.copytree(ROOT / "bundles/dcgan_mri", tmp_path / "dcgan_mri"))
    path = copy / "configs/metadata.json"
    path.write_text(re.sub(rf'"{package}": "[^"]+", ', "", path.read_text()))
    with pytest.raises(ValueError, match=rf"required_packages_version of dcgan_mri's .* got no {package}; add it"):
        export_bundle(copy, tmp_path / "dist")
    assert list((tmp_path / "dist").iterdir()) == []


def test_an_extra_that_the_code_never_imports_is_not_declared(tmp_path):
    copy = pathlib.Path(shutil.copytree(ROOT / "bundles/dcgan_mri", tmp_path / "dcgan_mri"))
    path = copy / "configs/metadata.json"
    path.write_text(path.read_text().replace('"h5py": ', '"einops": "1.0", "h5py": '))
    with pytest.raises(ValueError, match="must declare optional imports only, got einops; remove it"):
        export_bundle(copy, tmp_path / "dist")


def test_what_is_no_bundle_is_refused_in_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts/export_bundle.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "must be a folder with configs" in done.stderr


@pytest.mark.slow
def test_an_installed_package_finds_its_bundles_and_exports_one(tmp_path):
    """Built as `pip install .` builds it, without an environment of its own."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "tests", "site", "build", "dist"))
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(tmp_path / "site")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    assert not list((tmp_path / "site").rglob("*.png")), "the cards' pictures stay out"
    own = {name: value for name, value in os.environ.items() if name != "HIRESMED_BUNDLES"}
    command = [sys.executable, "-m", "hiresmed.cli.command"]

    def run(*words: str) -> str:
        environment = {**own, "PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(tmp_path / "site" / "hiresmed" / "bundles") in run("list")
    run("export", "dcgan_mri", "--output_dir", "dist")
    export_bundle(ROOT / "bundles" / "dcgan_mri", tmp_path / "here")
    for path in (tmp_path / "here" / "dcgan_mri").rglob("*"):
        other = tmp_path / "dist" / "dcgan_mri" / path.relative_to(tmp_path / "here" / "dcgan_mri")
        if path.is_file() and path.suffix not in (".png", ".md"):
            assert other.read_bytes() == path.read_bytes(), other
    assert "![" not in (tmp_path / "dist" / "dcgan_mri" / "docs" / "README.md").read_text()
