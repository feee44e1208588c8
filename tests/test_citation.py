"""Each bundle cites the paper it implements by the same authors, title and year in CITATION.cff, metadata and card."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PAPERS = {
    "arXiv:1907.01376": ["Uzunova H", "Ehrhardt J", "Jacob F", "Frydrychowicz A", "Handels H"],
    "arXiv:2303.15288": ["Bieder F", "Wolleb J", "Durrer A", "Sandkühler R", "Cattin PC"],
    "arXiv:2207.01395": ["Lee N", "Kim H", "Lee G", "Yoo S", "Choi Y"],
    "To FID or not to FID": ["Cepa B", "Brito C", "Sousa A"],
}


def short_name(person: dict) -> str:
    """Family name and initials, as in a list of references: Cattin PC."""
    initials = "".join(name[0] for name in person["given-names"].split())
    return f"{person['family-names']} {initials}"


def paper_of(bundle: str) -> dict:
    """The first reference of CITATION.cff whose notes name the bundle."""
    return next(paper for paper in CITATION["references"] if bundle in re.findall(r"\w+", paper["notes"]))


def authors_and_title(entry: str) -> tuple[list[str], str]:
    """The first two sentences of `Bieder F, Cattin PC. Title. Venue 2023.`"""
    authors, title = entry.split(". ")[:2]
    return authors.split(", "), title.rstrip(".").casefold()


@pytest.mark.parametrize("key", PAPERS)
def test_the_four_papers_are_cited_with_their_authors(key):
    paper = next(p for p in CITATION["references"] if key in str(p.get("identifiers", "")) + p["title"])
    assert [short_name(person) for person in paper["authors"]] == PAPERS[key]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_metadata_and_card_cite_the_paper_as_the_citation_file_does(bundle):
    paper = paper_of(bundle.name)
    expected = [short_name(person) for person in paper["authors"]], paper["title"].casefold()
    metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    card = (bundle / "docs/README.md").read_text(encoding="utf-8")
    citation = " ".join(re.search(r"## Citation Info\n\n(.+?)\n\n", card, re.DOTALL)[1].split())
    for entry in (metadata["references"][0], citation):
        assert authors_and_title(entry) == expected
        assert str(paper["year"]) in entry
