"""The results of a check: findings, which ask for an action, and facts, which do not; and both as text."""

import textwrap
from dataclasses import dataclass

from src.errors import printable
from src.terminal import paint

SEVERITIES = ("error", "warning", "note")  # a score is wrong or training stops; may be; worth knowing
MAX_NAMES = 100  # names that a finding holds

_STYLES = {"error": "red", "warning": "yellow", "note": "bold"}  # in a terminal
_WIDTH = 80
_NUM_SHOWN = 4  # names in the text; the page lists all that a finding holds


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do about it.

    Attributes:
        severity: one of SEVERITIES.
        title: what is wrong, with its numbers.
        advice: what to do.
        names: of the images, columns or groups that it is about, MAX_NAMES at most.
        num_names: their number in all.
        images: rows of the scan that show it, in groups: copies side by side, unusual images alone.
        words: settings, key=value, that do what the advice says and can harm nothing.
    """

    severity: str
    title: str
    advice: str
    names: tuple[str, ...] = ()
    num_names: int = 0
    images: tuple[tuple[int, ...], ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self):
        assert self.severity in SEVERITIES, self.severity


@dataclass(frozen=True)
class Fact:
    """A measurement that is no fault.

    Attributes:
        title: heading.
        lines: of text.
        table: rows that the page shows in place of the lines, the names of the columns first.
    """

    title: str
    lines: tuple[str, ...]
    table: tuple[tuple[str, ...], ...] = ()


def make_finding(line, severity="error", advice="correct it before training"):
    """Return the Finding of a UserError or its message: the text after the last semicolon is the advice.

    Args:
        advice: for a message without one.
    """
    title, _, last = str(line).rpartition("; ")
    return Finding(severity, title, last) if title else Finding(severity, last, advice)


def name_rows(names, rows=None):
    """Return {"names", "num_names"} of a Finding about some rows.

    Args:
        names: N names, an array of str or competition.image_files.Paths.
        rows: indices of those that it is about; None: all.
    """
    rows = range(len(names)) if rows is None else rows
    return {"names": tuple(names[int(row)] for row in rows[:MAX_NAMES]), "num_names": len(rows)}


def sort_findings(findings):
    """Return the findings with the worst first; those of one severity keep their sequence."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def format_findings(findings):
    """Return the findings as text for a terminal of 80 columns, in colour where stdout is one; the worst first."""
    lines = []
    for one in sort_findings(findings):
        first, *others = _wrap(one.title, f"{one.severity:8} ", " " * 9)
        lines += [paint(one.severity, _STYLES[one.severity]) + first[len(one.severity) :], *others]
        if one.names:
            shown = one.names[:_NUM_SHOWN]
            between = "; " if any("," in name for name in shown) else ", "
            more = f" ... ({one.num_names} in all)" if one.num_names > _NUM_SHOWN else ""
            lines += _wrap(between.join(shown) + more, " " * 11, " " * 11)
        lines += _wrap(one.advice, " " * 9 + "-> ", " " * 12)
    return "\n".join(lines)


def format_facts(facts):
    """Return the facts as text for a terminal of 80 columns; longer lines are wrapped and indented."""
    return "\n\n".join("\n".join(_format_fact(one)) for one in facts)


def _format_fact(fact):
    lines = _wrap(fact.title, "", " " * 4)
    for line in fact.lines:
        indent = " " * (2 + len(line) - len(line.lstrip()))
        lines += _wrap(line.lstrip(), indent, indent + " " * 4)
    return lines


def summarize(findings, path):
    """Return the last line: how many findings of each severity, and where the page is."""
    counts = [sum(one.severity == severity for one in findings) for severity in SEVERITIES]
    words = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in zip(counts, SEVERITIES, strict=True)]
    return f"doctor: {', '.join(words)}; {path}"


def _wrap(text, first, others):
    indents = {"initial_indent": first, "subsequent_indent": others}
    return textwrap.wrap(printable(text), _WIDTH, **indents, break_on_hyphens=False)
