"""What an export changes in a bundle's configs, metadata and model card, so that the folder stands alone."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping

from export_library import renamed


def package_name(name: str, version: str) -> str:
    """The private package of a release, such that two releases of a bundle can run in one process.

    `<name>_lib` is a namespace package: Python looks for `v0_1_0` in every folder of that name on its path.

    Example:
        >>> package_name("msgan_ct3d", "0.1.0")
        'msgan_ct3d_lib.v0_1_0'
    """
    return f"{name}_lib.v{re.sub(r'[^0-9A-Za-z]', '_', version)}"


def without_missing_pictures(text: str, folder: pathlib.Path) -> str:
    """A card's Markdown without the pictures that are not in its folder: an installed package has none."""
    return re.sub(
        r"!\[[^\]]*\]\((?!https?:)([^)\s]+)\)\n*", lambda match: match[0] if (folder / match[1]).exists() else "", text
    )


def standalone_config(text: str, package: str) -> str:
    """A YAML config whose code is the private package, found in `bundle_root` before it is used.

    As in all of MONAI's bundles, `bundle_root` is the current folder unless it is given. MONAI puts the bundle's folder
    on Python's path only in `run`, after `initialize`; so `library` does it before the first use of the package.

    Raises:
        ValueError: a config with `initialize` or `network_def` that is not written as those of all bundles are.
    """
    text = renamed(text, package)
    if not re.search(r"(?m)^(bundle_root|initialize):", text):
        return text  # an overlay
    root = (
        "bundle_root: .  # this folder; started from another one, --bundle_root /path/to/it\n"
        f'library: {{_target_: site.addsitedir, sitedir: "@bundle_root"}}  # where Python finds {package}\n'
    )
    text = _once(r"(?m)^bundle_root: \.[ \t]*(?:#.*)?\n", root, text)
    text = _once(r"(?m)^(initialize:(?: \[|\n- )\{_target_: [\w.]+)", r'\1, _requires_: "@library"', text)
    return _once(r"(?m)^(network_def: \{_target_: [\w.]+)", r'\1, _requires_: "@library"', text)


def _once(pattern: str, new: str, text: str) -> str:
    changed, count = re.subn(pattern, new, text)
    if count != 1:
        raise ValueError(
            f"A config must have one line that matches {pattern!r}, got {count}; write it as other bundles do."
        )
    return changed


def standalone_metadata(text: str, package: str, weights: Mapping[str, Mapping]) -> str:
    """metadata.json with the sha256 and size of each weight file; empty where the bundle has none yet."""
    metadata = json.loads(renamed(text, package))
    metadata["weights"] = dict(weights)
    return json.dumps(metadata, indent=4, ensure_ascii=False) + "\n"


def standalone_card(text: str, package: str, metadata: Mapping, has_weights: bool) -> str:
    """The model card for the folder alone: its needs on top, links that leave it as plain text."""
    text = renamed(text, package)
    text = re.sub(r"\[([^\]]+)\]\((?:\.\./)+[^)]*\)", r"\1 (in the repository)", text)
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{_about(package, metadata, has_weights)}\n{rest.lstrip()}" if rest else text


ABOUT = """\
**This folder** is release {version} and stands alone: unzip or copy it anywhere. It needs Python 3.11 to 3.13 and

```
pip install {required}
```
{optional}
Its code is the package `{package}` beside `configs/`. The commands below run from this folder; from any other, name the
config by its full path and give `--bundle_root /path/to/{name}`. In Python, `monai.bundle.load` takes no `bundle_root`:
call `sys.path.insert(0, "/path/to/{name}")` first, as for every bundle with code of its own.
`configs/train.json` and `configs/inference.json` are the YAML files once more, for `monai.bundle.load` and MONAI Label,
which read those: change both, or none. What is called `scripts/`, `tests/`, `pytest` or `make` belongs to the
repository that this folder was exported from.
{weights}"""
WITHOUT_WEIGHTS = """
**No weights come with this release.** Train (see below) and copy the training's `model.pt` to `models/model.pt`, or
give `--weights_path`.
"""


def _about(package: str, metadata: Mapping, has_weights: bool) -> str:
    base = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    base["numpy"] = metadata["numpy_version"]
    required = " ".join(f"{n}=={v}" for n, v in (base | metadata["required_packages_version"]).items())
    extra = metadata.get("extra_packages_version", {})
    optional = ", ".join(f"`{n}=={v}` ({_PURPOSE.get(n, 'see below')})" for n, v in extra.items())
    return ABOUT.format(
        name=metadata["name"],
        version=metadata["version"],
        required=required,
        optional=f"\nand, for some files, {optional}.\n" if optional else "",
        package=package,
        weights="" if has_weights else WITHOUT_WEIGHTS,
    )


_PURPOSE = {"pydicom": "to write DICOM", "highdicom": "to write DICOM SEG", "h5py": "feature networks in Keras files"}
NO_WEIGHTS = (
    "No weights come with this release. Train with configs/train.yaml and copy the training's model.pt here, or give\n"
    "--weights_path; docs/README.md has the commands.\n"
)
