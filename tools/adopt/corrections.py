"""Tables that cannot be used as they are -> corrected ones, and a sentence that says what was changed.

The host's own files stay as they are: what is corrected here is written as a copy.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import pandas as pd

from src.competition.image_files import IMAGE_SUFFIXES
from src.errors import listing
from tools.adopt.patterns import DICOM_SUFFIXES, is_side, roles
from tools.adopt.readers import find_split

_MAX_LONG = 200  # columns that a long table may become
_READ = ("", "NA", "N/A", "NaN", "nan", "<NA>", "null", "NULL")  # by src.competition.targets as missing
_MASK_COLUMNS = ("encodedpixels", "rle", "rle_mask", "mask_rle", "encoded_pixels", "segmentation", "segmentations")
_MOST_ALIKE = 100  # files of one name that are compared
_UNKNOWN = ("none", "?", "-", "na", "n/a", "unknown", "missing")
_BOX_COLUMNS = (
    *({"xmin", "ymin", "xmax", "ymax"}, {"x_min", "y_min", "x_max", "y_max"}, {"x1", "y1", "x2", "y2"}),
    *({"x", "y", "width", "height"}, {"x", "y", "w", "h"}),
    *({"bbox_x1", "bbox_y1"}, {"left", "top", "width", "height"}),
    *({"bbox"}, {"bboxes"}, {"boxes"}, {"bounding_box"}, {"bounding_boxes"}, {"predictionstring"}),
)


def find_boxes(columns):
    """Return the columns that hold boxes or masks, as tables of detection and segmentation have them, or []."""
    lower = {name.lower().strip(): name for name in columns}
    kinds = (*_BOX_COLUMNS, *({one} for one in _MASK_COLUMNS))
    return next(([lower[name] for name in lower if name in one] for one in kinds if one <= set(lower)), [])


def describe_boxes(boxes):
    """Return words on what `find_boxes` has found."""
    is_mask = boxes[0].lower().strip() in _MASK_COLUMNS
    return f"{'segmentation: masks' if is_mask else 'object detection: boxes'} in {listing(boxes)}"


def pivot_long(table, columns):
    """Make a row per image of a table with a row per image and label: its ids are <image>_<label>, or in two columns.

    Args:
        columns: those to try.

    Returns: (wide table, id column, label names), or None when no column is of that kind; a table of ids alone becomes
        one of the images' ids.
    """
    for name in columns:
        if found := _split_ids(table[name]):
            stems, labels = found
            values = [one for one in table if one != name and table[one].nunique() <= max(2, len(table) / 2)]
            return _pivot(table, name, stems, labels, values)
    pairs = [one for one in table if 2 <= table[one].nunique() <= min(_MAX_LONG, len(table) / 2)]
    for name in columns:
        for labels in pairs:
            others = [one for one in table if one not in (name, labels)]
            values = [one for one in others if table[one].isin(["0", "1", "0.0", "1.0"]).all()]
            if name != labels and len(values) == 1 and _is_grid(table[name], table[labels]):
                return _pivot(table, name, table[name], table[labels], values)
    return None


def _split_ids(ids):
    """Split ids of the form <image><sign><label> where every image has every label; return two Series, or None."""
    first, best = ids.iloc[0], None
    for place in (hit.start() for hit in re.finditer(r"[_\-|:. /]", first)):
        head = first[: place + 1]
        tails = ids[ids.str.startswith(head)].str[len(head) :].unique()
        if not 2 <= len(tails) <= min(_MAX_LONG, len(ids) / 2) or any(not re.search("[A-Za-z]", one) for one in tails):
            continue
        ends = "|".join(re.escape(one) for one in sorted(tails, key=len, reverse=True))
        parts = ids.str.extract(f"^(.+){re.escape(first[place])}({ends})$")
        if parts.notna().all(axis=None) and _is_grid(parts[0], parts[1]):
            best = parts[0], parts[1]
    return best


def _is_grid(stems, labels):
    """Whether every stem has every label; a pair may be there twice."""
    pairs = pd.DataFrame({"stem": stems, "label": labels}).drop_duplicates()
    return stems.nunique() > 1 and len(pairs) == stems.nunique() * labels.nunique()


def _pivot(table, name, stems, labels, values):
    """Return (wide table, id column, label names)."""
    names = list(labels.unique())
    if name in names or not values:
        return pd.DataFrame({name: stems.unique()}), name, names
    frame = pd.DataFrame({"stem": stems, "label": labels, "value": table[values[0]]}).drop_duplicates(["stem", "label"])
    wide = frame.pivot(index="stem", columns="label", values="value").loc[stems.unique(), names]
    return wide.rename_axis(columns=None).rename_axis(name).reset_index(), name, names


def take_test_rows(train, row_id, sample):
    """Split off the rows that a column such as split names test rows.

    Returns: (training rows, test rows, a sentence), or None where there are none, or the sample asks for others.
    """
    found = find_split(train)
    if found is None or (sample.path and set(train[row_id][found[1]]) != sample.ids):
        return None
    name, is_test = found
    counts = ", ".join(f"{count} {value}" for value, count in train[name].value_counts().items())
    sentence = f"{name} says which rows are for testing ({counts}): the copies are train.csv and test.csv"
    return train[~is_test].reset_index(drop=True), train[is_test].reset_index(drop=True), sentence


def signs_to_zeros(train, notes):
    """Return the table with 0 for -1 where several columns hold 1 and -1 alone."""
    names = [name for name in train if set(train[name]) == {"-1", "1"}]
    if len(names) < 2:
        return train
    notes.append(f"{len(names)} columns hold 1 and -1: the copy has 0 for -1")
    return train.assign(**{name: train[name].replace("-1", "0") for name in names})


def empty_unknown(train, notes):
    """Return the table with empty cells where columns of 0 and 1 hold another word for an unknown label."""
    for name in train:
        values = set(train[name])
        words = sorted(one for one in values if one.lower() in _UNKNOWN and one not in _READ)
        if words and {"0", "1"} <= values <= {"0", "1", *_READ, *words}:
            what = f"{name} holds {listing(map(repr, words))} for an unknown label"
            notes.append(f"{what}: the copy has empty cells there")
            train = train.assign(**{name: train[name].where(~train[name].isin(words), "")})
    return train


def drop_repeats(table, row_id, labels):
    """Keep one row per id: the first where the rows' labels agree, none where they differ.

    Returns: (table, sentences, ids whose rows differ, as a table of their rows).
    """
    if table[row_id].is_unique:
        return table, [], table.iloc[:0]
    labels = [name for name in labels if name in table]
    distinct = table.drop_duplicates([row_id, *labels])
    clashing = set(distinct[row_id][distinct[row_id].duplicated()])
    is_clashing, sentences = table[row_id].isin(clashing), []
    kept = table[~is_clashing].drop_duplicates(row_id)
    if same := len(table) - is_clashing.sum() - len(kept):
        found = f"{same} of {len(table)} training rows repeat an id with the same labels"
        sentences.append(f"{found}; the copy has one row of each")
    if clashing:
        first = distinct[row_id][distinct[row_id].isin(clashing)].iloc[0]
        found = listing(distinct[distinct[row_id] == first][labels].agg(" ".join, axis=1), 3)
        ids = "1 id has" if len(clashing) == 1 else f"{len(clashing)} ids have"
        sentences.append(f"{ids} rows of different labels (first: {first}: {found}); the copy leaves them out")
    return kept.reset_index(drop=True), sentences, table[is_clashing]


def average_targets(table, row_id, targets):
    """Make a row per id with the mean of its rows' targets."""
    means = table[targets].apply(pd.to_numeric, errors="coerce").groupby(table[row_id], sort=False).mean()
    kept = table.drop_duplicates(row_id).reset_index(drop=True)
    return kept.assign(**{name: means[name].map("{:.6g}".format).to_numpy() for name in targets})


