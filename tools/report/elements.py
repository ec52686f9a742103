"""What a page is made of: sections of sentences, figures, tables, images and commands, and numbers in words."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

NONE = "-"  # in place of a number that is not defined


@dataclass(frozen=True)
class Table:
    """Rows of cells; a `None` or nan is shown as a dash."""

    header: list[str]
    rows: list[list]
    caption: str = ""
    is_open: bool = True  # False: the caption opens it
    is_text: tuple = ()  # columns of words, counted from 0; the first always is


@dataclass
class Drawing:
    """A figure with the sentence that says what one reads from it."""

    name: str  # of its file
    figure: object  # matplotlib's
    caption: str
    is_wide: bool = False
    _png: str | None = None  # where save_png has put it

    @cached_property
    def svg(self):
        """The figure as Markup; drawing it is the slow part."""
        from src.analysis.figures import save_svg  # here, as matplotlib takes half a second

        return Markup(save_svg(self.figure))

    def save_png(self, folder):
        """Write the figure as a PNG, if it is not there already; return its path as text."""
        if self._png is None:
            from src.analysis.figures import save_png  # here, as above

            self._png = str(Path(folder) / f"{self.name}.png")
            save_png(self.figure, self._png)
        return self._png


@dataclass(frozen=True)
class Shown:
    """An image with its caption."""

    name: str
    lines: list[str]
    source: str | None  # a data URL
    overlay: str | None = None
    is_small: bool = False


@dataclass
class Section:
    """One part of the page, and what report.json holds of it."""

    name: str  # its key in report.json, and its place on the page
    title: str
    sentences: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: list = field(default_factory=list)  # [(title, sentence, [Shown])]
    commands: list[tuple[str, str]] = field(default_factory=list)  # (what it does, the command)
    facts: dict = field(default_factory=dict)
    has_switch: bool = False  # of the maps upon its images

    @property
    def tables_beside(self):
        """The table that stands beside a single figure."""
        return [one for one in self.tables[:1] if one.is_open and len(self.drawings) == 1 and len(one.header) <= 6]

    @property
    def tables_below(self):
        return self.tables[len(self.tables_beside) :]


@dataclass
class Page:
    """A page before it is written."""

    title: str
    kicker: str
    big: str  # the score in large letters
    lines: list[str]  # below it
    facts: list[tuple[str, str]]  # small numbers in the card: (name, value)
    command: str | None  # the next one
    sections: list[Section]
    words: list[tuple[str, str]] = field(default_factory=list)  # (word, what it means)


def number(value, digits=5):
    """Return a number in words; a dash where it is None or not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}"


def short(value):
    """Return a number with three digits that count, such as 0.0123 or 1,230."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}" if places < 7 else f"{value:.2e}"


def span(interval, digits=5):
    """Return an interval in words that stay on one line."""
    return NONE if interval is None else f"{number(interval[0], digits)}\u00a0to\u00a0{number(interval[1], digits)}"


def share(part):
    """Return a share as percent."""
    if part is None or not math.isfinite(part):
        return NONE
    return f"{100 * part:.1f} %" if abs(part) >= 0.001 or part == 0 else f"{100 * part:.1g} %"


def plural(count, word):
    """Return "1 row" or "1,234 rows"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def seconds_in_words(seconds):
    """Return seconds as 41 s, 12 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def as_json(value):
    """Return plain containers as JSON has them: nan and infinity become null, numpy's numbers plain ones."""
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
