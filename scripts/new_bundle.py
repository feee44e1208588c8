"""Lay out a new bundle that trains and infers at once, to be turned into yours step by step (see CONTRIBUTING.md).

python scripts/new_bundle.py NAME [--into bundles]
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "scripts" / "bundle_template"
# one source each for what all bundles share
SHARED = {"LICENSE": ROOT / "LICENSE", "configs/logging.conf": ROOT / "bundles/msgan_ct3d/configs/logging.conf"}


def ci_versions() -> dict[str, str]:
    """Package -> the version that CI tests with, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def filled(text: str, name: str) -> str:
    """A template's text with the bundle's name and the versions in place of the @marks@."""
    for mark, value in ({"NAME": name} | ci_versions()).items():
        text = text.replace(f"@{mark}@", value)
    return text


def new_bundle(name: str, into: pathlib.Path) -> pathlib.Path:
    """Makes the folder `into/name` and returns it.

    Raises:
        ValueError: the name is not a word in lower case, or the folder exists; in one sentence.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"NAME must be letters in lower case, digits and _, got '{name}'; choose one such as vae_mammo2d."
        )
    folder = into / name
    if folder.exists():
        raise ValueError(f"NAME must be that of a new folder, got {folder}, which exists; choose another name.")
    for source in sorted(path for path in TEMPLATE.rglob("*") if path.is_file()):
        target = folder / source.relative_to(TEMPLATE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(filled(source.read_text(encoding="utf-8"), name), encoding="utf-8")
    for place, source in SHARED.items():
        shutil.copyfile(source, folder / place)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="letters in lower case, digits and _")
    parser.add_argument("--into", type=pathlib.Path, default=ROOT / "bundles", help="folder of bundles")
    arguments = parser.parse_args()
    try:
        folder = new_bundle(arguments.name, arguments.into)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{folder} is a bundle that trains and infers already; from its folder:")
    print("  python -m monai.bundle run --config_file configs/train.yaml --output_dir runs")
    print("  cp runs/model.pt models/model.pt")
    print("  python -m monai.bundle run --config_file configs/inference.yaml --output_dir output")
    print("Next: CONTRIBUTING.md, 'How to add a bundle', step 2.")


if __name__ == "__main__":
    main()
