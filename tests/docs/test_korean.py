"""The Korean pages follow the English ones, section by section: commands, outputs, settings, links, tables."""

import re

import pytest

from src.config.settings import REPOSITORY

PAIRS = [("README.md", "README.ko.md"), ("docs/tutorial.md", "docs/tutorial.ko.md")]
pytestmark = pytest.mark.house


def read_sections(name):
    """Return [(heading, fenced blocks, code and links, number of table rows)] of a page from its first heading on."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    blocks = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
    sections = []
    headings = [match.start() for match in re.finditer(r"^#+ ", blocks.sub(lambda one: " " * len(one[0]), text), re.M)]
    for start, end in zip(headings, [*headings[1:], None], strict=True):
        section = text[start:end]
        prose = blocks.sub("", section)
        found = set(re.findall(r"`[^`\n]+`", prose))
        found.update(re.sub(r"\.ko\.md$", ".md", link) for link in re.findall(r"\]\(([^)]+)\)", prose))
        sections.append((section.splitlines()[0], blocks.findall(section), found, len(re.findall(r"^\|", prose, re.M))))
    return sections


@pytest.mark.parametrize(("english", "korean"), PAIRS)
def test_the_korean_page_has_the_commands_and_settings_of_the_english_one(english, korean):
    sections, korean_sections = read_sections(english), read_sections(korean)
    headings = [[heading for heading, *_ in one] for one in (sections, korean_sections)]
    assert len(headings[0]) == len(headings[1]), f"{korean} must have the sections of {english}: {headings}"
    pairs = zip(sections, korean_sections, strict=True)
    for (heading, blocks, words, rows), (_, korean_blocks, korean_words, korean_rows) in pairs:
        where = f"{korean} must follow {english}, section {heading!r}"
        assert len(korean_blocks) == len(blocks), f"{where}: {len(korean_blocks)} code blocks instead of {len(blocks)}"
        for number, (block, other) in enumerate(zip(blocks, korean_blocks, strict=True), 1):
            assert other == block, f"{where}: code block {number} differs; copy it"
        assert korean_rows == rows, f"{where}: {korean_rows} table rows instead of {rows}"
        assert korean_words == words, f"{where}: lacks {words - korean_words}, has {korean_words - words} too much"


@pytest.mark.parametrize(("english", "korean"), PAIRS)
def test_the_two_languages_link_to_each_other(english, korean):
    for page, other in ((english, korean), (korean, english)):
        assert f"]({other.rpartition('/')[2]})" in (REPOSITORY / page).read_text(encoding="utf-8").splitlines()[0]
