"""The page: whole without a network, and nothing that comes from the data is more than text in it."""

import base64
import os
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tools.doctor.duplicates import check_copies, find_copies
from tools.doctor.findings import Fact, Finding
from tools.doctor.images import check_images
from tools.doctor.report import render, save_page

EVIL = """<script>alert('x')</script>"><img src=y onerror="z">&amp;"""


class Page(HTMLParser):
    """The tags, attributes and text of a page; open tags must be closed in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_names_from_the_data_are_text():
    finding = Finding("error", f"title {EVIL}", f"advice {EVIL}", (f"name {EVIL}",), 1, ((0,),))
    facts = [Fact(f"heading {EVIL}", (f"line {EVIL}",))]
    images = {0: {"name": EVIL, "source": "data:image/png;base64,"}}
    page = Page(render(f"comp {EVIL}", [finding], facts, images, {"error": 1}))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not [one for one in page.attributes if one[1].startswith("on")]
    text = "".join(page.text)
    for word in ("title", "advice", "name", "heading", "line", "comp"):
        assert f"{word} {EVIL}" in text
    assert ("img", "alt", EVIL) in page.attributes


@pytest.mark.skipif(os.name == "nt", reason="no such file names on Windows")
def test_a_file_name_with_html_in_it(clinic):
    table, evil = clinic.read(), "<script>alert(1)<!-- &lt; 'x' \"y\""
    os.rename(clinic.path(3), clinic.root / "train" / f"{evil}.jpg")
    table.loc[3, "id"] = evil
    clinic.save(table)
    (clinic.root / "train" / f"{evil}.jpg").write_bytes(clinic.path(5).read_bytes())
    data, findings = clinic.load()
    findings = findings + check_copies(data, find_copies(data), "joint.csv")
    assert len(findings) >= 1
    save_page(clinic.folder / "doctor.html", data, findings, [])
    page = Page((clinic.folder / "doctor.html").read_text())
    assert "script" not in page.tags
    assert f"train/{evil}.jpg" in "".join(page.text)


def test_the_page_needs_no_network_and_shows_the_images(clinic):
    clinic.draw(8, clinic.pixels(8)[:60])
    clinic.path(9).write_bytes(b"")
    data, _ = clinic.load()
    findings, facts = check_images(data)
    save_page(clinic.folder / "doctor.html", data, findings, facts)
    page = Page((clinic.folder / "doctor.html").read_text())
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1
    content = np.frombuffer(base64.b64decode(sources[0].split(",")[1]), np.uint8)
    assert np.abs(cv2.imdecode(content, 1).astype(int) - clinic.pixels(8)).max() <= 2
    assert "http" not in (clinic.folder / "doctor.html").read_text()
    assert "viewport" in (clinic.folder / "doctor.html").read_text()


def test_other_channels_are_drawn_from_the_thumbnail(clinic):
    data, _ = clinic.load("competition.channels=1")
    finding = Finding("note", "unusual", "look", images=((0,), (170,)))
    save_page(clinic.folder / "doctor.html", data, [finding], [])
    assert (clinic.folder / "doctor.html").read_text().count("data:image/png;base64,iVBOR") == 2
