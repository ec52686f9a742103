"""What a training table's columns mean: which hold the answers, and which names the pictures that belong together.

Tables come as strings. The sample submission's columns are believed first; values and names decide the rest.
"""

import re
from dataclasses import dataclass, field

import pandas as pd

from src.competition.targets import order_classes

_ANSWER_WORDS = ("target", "label", "labels", "class", "category", "answer", "outcome", "diagnosis", "y", "has", "is")
# Best first: what belongs to one patient is most alike.
_GROUP_WORDS = (
    *("patient", "subject", "person", "individual", "participant", "lesion", "case", "slide", "wsi", "specimen"),
    *("study", "exam", "session", "scene", "series", "sequence", "video", "clip", "site", "location", "camera"),
    *("driver", "plant", "group"),
)
_NOT_GROUP_WORDS = ("anatom", "age", "sex", "num", "number", "count", "position")
_NOT_ANSWER_WORDS = ("fold", "split", "width", "height", "age", "sex", "gender", "source")
_NEGATIVE_WORDS = ("no", "non", "not", "negative", "neg", "normal", "healthy", "benign", "absent", "none", "control")


@dataclass
class Answers:
    """What is predicted, and why; `doubts` are sentences for the person who checks it."""

    task: str = "binary"
    targets: list[str] = field(default_factory=list)
    label: str | None = None
    classes: list[str] = field(default_factory=list)
    why: str = ""
    why_classes: str = ""
    doubts: list[str] = field(default_factory=list)


def find_answers(train, asked, free):
    """Find the columns that hold the answers.

    Args:
        train: table of str, one row per picture.
        asked: the sample submission's columns but for the id; empty when there is no sample.
        free: columns that may be answers: they name no row or picture, and the test table has them not.
    """
    known = [name for name in asked if name in train]
    if asked and len(known) == len(asked):
        return _from_columns(train, known, f"the sample asks for {'it' if len(known) == 1 else 'them'}", asked)
    if len(asked) > 1:
        for name in free:
            if classes := match_classes(asked, train[name].unique()):
                return Answers(
                    "multiclass", [], name, classes, "its values are the sample's columns", "in the sample's order"
                )
    if known:
        answers = _from_columns(train, known, "the sample asks for them", known)
        missing = [name for name in asked if name not in train]
        answers.doubts.append(f"the sample also asks for {', '.join(missing[:3])}: no such training column")
        return answers
    return _from_values(train, free, asked)


