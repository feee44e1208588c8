"""What every bundle's folder promises, whoever wrote it: of bundles/*, or of the folder that HIRESMED_BUNDLES names."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import pathlib
import pydoc
import re

import jsonschema
import pytest
from front_door import SMALL_TRAININGS
from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver

ROOT = pathlib.Path(__file__).resolve().parents[1]
STUDIES = ROOT / "scripts" / "studies"
BUNDLES = pathlib.Path(os.environ.get("HIRESMED_BUNDLES", ROOT / "bundles"))
FILES = (
    "LICENSE", "configs/metadata.json", "configs/train.yaml", "configs/inference.yaml", "configs/evaluate.yaml",
    "configs/multi_gpu_train.yaml", "configs/logging.conf", "docs/README.md", "docs/data_license.txt",
)  # fmt: skip
KNOBS = ("bundle_root", "dataset_dir", "output_dir", "seed", "device", "amp")
IDS = {
    "train": (*KNOBS, "batch_size", "learning_rate", "network_def", "train::trainer", "train::trainer::max_epochs",
              "train::dataset", "train::inferer", "initialize", "run", "finalize"),
    "inference": (*KNOBS, "image", "tile_size", "network_def", "dataset", "preprocessing", "inferer", "postprocessing",
                  "evaluator", "initialize", "run", "finalize"),
}  # fmt: skip
# all files that name a `_target_`: overlays and the template of new bundles too, each read alone
TARGET_FILES = sorted(
    path for folder in (BUNDLES, ROOT / "scripts") for path in folder.rglob("*") if path.suffix in (".yaml", ".json")
)
DOTTED_TARGET = r"""_target_["']?\s*:\s*["']?([A-Za-z][\w.]*\.\w+)"""
MOST_OF_AN_EXPRESSION = 60  # characters; what is longer wants a name, a docstring and a test


def bundle_of(config: pathlib.Path) -> pathlib.Path:
    """The bundle of a config: of its own, or of an overlay in scripts/studies/<bundle>/."""
    return BUNDLES / config.parent.name if STUDIES in config.parents else config.parents[1]


bundles = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/metadata.json"))
every_bundle = pytest.mark.parametrize("bundle", bundles, ids=lambda bundle: bundle.name)
every_config = pytest.mark.parametrize(
    "config",
    [c for b in bundles for c in (*sorted(b.glob("configs/*.yaml")), *sorted(STUDIES.glob(f"{b.name}/*.yaml")))],
    ids=lambda c: f"{bundle_of(c).name}-{c.stem}",
)


def header(config: pathlib.Path) -> str:
    """The comment that a config begins with."""
    return re.match(r"(?:#.*\n)*", config.read_text(encoding="utf-8")).group()


def files_of(config: pathlib.Path) -> list[pathlib.Path]:
    """The files that the header's command reads together: an overlay names its base before itself."""
    configs = bundle_of(config) / "configs"
    command = re.search(r"--config_file +(.*)", header(config))
    if command is None:
        return [configs / "train.yaml", config]
    return [configs / name for name in re.findall(r"configs/([\w/]+\.yaml)", command.group(1))]


def parsed(config: pathlib.Path) -> ConfigParser:
    """The config over its base, with the metadata, references found but nothing built."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in files_of(config)])
    parser.read_meta(str(bundle_of(config) / "configs" / "metadata.json"))
    parser.parse()
    return parser


def values_in(value):
    """Every dict and every string in a config, however deep."""
    if isinstance(value, dict | str):
        yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from values_in(part)


def without_references(value, parser: ConfigParser):
    """The value with `@id` replaced by what the id stands for."""
    if isinstance(value, dict):
        return {key: without_references(part, parser) for key, part in value.items()}
    if isinstance(value, list):
        return [without_references(part, parser) for part in value]
    if isinstance(value, str) and value.startswith("@"):
        return without_references(parser[value[1:]], parser)
    return value


def test_there_are_bundles():
    assert bundles, f"no */configs/metadata.json in {BUNDLES}"


@every_bundle
def test_the_help_of_region_names_the_axes_in_the_order_of_the_arrays(bundle):
    """i, j, k of the file in 3-D; rows, then columns in 2-D."""
    text = (bundle / "configs/inference.yaml").read_text(encoding="utf-8")
    knob = re.search(r"(?m)^region:.*# (.*)", text)
    if knob is None:
        pytest.skip("the bundle has no knob region")
    metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    dims = f"{len(metadata['network_data_format']['outputs']['pred']['spatial_shape'])}-D"
    pairs = {"3-D": "[[i0, i1], [j0, j1], [k0, k1]]", "2-D": "[[row0, row1], [column0, column1]]"}
    assert pairs[dims] in knob.group(1)
    command = "columns, rows, slices" if dims == "3-D" else "rows, then columns"
    assert command in (bundle / "docs/README.md").read_text(encoding="utf-8")


@every_bundle
def test_a_bundle_has_the_files_of_a_bundle_and_no_python(bundle):
    assert [name for name in FILES if not (bundle / name).is_file()] == []
    assert list(bundle.rglob("*.py")) == []
    assert (bundle / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@every_bundle
def test_metadata_fits_monais_schema_and_knows_its_name_and_version(bundle):
    metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "tests/schemas/meta_schema_20240725.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, schema)
    assert metadata["name"] == bundle.name
    assert metadata["version"] in metadata["changelog"]
    assert {"image"} <= set(metadata["network_data_format"]["inputs"])
    assert {"pred"} <= set(metadata["network_data_format"]["outputs"])


@every_bundle
def test_metadata_declares_the_versions_that_ci_tests_with(bundle):
    metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text()))
    declared = metadata["required_packages_version"] | metadata.get("extra_packages_version", {}) | {
        "monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"]
    }  # fmt: skip
    assert declared == {name: pins.get(name) for name in declared}


@every_bundle
def test_monai_reads_the_metadata_as_it_is_written(bundle):
    """It renames a field that it holds for an old name, and what stood under the new one is lost."""
    path = bundle / "configs" / "metadata.json"
    parser = ConfigParser()
    parser.read_meta(str(path))
    assert parser["_meta_"] == json.loads(path.read_text())


@every_config
def test_the_header_says_the_paper_and_the_command(config):
    text = header(config)
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:|[Pp]aper", text), "the header names no paper"
    assert re.search(r"(python|torchrun) .*-m monai\.bundle run|scripts/[\w/]+\.py", text), "the header has no command"
    assert config in files_of(config), f"the header's command runs {files_of(config)}"


@every_config
def test_every_reference_is_defined(config):
    parser = parsed(config)
    wanted = {
        reference: name
        for name, item in parser.ref_resolver.items.items()
        for reference in ReferenceResolver.find_refs_in_config(item.get_config(), id=name)
    }
    assert {ref: f"wanted by {name}" for ref, name in wanted.items() if ref not in parser} == {}


@every_config
def test_every_target_is_a_dotted_name_that_takes_the_arguments_it_is_given(config):
    wrong = []
    for part in values_in(parsed(config).get()):
        target = part.get("_target_") if isinstance(part, dict) else None
        if not isinstance(target, str) or target.startswith("$"):
            continue
        found = pydoc.locate(target) if "." in target else None
        if not callable(found):
            wrong.append(f"{target}: not found by its dotted name")
            continue
        try:
            inspect.signature(found).bind_partial(**{key: 0 for key in part if not re.fullmatch(r"_\w+_", key)})
        except TypeError as error:
            wrong.append(f"{target}: {error}")
        except ValueError:
            pass  # a builtin that tells no signature
    assert wrong == []


def is_module(name: str) -> bool:
    """Whether a dotted name can be imported as a module."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what stands before the last dot is no package
        return False


def test_no_target_is_a_module():
    """Since Python 3.12 `pydoc.locate`, with which MONAI looks a `_target_` up, prefers a module to a function in the
    package of the same name: `package.name`, defined in package/name.py, cannot be called there.
    """
    targets = {
        target: path.name
        for path in TARGET_FILES
        for target in re.findall(DOTTED_TARGET, path.read_text(encoding="utf-8"))
    }
    assert any(target.startswith("hiresmed.") for target in targets)
    assert {target: name for target, name in targets.items() if is_module(target)} == {}


@every_config
def test_expressions_are_short(config):
    found = (part for part in values_in(parsed(config).get()) if isinstance(part, str) and part.startswith("$"))
    assert [text for text in found if len(text) > MOST_OF_AN_EXPRESSION] == []


@every_bundle
@pytest.mark.parametrize("workflow", IDS)
def test_the_ids_that_monai_and_our_users_look_for_are_there(bundle, workflow):
    parser = parsed(bundle / f"configs/{workflow}.yaml")
    # what draws from random latents takes no image in, and none of its images is too large for one piece
    left_out = {"image", "tile_size"} if "num_samples" in parser else set()
    assert [name for name in IDS[workflow] if name not in parser and name not in left_out] == []


@every_bundle
def test_training_and_inference_build_the_same_network(bundle):
    train, inference = (parsed(bundle / f"configs/{name}.yaml") for name in ("train", "inference"))
    assert without_references(train["network_def"], train) == without_references(inference["network_def"], inference)


@every_bundle
@pytest.mark.parametrize("workflow", IDS)
def test_monai_finds_every_property_and_builds_it(bundle, workflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = bundle / f"configs/{workflow}.yaml"
    known = ConfigParser.load_config_file(str(config))
    override = {"bundle_root": str(bundle), "output_dir": str(tmp_path / "output"), "device": "cpu"}
    if workflow == "inference":  # whatever weights lie in models/, or none
        override |= {
            name: value for name, value in (("network", "@network_def"), ("weights_sha256", None)) if name in known
        }
    else:
        override |= SMALL_TRAININGS.get(bundle.name, {})
    found = ConfigWorkflow(
        str(config), workflow_type=workflow, logging_file=False, init_id="nothing_to_initialize", **override
    )
    found.initialize()
    assert found.check_properties() == []
