"""Columns of the table beside the image, as numbers for the network: the training table decides how, a run keeps it.

An encoding is a tuple of dicts, one for each column of competition.metadata: name; mean and deviation, None of words
alone; words; has_missing. It makes of a cell a number, a 0/1 for each word and, where training lacks cells, a 0/1 for a
missing one, which elsewhere is the mean, or no word. A text that training does not have counts as missing.
"""

import math

import numpy as np
import pandas as pd

from src.competition.targets import MOST_WORDS, read_cells
from src.errors import UserError, listing

_FARTHEST = 10  # deviations from the mean; what lies farther counts as this far, or 16 bits overflow


def count_inputs(encoding):
    """Return M, the numbers that an encoding makes of a row."""
    return sum((one["mean"] is not None) + len(one["words"]) + one["has_missing"] for one in encoding)


def encode(encoding, rows, where, advice=None):
    """Return (inputs (N, M) float32 or, without columns, None; notes) of a table; advice: where it lacks a column."""
    parts, notes, there = [], [], [one["name"] for one in encoding if one["name"] in rows]
    if absent := [repr(one["name"]) for one in encoding if one["name"] not in there]:
        found = f"no column {listing(absent, 20)} of competition.metadata (found {listing(rows, 60)})"
        advice = advice or (f"set 'competition.metadata=[{','.join(there)}]'" if there else "leave it out")
        raise UserError(f"{where}: {found}; {advice}")
    for one in encoding:
        cells, numbers = read_cells(rows, one["name"], where, "metadata")
        is_number = ~np.isnan(numbers) & (one["mean"] is not None)
        codes = pd.Index(one["words"], dtype=str).get_indexer(cells)
        is_missing = ~is_number & (codes < 0)
        if one["mean"] is not None:
            scaled = np.clip((numbers - one["mean"]) / one["deviation"], -_FARTHEST, _FARTHEST)
            parts.append(np.where(is_number, scaled, 0)[:, None])
        parts += [codes[:, None] == np.arange(len(one["words"])), is_missing[:, None][:, : one["has_missing"]]]
        if (is_new := is_missing & cells.notna().to_numpy()).any():
            found = f"{is_new.sum()} of {len(rows)} cells of column {one['name']!r} are not among training's"
            notes.append(f"{where}: {found} (first: {cells[is_new].iloc[0]!r}); they count as missing")
    return np.concatenate(parts, axis=1, dtype=np.float32) if parts else None, tuple(notes)


def fit_encoding(rows, competition, where):
    """Return (encoding, notes) of competition.metadata in the training table.

    Where more than half of a column's known cells are numbers, it is a number, and any other text in it ("85+",
    "unknown") a word beside it; elsewhere all are words.
    """
    encoding, kinds = [], []
    for name in competition.metadata:
        cells, numbers = read_cells(rows, name, where, "metadata")
        is_number, is_known, mean, deviation = ~np.isnan(numbers), cells.notna().to_numpy(), None, None
        is_number &= 2 * is_number.sum() > is_known.sum()
        words, values, num_empty = sorted({*cells[is_known & ~is_number]}), numbers[is_number], (~is_known).sum()
        if len(words) > MOST_WORDS:
            found = f"holds {len(words)} words ({', '.join(words[:3])} ...), of which {MOST_WORDS} can be given"
            advice = "leave it out of competition.metadata, or write numbers in it"
            raise UserError(f"{where}: column {name!r} {found}; {advice}")
        if len({*words, *values}) + bool(num_empty) < 2:
            found = f"holds one value only ({cells.iloc[0]})" if is_known.any() else "is empty"
            raise UserError(f"{where}: column {name!r} {found}; leave it out of competition.metadata")
        if len(values):  # fsum rounds once, so that every machine finds the same
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((values - mean) ** 2) / len(values)) or 1.0
        encoding.append({"name": name, "mean": mean, "deviation": deviation, "words": words})
        encoding[-1]["has_missing"] = bool(num_empty)
        is_id = len({*values}) == len(values) > MOST_WORDS and (values % 1 == 0).all()
        number = "another whole number in each row: leave it out if that is an id" if is_id else "number"
        kind = {number: len(values), f"{(n := len(words))} word{'s'[: n - 1]}": n, f"{num_empty} missing": num_empty}
        kinds.append(f"{name} ({', '.join(text for text, count in kind.items() if count)})")
    return tuple(encoding), (f"{where}: beside the image: {listing(kinds, 40)}",) if kinds else ()