def match_classes(columns, values):
    """Return the class that each column is about, in order, or [] when columns and values do not correspond.

    A word that all columns share before or after the class (prob_cat, prob_dog) is taken off.
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
    """Say the task, the order of the classes and why, for answers that are class names.

    Args:
        labels: the distinct class names.
        asked: the sample submission's columns but for the id.
    """
    classes, doubts = order_classes(labels), []
    if len(asked) > 1:
        if matched := match_classes(asked, classes):
            return Answers("multiclass", classes=matched, why_classes="in the sample's order")
        doubts.append(
            f"the sample's columns ({', '.join(asked[:3])} ...) are not the classes ({', '.join(classes[:3])})"
        )
        return Answers("multiclass", classes=classes, why_classes="sorted", doubts=doubts)
    if len(classes) > 2:
        if asked:
            doubts.append(
                f"the sample has one column ({asked[0]}) for {len(classes)} classes; roc_auc needs a column for each"
            )
        return Answers("multiclass", classes=classes, why_classes="sorted", doubts=doubts)
    positive, how = classes[-1], "sorted"
    words = [set(re.findall("[a-z]+", one.lower())) for one in classes]
    if asked and asked[0] in classes:
        positive, how = asked[0], "the sample's column"
    elif len(classes) == 2 and words[1] & set(_NEGATIVE_WORDS) and not words[0] & set(_NEGATIVE_WORDS):
        positive, how = classes[0], f"{classes[1]} sounds negative"
    if len(classes) < 2:
        doubts.append(f"all rows have one answer ({', '.join(classes)}); nothing can be learned from that")
    classes = [one for one in classes if one != positive] + [positive]
    return Answers("binary", classes=classes, why_classes=f"{positive} is positive ({how})", doubts=doubts)


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
    """The answers are in these very columns: 0/1 each, or one of class names."""
    numbers = train[columns].apply(pd.to_numeric, errors="coerce")
    if len(columns) == 1 and numbers.isin([0, 1]).all(axis=None):
        return Answers("binary", columns, why=f"{why}; 0/1, {100 * numbers.mean().iloc[0]:.1f} % are 1")
    if len(columns) > 1:
        if ((numbers.sum(axis=1) - 1).abs() < 1e-3).all():
            answers = Answers("multiclass", columns, why=f"{why}; every row sums to 1")
        else:
            answers = Answers("multilabel", columns, why=f"{why}; rows have none or several")
        for name in numbers.columns[~((numbers >= 0) & (numbers <= 1)).all()]:
            answers.doubts.append(
                f"column {name} holds other values than 0 to 1; correct it, or leave it out of targets"
            )
        return answers
    name, labels = columns[0], train[columns[0]]
    answers = describe_classes(set(labels) - {""}, asked)
    answers.label, answers.why = name, f"{why}; {labels.nunique()} class names"
    if (labels == "").any():
        answers.doubts.append(f"{(labels == '').sum()} rows of {name} are empty; remove or fill them")
    if _is_measure(labels):
        answers.doubts.append(f"{name} looks like a measure ({labels.iloc[0]} ...); only classes can be predicted")
    known = set(labels)
    if several := sorted(one for one in known if len(parts := re.split("[ ,;|]+", one)) > 1 and set(parts) <= known):
        answers.doubts.append(f"{name} holds several labels in a cell ({several[0]!r}); make a 0/1 column of each")
    return answers


def _from_values(train, free, asked):
    """No sample column is a training column: choose by names and values."""
    classes = [name for name in free if 2 <= train[name].nunique() <= len(train) / 2 and not _is_measure(train[name])]
    classes = [name for name in classes if not set(_words(name)) & {*_GROUP_WORDS, *_NOT_ANSWER_WORDS}]
    binary = [name for name in classes if _is_01(train[name])]
    named = [name for name in classes if set(_words(name)) & set(_ANSWER_WORDS)]
    named.sort(key=lambda name: min(_ANSWER_WORDS.index(word) for word in _words(name) if word in _ANSWER_WORDS))
    if len(asked) != 1 and len(binary) > 1 and (train[binary].astype(float).sum(axis=1) == 1).all():
        return _from_columns(train, binary, "by their values", asked)
    if len(asked) != 1 and len(binary) > 1 and not named:
        return _from_columns(train, binary, "all the 0/1 columns", asked)
    if not classes:
        return Answers(doubts=["no column looks like an answer; set targets (0/1) or label (class names)"])
    chosen = (named or binary or classes)[0]
    answers = _from_columns(train, [chosen], "by its name" if named else "by its values", asked)
    if asked and len(asked) == 1:
        answers.why += f"; the sample's {asked[0]} is no column"
    if len(classes) > 1:
        others = [name for name in classes if name != chosen]
        answers.doubts.append(
            f"the answers could also be in {', '.join(others[:3])}; {chosen} was chosen {answers.why.split(';')[0]}"
        )
    return answers


def _is_01(column):
    return column.isin(["0", "1", "0.0", "1.0"]).all()


def _is_measure(column):
    """Fractions, or very many different numbers."""
    numbers = pd.to_numeric(pd.Series(column.unique()), errors="coerce")
    return bool(numbers.notna().all() and len(numbers) > 2 and ((numbers % 1 != 0).any() or len(numbers) > 200))


def _words(name):
    """Split a column's name: PatientID, patient_id, StudyInstanceUID -> lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