def join_labels(table, row_id, label):
    """Make a row per id whose cell holds all of its rows' labels, joined by |."""
    joined = table.groupby(row_id, sort=False)[label].agg(lambda one: "|".join(dict.fromkeys(one)))
    return table.drop_duplicates(row_id).assign(**{label: joined.loc[table[row_id].unique()].to_numpy()})


def locate_images(values, images, role, shared=False):
    """Find each value's file by its name, whatever its letter case, suffix, folders, separators and zeros.

    Args:
        images: {relative folder: [file names]}.
        shared: a folder named after the other role may hold these images too.

    Returns: (paths, reasons): a list with "" where no file or more than one fits, and words for what differs.
    """
    other = {"train": "test", "test": "train"}[role]
    split = [[one for one in re.split(r"[\\/]+", value.strip()) if one not in (".", "..", "")] for value in values]
    depth, known = max(map(len, split), default=1), defaultdict(list)  # known: the end of a path -> paths
    for folder, names in images.items():
        if not shared and other in roles(folder) - {role}:
            continue
        above = unicodedata.normalize("NFC", folder).lower().split("/")
        counts = range(min(depth, len(above) + 1))
        ends = ["".join(f"{one}/" for one in above[len(above) - count :]) for count in counts]
        for name in names:
            path = f"{folder}/{name}".lstrip("/")
            for key in _names(name):
                for end in ends:
                    known[end + key].append(path)
    found, reasons = [], Counter()
    for value, parts in zip(values, split, strict=True):
        path = _look_up(known, parts, role) if parts else ""
        found.append(path)
        if path:
            reasons.update(_differences(value, parts, path))
    return found, [reason for reason, _ in reasons.most_common()]


