"""Writes down the sha256 of every config that is shipped, by which the command knows a bundle as its own.

    python scripts/shipped_configs.py       after any change of bundles/*/configs

Writes common/hiresmed/cli/shipped_hashes.py; a test fails where it is out of date.
"""

from __future__ import annotations

import pathlib

from hiresmed.cli.bundle_folders import SUFFIXES
from hiresmed.cli.shipped_configs import digest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = ROOT / "common" / "hiresmed" / "cli" / "shipped_hashes.py"
HEAD = '''"""sha256 of the configs as they are shipped; written by scripts/shipped_configs.py."""

SHA256 = {
'''


def text() -> str:
    """What the file must say for the configs as they are."""
    lines = []
    for configs in sorted((ROOT / "bundles").glob("*/configs")):
        for path in sorted(p for p in configs.rglob("*") if p.suffix in SUFFIXES and p.name != "metadata.json"):
            lines.append(f'    "{configs.parent.name}/{path.relative_to(configs).as_posix()}": "{digest(path)}",\n')
    return HEAD + "".join(lines) + "}\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
