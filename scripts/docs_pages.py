"""The hook with which MkDocs makes the pages that nobody writes twice: bundles, gallery, reference, and the navigation.

A bundle's page is its model card, docs/README.md, with the pictures beside it; the gallery is made of all bundles'
docs/*.png; the reference of the library's docstrings. Pages in docs/ that stand in no list below come into the
navigation by themselves. Links between files of the repository become links between pages, or plain names where the
site has no such page.
"""

from __future__ import annotations

import ast
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "common" / "hiresmed"
# pages that are files elsewhere in the repository: {page: file}
ELSEWHERE = {
    "add_a_bundle.md": "CONTRIBUTING.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
WALK = "## How to add a bundle"  # the part of CONTRIBUTING.md that is a page of its own
HOW_TO = [
    "quick_start.md",
    "command.md",
    "python.md",
    "own_data.md",
    "dicom.md",
    "what_is_checked.md",
    "troubleshooting.md",
    "determinism.md",
    "monai_label.md",
    "distributed.md",
]
HOW_TO += ["add_a_bundle.md"]
LAST = ["claims.md", "architecture.md", "gpu.md", "glossary.md", "security.md", "contributing.md", "changelog.md"]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def bundles() -> list[Path]:
    """The bundles' folders, in the order of the README's table."""
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    found = sorted((p.parents[1] for p in ROOT.glob("bundles/*/configs/metadata.json")), key=lambda p: p.name)
    return sorted(found, key=lambda p: table.find(f"bundles/{p.name}/") % (len(table) + 1))


def pages() -> dict[str, str]:
    """{page: file of the repository} of all pages that have one, relative."""
    own = {p.relative_to(ROOT / "docs").as_posix(): p for p in (ROOT / "docs").rglob("*.md")}
    made = {page: p.relative_to(ROOT).as_posix() for page, p in own.items()}
    return made | ELSEWHERE | {f"bundles/{b.name}.md": f"bundles/{b.name}/docs/README.md" for b in bundles()}


def text_of(page: str, source: str) -> str:
    """A page's Markdown as its file has it; CONTRIBUTING.md becomes two pages."""
    text = (ROOT / source).read_text(encoding="utf-8")
    if source != "CONTRIBUTING.md":
        return text
    before, _, walk = text.partition(WALK)
    return (
        WALK[1:] + walk if page == "add_a_bundle.md" else f"{before}{WALK}\n\n[A page of its own](add_a_bundle.md).\n"
    )


def assets() -> dict[str, Path]:
    """{path in the site: file} of what lies beside the model cards."""
    found = (p for b in bundles() for p in sorted((b / "docs").iterdir()) if p.suffix in (".png", ".txt"))
    return {f"bundles/{p.parents[1].name}/{p.name}": p for p in found}


def with_site_links(text: str, page: str) -> str:
    """Markdown whose relative links lead to pages and pictures of the site; to other files only their name is left."""
    source = pages().get(page)
    if source is None:
        return text
    known = {file: made for made, file in pages().items()} | {"README.md": "index.md"}
    known |= {path.relative_to(ROOT).as_posix(): made for made, path in assets().items()}

    def changed(match: re.Match) -> str:
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        file, _, anchor = target.partition("#")
        wanted = os.path.relpath(os.path.join(ROOT, os.path.dirname(source), file), ROOT)
        made = known.get(wanted) or (os.path.relpath(wanted, "docs") if wanted.startswith("docs" + os.sep) else None)
        if made is None and file in ELSEWHERE:  # written here, for the site
            return match[0]
        if made is None:
            return f"`{words.strip('`')}`" if re.search(r"\.\w+$", words) else words
        near = os.path.relpath(made, os.path.dirname(page) or ".")
        return f"{mark}[{words}]({near}{'#' + anchor if anchor else ''})"

    parts = _CODE.split(text)  # links inside code stay as they are
    return "".join(part if n % 2 else _LINK.sub(changed, part) for n, part in enumerate(parts))


def with_loose_lists(text: str) -> str:
    """Markdown with an empty line before each list, which Python-Markdown wants and GitHub does not."""
    lines, code = [], False
    for line in text.splitlines():
        item = re.match(r"(- |\d+\. )", line)
        if item and not code and lines and lines[-1].strip() and not re.match(r"(- |\d+\. |\s)", lines[-1]):
            lines.append("")
        code ^= line.startswith("```")
        lines.append(line)
    return "\n".join(lines) + "\n"


def about(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def card_title(bundle: Path) -> str:
    """What the model card's first line says after the bundle's name."""
    first = (bundle / "docs" / "README.md").read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").partition(": ")[2] or about(bundle)["task"]


def cards() -> str:
    """The bundles as cards, with the first picture of each that has one."""
    made = []
    for bundle in bundles():
        picture = next(iter(pictures(bundle)), None)
        style = "{ .wide }" if picture and _wide(assets()[picture]) else ""
        shown = f"[![{card_title(bundle)}]({picture}){style}]" if picture else '[<span class="none"></span>]'
        state = "trained weights come along" if (bundle / "models" / "model.pt").is_file() else "no weights yet"
        text = f"{shown}(bundles/{bundle.name}.md)\n\n**[{bundle.name}](bundles/{bundle.name}.md)**\n\n"
        made.append("-   " + f"{text}{_sentence(card_title(bundle))}\n\n*{state}*".replace("\n", "\n    "))
    return '<div class="grid cards" markdown>\n\n' + "\n\n".join(made) + "\n\n</div>"


def pictures(bundle: Path) -> list[str]:
    """Paths in the site of a bundle's pictures, the preview first."""
    found = [p for p in assets() if p.startswith(f"bundles/{bundle.name}/") and p.endswith(".png")]
    return sorted(found, key=lambda p: not p.endswith("/preview.png"))


def _wide(png: Path) -> bool:
    columns, rows = struct.unpack(">II", png.read_bytes()[16:24])  # of the header that each PNG begins with
    return columns > 1.6 * rows


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".") + "."


def caption(card: str, name: str) -> str:
    """What a model card says of a picture: the paragraph in italics below it, else the picture's own words."""
    found = re.search(rf"!\[([^\]]*)\]\({re.escape(name)}\)(?:\n\n\*((?:[^\n]|\n(?!\n))+)\*\n)?", card)
    words = found and (found[2] or found[1])
    return _sentence(" ".join(words.split()) if words else Path(name).stem.replace("_", " "))


def gallery() -> str:
    """All pictures of the model cards, with what the cards say of them."""
    parts = [
        "---\nhide: [navigation]\n---\n\n# Gallery\n\nThe pictures of all model cards; the cards name the runs that "
        "made them. Nothing here is fit for diagnosis.\n"
    ]
    for bundle in bundles():
        card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
        if pictures(bundle):
            parts.append(f"## [{bundle.name}](bundles/{bundle.name}.md)\n\n{_sentence(card_title(bundle))}\n")
        for path in pictures(bundle):
            words = caption(card, Path(path).name)
            shown = f"![{bundle.name}: {Path(path).stem}]({path})"
            parts.append(f"<figure markdown>\n{shown}\n<figcaption markdown>{words}</figcaption>\n</figure>\n")
    return "\n".join(parts)


def reference() -> Iterator[tuple[str, str]]:
    """(page, Markdown) of the reference: one page for each package of the library."""
    packages = [path.parent for path in sorted(LIBRARY.rglob("*/__init__.py")) if any(_module_files(path.parent))]
    rows = [f"| [{_dotted(package)}]({_dotted(package)}.md) | {_first_line(package)} |" for package in packages]
    text = "# Reference\n\nThe library `hiresmed`, made of its docstrings. A method imports shared packages, not a "
    text += "method; a bundle's config puts the parts together.\n\n| package | what is in it |\n|---|---|\n"
    yield "reference/index.md", text + "\n".join(rows) + "\n"
    for package in packages:
        name = _dotted(package)
        modules = "\n\n".join(f"::: hiresmed.{name}.{path.stem}" for path in _module_files(package))
        yield f"reference/{name}.md", f"# hiresmed.{name}\n\n{modules}\n"


def _module_files(package: Path) -> list[Path]:
    return [path for path in sorted(package.glob("*.py")) if path.stem != "__init__"]


def _dotted(package: Path) -> str:
    return ".".join(package.relative_to(LIBRARY).parts)


def _first_line(package: Path) -> str:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return docstring.partition("\n")[0]


def navigation() -> list:
    """The site's navigation; a page in docs/ that no list names comes at the end of the how-to pages."""
    own = [page for page in pages() if not page.startswith("bundles/")]
    more = [page for page in sorted(own) if page not in (*HOW_TO, *LAST, "index.md")]
    packages = [page for page, _ in reference()]
    return [
        {"Home": "index.md"},
        {"Bundles": [{b.name: f"bundles/{b.name}.md"} for b in bundles()]},
        {"How to": [page for page in [*HOW_TO, *more] if page in own]},
        {"Gallery": "gallery.md"},
        {
            "Reference": [
                page if "index" in page else {page.removeprefix("reference/").removesuffix(".md"): page}
                for page in packages
            ]
        },
        {"More": LAST},
    ]


# ---- what MkDocs calls


def on_config(config):
    """Sets the navigation."""
    config.nav = navigation()
    config.watch += [str(ROOT / "bundles"), str(ROOT / "common")]
    return config


def on_files(files, config):
    """Adds the pages and pictures that do not lie in docs/."""
    from mkdocs.structure.files import File

    own = {file.src_uri for file in files}
    for page, source in pages().items():
        if page not in own:
            files.append(File.generated(config, page, content=text_of(page, source)))
    for path, source in assets().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    for page, text in [("gallery.md", gallery()), *reference()]:
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the site, and the bundles' cards where a page asks for them."""
    text = with_loose_lists(with_site_links(markdown, page.file.src_uri))
    return text.replace("<!-- bundles -->", cards())
