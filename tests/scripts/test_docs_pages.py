"""The site's pages are the repository's own files: links lead on, pictures come along, examples are blocks of code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
SITE = SimpleNamespace(**runpy.run_path(str(SCRIPTS / "docs_pages.py")))


def test_each_bundle_each_picture_and_each_page_of_docs_is_in_the_site():
    names = {p.parents[1].name for p in SITE.ROOT.glob("bundles/*/configs/metadata.json")}
    pictures = list(SITE.ROOT.glob("bundles/*/docs/*.png"))
    assert names == {b.name for b in SITE.bundles()} and pictures
    assert {p for p in SITE.assets().values() if p.suffix == ".png"} == set(pictures)
    shown = str(SITE.navigation())
    assert [page for page in SITE.pages() if f"'{page}'" not in shown] == []
    assert all(f"]({path})" in SITE.gallery() for path in SITE.assets() if path.endswith(".png"))


def test_every_module_has_its_place_in_the_reference():
    text = "".join(text for _, text in SITE.reference())
    modules = [p for p in SITE.LIBRARY.rglob("*.py") if p.stem != "__init__"]
    assert sorted(re.findall(r"::: (\S+)", text)) == sorted(
        ".".join(p.relative_to(SITE.LIBRARY.parent).with_suffix("").parts) for p in modules
    )


@pytest.mark.parametrize(
    ("page", "link", "made"),
    [
        ("bundles/msgan_ct3d.md", "![preview](preview.png)", "![preview](msgan_ct3d/preview.png)"),
        ("bundles/msgan_ct3d.md", "[x](../../msgan_xray2d/docs/README.md#data)", "[x](msgan_xray2d.md#data)"),
        ("bundles/msgan_ct3d.md", "[x](../../../docs/dicom.md)", "[x](../dicom.md)"),
        ("bundles/msgan_ct3d.md", "[x](../../../scripts/demo.py)", "x"),
        ("bundles/msgan_ct3d.md", "[train.yaml](../configs/train.yaml)", "`train.yaml`"),
        ("bundles/msgan_ct3d.md", "[x](https://example.org/a) `[y](z.md)`", "[x](https://example.org/a) `[y](z.md)`"),
        ("dicom.md", "[x](../bundles/patchddm_brats/docs/README.md)", "[x](bundles/patchddm_brats.md)"),
        ("dicom.md", "[x](../README.md), [y](#part), [z](command.md)", "[x](index.md), [y](#part), [z](command.md)"),
        ("contributing.md", "[x](docs/distributed.md)", "[x](distributed.md)"),
        ("changelog.md", "[x](CONTRIBUTING.md)", "[x](contributing.md)"),
    ],
)
def test_links_between_files_become_links_between_pages(page, link, made):
    assert SITE.with_site_links(link, page) == made


def test_the_walk_to_a_new_bundle_is_a_page_and_nothing_of_its_file_is_lost():
    text = (SITE.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walk, rest = (SITE.text_of(page, "CONTRIBUTING.md") for page in ("add_a_bundle.md", "contributing.md"))
    assert walk.startswith("# How to add a bundle\n") and rest.startswith("# Contributing\n")
    assert rest.partition(SITE.WALK)[0] + "#" + walk == text


def test_lists_get_the_empty_line_that_python_markdown_wants_but_code_stays_as_it_is():
    assert SITE.with_loose_lists("Text:\n- a\n- b\n  more\n- c") == "Text:\n\n- a\n- b\n  more\n- c\n"
    assert SITE.with_loose_lists("```\nx\n- y\n```") == "```\nx\n- y\n```\n"


def test_a_pictures_caption_is_the_cards_paragraph_in_italics_or_its_own_words():
    card = "![own words](a.png)\n\n*`make demo`: a CT\nof 256.*\n\n![other](b.png)\n\nText.\n"
    assert SITE.caption(card, "a.png") == "`make demo`: a CT of 256."
    assert SITE.caption(card, "b.png") == "Other."
    assert SITE.caption(card, "not_shown.png") == "Not shown."


def test_examples_of_docstrings_become_blocks_of_code():
    pytest.importorskip("griffe", reason="griffe comes with the site's packages")
    fenced = runpy.run_path(str(SCRIPTS / "docs_examples.py"))["fenced"]
    assert fenced("A.\n\n>>> f(1)\n2\n\nB.") == "A.\n\n\n```pycon\n>>> f(1)\n2\n```\n\nB."
    assert fenced("E:\n    >>> f(1)\n    2") == "E:\n\n    ```pycon\n    >>> f(1)\n    2\n    ```"
    assert fenced("No example.") == "No example."
