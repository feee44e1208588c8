"""Draw the library's packages and their imports as docs/images/house.svg, and count them.

    python scripts/house_picture.py

Rows are the layers of tests/test_layout.py, the lowest imports nothing. Pure Python, no drawing library: the file is
small enough to read, and two runs give the same bytes.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "common" / "hiresmed"
PICTURE = ROOT / "docs" / "images" / "house.svg"
# from top to bottom
ROWS = (
    ("bundles",),
    ("cli",),
    ("methods.msgan", "methods.patchddm", "methods.inr_gan", "methods.dcgan"),
    ("methods.sampling",),
    ("datasets",),
    ("phantoms",),
    ("metrics",),
    ("training",),
    ("reports",),
    ("io",),
    ("core",),
)
WIDTH, HEIGHT, GAP, ROW, MARGIN = 150, 34, 34, 78, 20
FOUNDATION = "core"  # every package imports it: a slab under the whole house instead of twelve arrows


def packages() -> dict[str, Path]:
    """{name: folder}: the library's packages, each method one of its own."""
    folders = [p.parent for p in LIBRARY.glob("*/__init__.py")] + [p.parent for p in LIBRARY.glob("*/*/__init__.py")]
    names = {".".join(p.relative_to(LIBRARY).parts): p for p in folders}
    return {name: p for name, p in names.items() if name != "methods"}


def imports() -> dict[str, set[str]]:
    """{package: the packages that any of its files imports}."""
    names = packages()
    arrows: dict[str, set[str]] = {name: set() for name in names}
    for name, folder in names.items():
        for path in sorted(folder.rglob("*.py")):
            base = path.relative_to(LIBRARY).parts[:-1]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ImportFrom) or node.level == 0:
                    continue
                target = base[: len(base) - node.level + 1] + tuple((node.module or "").split("."))
                for depth in (2, 1):
                    other = ".".join(target[:depth])
                    if other in names and other != name:
                        arrows[name].add(other)
                        break
    return arrows


def drawing(arrows: dict[str, set[str]]) -> str:
    """The SVG: a box per package, an arrow per import."""
    assert all(FOUNDATION in arrows[name] for name in arrows if name != FOUNDATION)
    place = {}
    columns = max(map(len, ROWS))
    total = columns * WIDTH + (columns - 1) * GAP
    for number, row in enumerate(ROWS):
        width = len(row) * WIDTH + (len(row) - 1) * GAP
        # single packages step to the side, or the arrows past them would lie on one another
        shift = 0 if len(row) > 1 or number in (0, len(ROWS) - 1) else (-1 if number % 2 else 1) * 130
        for k, name in enumerate(row):
            place[name] = (MARGIN + (total - width) // 2 + shift + k * (WIDTH + GAP), MARGIN + number * ROW)
    height = 2 * MARGIN + (len(ROWS) - 1) * ROW + HEIGHT
    size = f"{total + 2 * MARGIN} {height}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#7a8793"/></marker></defs>',
        f'<rect width="{total + 2 * MARGIN}" height="{height}" fill="#ffffff"/>',
    ]
    for name in sorted(arrows):
        others = sorted(arrows[name] - {FOUNDATION}, key=lambda o: place[o])
        for k, other in enumerate(others):
            x, y = place[name]
            a, b = place[other]
            start = x + WIDTH * (k + 1) // (len(others) + 1)
            end = a + WIDTH // 2 + (start - a - WIDTH // 2) // 8
            lines.append(
                f'<path d="M{start} {y + HEIGHT}C{start} {y + HEIGHT + 40} {end} {b - 40} {end} {b}" fill="none" '
                'stroke="#7a8793" stroke-opacity=".55" marker-end="url(#tip)"/>'
            )
    for name, (x, y) in place.items():
        colour = "#dbeafe" if name.startswith("methods.") else "#f1f5f9"
        left, width = (MARGIN, total) if name == FOUNDATION else (x, WIDTH)
        title = f"{name} (all packages stand on it)" if name == FOUNDATION else name
        box = f'x="{left}" y="{y}" width="{width}" height="{HEIGHT}"'
        lines.append(f'<rect {box} rx="6" fill="{colour}" stroke="#475569"/>')
        lines.append(f'<text x="{left + width // 2}" y="{y + 22}" text-anchor="middle" fill="#0f172a">{title}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    arrows = imports()
    PICTURE.write_text(drawing(arrows), encoding="utf-8")
    print(f"{len(arrows)} packages, {sum(map(len, arrows.values()))} arrows: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
