"""What a training table's columns mean: which hold the labels, and which groups the images.

Tables hold str. The sample submission's columns decide first, then values and names.
"""

import re
from dataclasses import dataclass, field

import pandas as pd

from src.competition.targets import order_classes

_LABEL_WORDS = ("target", "label", "labels", "class", "category", "answer", "outcome", "diagnosis", "y", "has", "is")
# Best first: what belongs to one patient is most alike.
_GROUP_WORDS = (
    *("patient", "subject", "person", "individual", "participant", "lesion", "case", "slide", "wsi", "specimen"),
    *("study", "exam", "session", "scene", "series", "sequence", "video", "clip", "site", "location", "camera"),
    *("driver", "plant", "group"),
)
_NOT_GROUP_WORDS = ("anatom", "age", "sex", "num", "number", "count", "position")
_NOT_LABEL_WORDS = ("fold", "split", "width", "height", "age", "sex", "gender", "source")
_NEGATIVE_WORDS = ("no", "non", "not", "negative", "neg", "normal", "healthy", "benign", "absent", "none", "control")


@dataclass
class LabelColumns:
    """What is predicted, and why; `doubts` are sentences for the user to check."""

    task: str = "binary"
    targets: list[str] = field(default_factory=list)
    label: str | None = None
    classes: list[str] = field(default_factory=list)
    why: str = ""
    why_classes: str = ""
    doubts: list[str] = field(default_factory=list)


def find_label_columns(train, asked, free):
    """Find the columns that hold the labels.

    Args:
        train: table of str, one row per image.
        asked: the sample submission's columns but for the id; empty when there is no sample.
        free: columns that may hold labels: they name no row or image, and are not in the test table.
    """
    known = [name for name in asked if name in train]
    if asked and len(known) == len(asked):
        return _from_columns(train, known, f"the sample asks for {'it' if len(known) == 1 else 'them'}", asked)
    if len(asked) > 1:
        for name in free:
            if classes := match_classes(asked, train[name].unique()):
                why = "its values are the sample's columns"
                return LabelColumns("multiclass", [], name, classes, why, "as in the sample")
    if known:
        found = _from_columns(train, known, "the sample asks for them", known)
        missing = [name for name in asked if name not in train]
        found.doubts.append(f"the sample also asks for {', '.join(missing[:3])}: no such training column")
        return found
    return _from_values(train, free, asked)


def match_classes(columns, values):
    """Return the class of each column, or [] when columns and values do not correspond.

    A word that all columns share before or after the class (prob_cat, prob_dog) is removed.
    """
    columns, values = list(columns), sorted(str(value) for value in values)
    if len(values) < 2 or len(values) > len(columns) or "" in values:
        return []
    longest = max(values, key=len)
    affixes = [("", "")] + [one.split(longest, 1) for one in columns if longest in one]
    for before, after in affixes:
        if {before + value + after for value in values} <= set(columns):
            inner = [one[len(before) : len(one) - len(after)] for one in columns]
            if all(one == before + name + after for one, name in zip(columns, inner, strict=True)):
                return inner
    return []


def describe_classes(labels, asked):
    """Return the LabelColumns of a column of class names: task and sequence of classes, each with its reason.

    Args:
        labels: the distinct class names.
        asked: the sample submission's columns but for the id.
    """
    classes, doubts = order_classes(labels), []
    if len(asked) > 1:
        if matched := match_classes(asked, classes):
            return LabelColumns("multiclass", classes=matched, why_classes="as in the sample")
        columns = ", ".join(asked[:3])
        doubts.append(f"the sample's columns ({columns} ...) are not the classes ({', '.join(classes[:3])})")
        return LabelColumns("multiclass", classes=classes, why_classes="sorted", doubts=doubts)
    if len(classes) > 2:
        if asked:
            count = f"one column ({asked[0]}) for {len(classes)} classes"
            doubts.append(f"the sample has {count}; roc_auc needs a column for each")
        return LabelColumns("multiclass", classes=classes, why_classes="sorted", doubts=doubts)
    positive, how = classes[-1], "sorted"
    words = [set(re.findall("[a-z]+", one.lower())) for one in classes]
    if asked and asked[0] in classes:
        positive, how = asked[0], "the sample's column"
    elif len(classes) == 2 and words[1] & set(_NEGATIVE_WORDS) and not words[0] & set(_NEGATIVE_WORDS):
        positive, how = classes[0], f"{classes[1]} sounds negative"
    if len(classes) < 2:
        doubts.append(f"all rows have one label ({', '.join(classes)}); nothing can be learned from that")
    classes = [one for one in classes if one != positive] + [positive]
    return LabelColumns("binary", classes=classes, why_classes=f"{positive} is positive ({how})", doubts=doubts)


