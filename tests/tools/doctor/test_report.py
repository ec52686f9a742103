"""The page: images with names and labels, sizes, and nothing that comes from the data is more than text."""

import base64
import os
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tools.doctor.duplicates import check_copies, find_copies
from tools.doctor.findings import Fact, Finding
from tools.doctor.images import check_images
from tools.doctor.report import count_sizes, draw_images, find_text, save_page
from tools.page import _COPY

EVIL = """<script>alert('x')</script>"><img src=y onerror="z">&amp;"""


class Page(HTMLParser):
    """The tags, attributes and text of a page; open tags must be closed in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attributes]
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def save(clinic):
    """Write the page and return it, parsed."""

    def save(data, findings=(), facts=(), advice=("Train:", "python train.py")):
        save_page(clinic.folder / "doctor.html", data, findings, facts, advice)
        return Page((clinic.folder / "doctor.html").read_text())

    return save


def test_names_from_the_data_are_text(clinic, save):
    table = clinic.read()
    table["label"] = np.where(table["sick"] == "1", f"class {EVIL}", "well")
    clinic.save(table.drop(columns="sick"))
    words = ("competition.label=label", "competition.targets=[]", "competition.task=multiclass")
    data, _ = clinic.load(*words, "competition.metric=accuracy", "competition.sample_submission=null")
    finding = Finding("error", f"title {EVIL}", f"advice {EVIL}", (f"name {EVIL}",), 1, ((0,),))
    facts = [Fact(f"heading {EVIL}", (f"line {EVIL}",)), Fact("", (), ((f"column {EVIL}",), (f"cell {EVIL}",)))]
    page = save(data, [finding], facts, (f"sentence {EVIL}", f"command {EVIL}"))
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 1 + 3 * 8  # the finding's, and a row of each class and of test
    assert not [one for one in page.attributes if one[1].startswith("on")]
    text = "".join(page.text)
    for word in ("title", "advice", "name", "heading", "line", "column", "cell", "sentence", "command", "class"):
        assert f"{word} {EVIL}" in text


@pytest.mark.skipif(os.name == "nt", reason="no such file names on Windows")
def test_a_file_name_with_html_in_it(clinic, save):
    table, evil = clinic.read(), "<script>alert(1)<!-- &lt; 'x' \"y\""
    os.rename(clinic.path(3), clinic.root / "train" / f"{evil}.jpg")
    table.loc[3, "id"] = evil
    clinic.save(table)
    (clinic.root / "train" / f"{evil}.jpg").write_bytes(clinic.path(5).read_bytes())
    data, findings = clinic.load()
    findings = findings + check_copies(data, find_copies(data), "joint.csv")
    assert len(findings) >= 1
    page = save(data, findings)
    assert page.tags.count("script") == 1
    assert page.text.count(_COPY) == 1
    assert f"train/{evil}.jpg" in "".join(page.text)
    assert ("img", "alt", f"train/{evil}.jpg") in page.attributes


def test_the_page_shows_the_images_as_they_are(clinic, save):
    clinic.draw(8, clinic.pixels(8)[:60])
    clinic.path(9).write_bytes(b"")
    data, _ = clinic.load()
    page = save(data, *check_images(data))
    [found] = {one["src"]: one for one in page.images if one["alt"] == data.names[8]}.values()
    assert found["class"] == "small"
    content = np.frombuffer(base64.b64decode(found["src"].split(",")[1]), np.uint8)
    assert np.abs(cv2.imdecode(content, 1).astype(int) - clinic.pixels(8)).max() <= 2
    assert all(one["src"].startswith("data:image/") for one in page.images)
    assert [name for tag, _, name in page.attributes if tag == "link"] == ["icon", "data:,"]


def test_other_channels_are_drawn_from_the_thumbnail(clinic):
    drawn = draw_images(clinic.load("competition.channels=1")[0], [0, 170])
    assert [one["source"][:32] for one in drawn.values()] == ["data:image/png;base64,iVBORw0KGg"] * 2
    data, _ = clinic.load("competition.channels=4")
    assert (data.scan.thumbnails == 0).all()  # JPEGs have no four channels
    assert draw_images(data, [0])[0]["is_small"]


def test_copies_show_their_labels_and_folds(clinic, save):
    labels = clinic.read()["sick"]
    other = int(np.flatnonzero(labels != labels[4])[5])
    clinic.path(other).write_bytes(clinic.path(4).read_bytes())
    data, _ = clinic.load()
    page = save(data, check_copies(data, find_copies(data), "joint.csv"))
    captions = " ".join("".join(page.text).split())
    for row in (4, other):
        assert f"sick: {labels[row]}, fold {data.folds[row]}{data.names[row]}" in captions


def test_images_are_drawn_smaller_where_they_would_take_too_much(clinic):
    data, _ = clinic.load()
    large = draw_images(data, range(40))
    size = sum(len(one["source"]) for one in large.values())
    small = draw_images(data, range(40), most_bytes=size // 2)
    assert sum(len(one["source"]) for one in small.values()) <= size // 2
    assert {key: one["name"] for key, one in small.items()} == {key: one["name"] for key, one in large.items()}


def test_sizes_are_counted_by_side(clinic):
    for row in range(9):
        clinic.draw(row, clinic.pixels(row)[: 63 - row])
    clinic.draw(0, clinic.pixels(0, "test")[:, :20], "test")
    rows = count_sizes(clinic.load()[0])
    assert rows[0] == ("64 x 64", 151, 59, 210 / 220)
    assert len(rows) == 9
    assert rows[-1] == ("3 other sizes", *rows[-1][1:3], 3 / 220)
    assert [sum(row[one] for row in rows) for one in (1, 2)] == [160, 60]


def test_many_sizes_are_drawn_and_one_is_not(clinic, save):
    assert "svg" not in save(clinic.load()[0]).tags
    for row in range(9):
        clinic.draw(row, clinic.pixels(row)[: 63 - row])
    page = save(clinic.load()[0])
    assert page.tags.count("svg") == 1
    assert {"width, pixels", "height, pixels", "train", "test"} <= set(page.text)


def test_columns_of_words_are_set_to_the_left():
    assert find_text((("a", "b", "c"), ("x y", "1.5", ""), ("2", "-3", "no"))) == ["text", "", "text"]