def _look_up(known, parts, role):
    """Return the path that has most of a value's last folders, by the nearest of its names; "" when two fit as well."""
    keys = _keys(parts[-1])
    above = [unicodedata.normalize("NFC", one).lower() for one in parts[:-1]]
    for count in range(len(above), -1, -1):
        end = "".join(f"{one}/" for one in above[len(above) - count :])
        for key in keys:
            if paths := known.get(end + key):
                return _choose(paths, role) if len(paths) <= _MOST_ALIKE else ""
    return ""


def _names(name):
    """Return the keys by which a file is found: its name, its stem, and the number that the stem is."""
    lower = unicodedata.normalize("NFC", name).lower()
    stem = PurePosixPath(lower).stem
    return {lower, stem, (stem.lstrip("0") or "0") if stem.isdigit() else stem}


def _keys(last):
    """Return the keys to try for a value's last part, the nearest first."""
    lower = unicodedata.normalize("NFC", last.strip()).lower()
    stem = lower[: -len(suffix)] if (suffix := PurePosixPath(lower).suffix) in IMAGE_SUFFIXES else lower
    whole = re.fullmatch(r"(\d+)\.0+", stem)
    number = whole[1] if whole else stem
    return [lower, stem, *([number, number.lstrip("0") or "0"] if number.isdigit() else [])]


def _choose(paths, role):
    """Return the path that fits best: in the role's folder, no mask, no DICOM; "" when two do."""

    def rank(path):
        folder = path.rpartition("/")[0]
        return is_side(folder), role not in roles(folder), path.lower().endswith(DICOM_SUFFIXES)

    ranked = sorted(paths, key=rank)
    return ranked[0] if len(ranked) == 1 or rank(ranked[0]) < rank(ranked[1]) else ""


def _differences(value, parts, path):
    """Yield words for what differs between a value and the path that it means."""
    last, name = parts[-1].strip(), path.rpartition("/")[2]
    stem, has_suffix = PurePosixPath(name).stem, last.lower().endswith(IMAGE_SUFFIXES)
    if value != value.strip() or parts[-1] != last:
        yield "blanks at their ends"
    if "\\" in value:
        yield "\\ in place of /"
    if re.fullmatch(r"\d+\.0+", last):
        yield "numbers that end in .0"
    elif last.isdigit() and stem.isdigit() and last != stem:
        yield "numbers with other zeros"
    if last.lower() in (name.lower(), stem.lower()) and last not in (name, stem):
        yield "other letter case"
    elif has_suffix and last.lower() != name.lower():
        yield "another suffix"
    folder = path.lower().rpartition("/")[0]
    if len(parts) > 1 and not f"/{folder}".endswith("/".join(["", *parts[:-1]]).lower()):
        yield "folders that are elsewhere"