def find_group(train, taken):
    """Find the column whose equal values mean the same patient, slide, scene ...

    Returns: (column or None, reason).
    """
    rejected = ""
    for word in _GROUP_WORDS:
        for name in train:
            words = _words(name)
            if name in taken or word not in words or set(words) & set(_NOT_GROUP_WORDS):
                continue
            distinct, largest = train[name].nunique(), train[name].value_counts().max()
            if (train[name] == "").any():
                rejected = rejected or f"{name} has empty cells"
            elif distinct > 0.95 * len(train):
                rejected = rejected or f"{name} hardly repeats"
            elif distinct < 5 or largest > len(train) / 2:
                rejected = rejected or f"{name} has too few values ({distinct}) to split by"
            else:
                return name, f"{distinct} in {len(train)} rows; equal ones stay in one fold"
    return None, rejected or "no column named like a patient, slide or scene"


def _from_columns(train, columns, why, asked):
    """Return the LabelColumns of these columns: 0/1 each, or one of class names."""
    numbers = train[columns].apply(pd.to_numeric, errors="coerce")
    if len(columns) == 1 and numbers.isin([0, 1]).all(axis=None):
        return LabelColumns("binary", columns, why=f"{why}; 0/1, {100 * numbers.mean().iloc[0]:.1f} % are 1")
    if len(columns) > 1:
        if ((numbers.sum(axis=1) - 1).abs() < 1e-3).all():
            found = LabelColumns("multiclass", columns, why=f"{why}; every row sums to 1")
        else:
            found = LabelColumns("multilabel", columns, why=f"{why}; rows have none or several")
        for name in numbers.columns[~((numbers >= 0) & (numbers <= 1)).all()]:
            found.doubts.append(f"column {name} holds other values than 0 to 1; correct it, or leave it out of targets")
        return found
    name, labels = columns[0], train[columns[0]]
    found = describe_classes(set(labels) - {""}, asked)
    found.label, found.why = name, f"{why}; {labels.nunique()} class names"
    if (labels == "").any():
        found.doubts.append(f"{(labels == '').sum()} rows of {name} are empty; remove or fill them")
    if _is_measure(labels):
        found.doubts.append(f"{name} looks like a measure ({labels.iloc[0]} ...); only classes can be predicted")
    known = set(labels)
    if several := sorted(one for one in known if len(words := re.split("[ ,;|]+", one)) > 1 and set(words) <= known):
        found.doubts.append(f"{name} holds several labels in a cell ({several[0]!r}); make a 0/1 column of each")
    return found


def _from_values(train, free, asked):
    """Choose by names and values, as no sample column is a training column."""
    classes = [name for name in free if 2 <= train[name].nunique() <= len(train) / 2 and not _is_measure(train[name])]
    classes = [name for name in classes if not set(_words(name)) & {*_GROUP_WORDS, *_NOT_LABEL_WORDS}]
    binary = [name for name in classes if _is_01(train[name])]
    named = [name for name in classes if set(_words(name)) & set(_LABEL_WORDS)]
    named.sort(key=lambda name: min(_LABEL_WORDS.index(word) for word in _words(name) if word in _LABEL_WORDS))
    if len(asked) != 1 and len(binary) > 1 and (train[binary].astype(float).sum(axis=1) == 1).all():
        return _from_columns(train, binary, "by their values", asked)
    if len(asked) != 1 and len(binary) > 1 and not named:
        return _from_columns(train, binary, "all the 0/1 columns", asked)
    if not classes:
        return LabelColumns(doubts=["no column looks like a label; set targets (0/1) or label (class names)"])
    chosen = (named or binary or classes)[0]
    found = _from_columns(train, [chosen], "by its name" if named else "by its values", asked)
    if asked and len(asked) == 1:
        found.why += f"; the sample's {asked[0]} is no column"
    if len(classes) > 1:
        others = [name for name in classes if name != chosen]
        reason = f"{chosen} was chosen {found.why.split(';')[0]}"
        found.doubts.append(f"the labels could also be in {', '.join(others[:3])}; {reason}")
    return found


def _is_01(column):
    return column.isin(["0", "1", "0.0", "1.0"]).all()


def _is_measure(column):
    """Fractions, or very many different numbers."""
    numbers = pd.to_numeric(pd.Series(column.unique()), errors="coerce")
    return bool(numbers.notna().all() and len(numbers) > 2 and ((numbers % 1 != 0).any() or len(numbers) > 200))


def _words(name):
    """Split a column's name: PatientID, patient_id, StudyInstanceUID -> lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
