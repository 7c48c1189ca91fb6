"""The documentation site. mkdocs itself checks links between pages; here is what it does not look at."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

site = pytest.mark.skipif("KDBENCH_SITE" not in os.environ, reason="no site: .ci/full site")
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Element -> the attribute whose address a browser loads without being asked."""


class Addresses(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.loaded, self.linked = [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if address := found.get(LOADING.get(tag)):
            self.loaded.append(address)
        if tag == "a" and found.get("href"):
            self.linked.append(found["href"])


@site
def test_every_page_finds_what_it_loads_and_links_to_and_loads_nothing_from_elsewhere():
    folder = Path(os.environ["KDBENCH_SITE"])
    pages = sorted(folder.rglob("*.html"))
    assert {"index.html", "docs/methods.html", "results/index.html", "tables/reference/glyphs-edition-1.html"} <= {
        page.relative_to(folder).as_posix() for page in pages
    }
    for page in pages:
        if page.name == "404.html":  # which has absolute addresses, since it stands in for any page
            continue
        addresses = Addresses(page)
        assert not [address for address in addresses.loaded if urlsplit(address).netloc], page
        for address in addresses.loaded + addresses.linked:
            parts = urlsplit(address)
            if not parts.scheme and not parts.netloc and parts.path:
                assert (page.parent / unquote(parts.path)).is_file(), f"{page} points to {address}"


@site
def test_the_diagram_of_the_readme_is_a_list():
    text = (Path(os.environ["KDBENCH_SITE"]) / "index.html").read_text(encoding="utf-8")
    assert "flowchart" not in text and "<li>config/SUITE.yaml → pack data → train teachers</li>" in text
