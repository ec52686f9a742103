"""What a training table's columns mean: which hold the labels, and which groups the images.

Tables hold str. The sample submission's columns decide first, then values and names.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from src.competition.targets import order_classes
from src.errors import listing

_LABEL_WORDS = (
    *("target", "label", "labels", "tags", "class", "category", "answer", "outcome", "diagnosis", "y", "has", "is"),
)
# Best first: what belongs to one patient is most alike.
_GROUP_WORDS = (
    *("patient", "subject", "person", "individual", "participant", "lesion", "case", "slide", "wsi", "specimen"),
    *("study", "exam", "session", "scene", "series", "sequence", "video", "clip", "site", "location", "camera"),
    *("driver", "plant", "group"),
)
_NOT_GROUP_WORDS = ("anatom", "age", "sex", "num", "number", "count", "position")
_NOT_LABEL_WORDS = ("fold", "split", "width", "height", "age", "sex", "gender", "source")
_SEVERAL_WORDS = ("labels", "tags", "attributes", "categories", "classes", "findings", "diagnoses", "genres")
_MOST_CELLS = 200  # that are compared with each other
_MISSING = ("", "NA", "N/A", "NaN", "nan", "<NA>", "null", "NULL")  # as src.competition.targets reads them
_NEGATIVE_WORDS = ("no", "non", "not", "negative", "neg", "normal", "healthy", "benign", "absent", "none", "control")


@dataclass
class LabelColumns:
    """What is predicted, and why; `doubts` are sentences for the user to check."""

    task: str = "binary"
    targets: list[str] = field(default_factory=list)
    label: str | None = None
    separator: str | None = None  # between the labels of a cell
    classes: list[str] = field(default_factory=list)
    are_grades: bool = False  # classes are 0, 1, 2 ..., which may have an order
    missing: str = ""  # how many labels are, in words; empty: none
    why: str = ""
    why_classes: str = ""
    doubts: list[str] = field(default_factory=list)


def find_label_columns(train, asked, free, sample=None):
    """Find the columns that hold the labels.

    Args:
        train: table of str, one row per image.
        asked: the sample submission's columns but for the id; empty when there is no sample.
        free: columns that may hold labels: they name no row or image, and are not in the test table.
        sample: the sample submission, a table of str, whose cells may show several labels.
    """
    known = [name for name in asked if name in train]
    if asked and len(known) == len(asked):
        return _from_columns(train, known, f"the sample asks for {'it' if len(known) == 1 else 'them'}", asked, sample)
    if len(asked) > 1:
        for name in free:
            if classes := match_classes(asked, train[name].unique()):
                why = "its values are the sample's columns"
                return LabelColumns("multiclass", [], name, classes=classes, why=why, why_classes="as in the sample")
    if known:
        found = _from_columns(train, known, "the sample asks for them", known)
        missing = [name for name in asked if name not in train]
        found.doubts.append(f"the sample also asks for {', '.join(missing[:3])}: no such training column")
        return found
    return _from_values(train, free, asked, sample)


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


def describe_classes(labels, asked, shown=()):
    """Return the LabelColumns of a column of class names: task and sequence of classes, each with its reason.

    Args:
        labels: the distinct class names.
        asked: the sample submission's columns but for the id.
        shown: the sample submission's cells of the one that is asked for.
    """
    classes, doubts = order_classes(labels), []
    if len(asked) > 1:
        if matched := match_classes(asked, classes):
            return LabelColumns("multiclass", classes=matched, why_classes="as in the sample")
        columns = ", ".join(asked[:3])
        doubts.append(f"the sample's columns ({columns} ...) are not the classes ({', '.join(classes[:3])})")
        return LabelColumns("multiclass", classes=classes, why_classes="sorted", doubts=doubts)
    is_name = set(shown) <= set(classes) and not {one.lower() for one in shown} <= {"0", "1", "true", "false"}
    if len(classes) > 2 or is_name:
        why = "sorted; the sample asks for a name, no probability" if is_name else "sorted"
        return LabelColumns("multiclass", classes=classes, why_classes=why, doubts=doubts)
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


def several_labels(labels, found):
    """Return the LabelColumns of a column whose cells hold several labels, joined by |."""
    classes, why = order_classes(labels), "rows of one image have several"
    kind = {"label": found.label, "separator": "|", "doubts": found.doubts}
    return LabelColumns("multilabel", **kind, classes=classes, why=why, why_classes="sorted")


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


def _from_columns(train, columns, why, asked, sample=None):
    """Return the LabelColumns of these columns: 0/1 each, or one of class names."""
    numbers, missing = train[columns].apply(pd.to_numeric, errors="coerce"), _is_missing(train[columns])
    if len(columns) == 1 and (numbers.isin([0, 1]) | missing).all(axis=None) and not missing.all(axis=None):
        found = LabelColumns("binary", columns, why=f"{why}; 0/1, {100 * numbers.mean().iloc[0]:.1f} % are 1")
        return _note_missing(found, train[columns], missing)
    shown = {} if sample is None else sample
    if measures := [name for name in columns if _is_measure(train[name][~missing[name]], shown.get(name, ()))]:
        known, outside = numbers[~missing], not ((numbers >= 0) & (numbers <= 1) | missing).all(axis=None)
        if (numbers.notna() | missing).all(axis=None) and (outside or len(columns) == 1):
            name, span = measures[0], f"from {known[measures[0]].min():g} to {known[measures[0]].max():g}"
            reason = f"{why}; {name} holds {known[name].nunique()} numbers {span}"
            return _note_missing(LabelColumns("regression", columns, why=reason), train[columns], missing)
    if len(columns) > 1:
        if ((numbers.sum(axis=1) - 1).abs() < 1e-3)[~missing.any(axis=1)].all() and not missing.all(axis=None):
            found = LabelColumns("multiclass", columns, why=f"{why}; every row sums to 1")
        else:
            found = LabelColumns("multilabel", columns, why=f"{why}; rows have none or several")
        for name in numbers.columns[~(((numbers >= 0) & (numbers <= 1)) | missing).all()]:
            found.doubts.append(f"column {name} holds other values than 0 to 1; correct it, or leave it out of targets")
        return _note_missing(found, train[columns], missing)
    name, labels = columns[0], train[columns[0]]
    shown = sample[name] if sample is not None and name in sample else ()
    separator, reason, doubt = find_separator(labels, name, shown)
    missing = _is_missing(labels.to_frame())
    known = labels[~missing.iloc[:, 0]]
    if separator:
        classes = order_classes({part for cell in known for part in split_cell(cell, separator)})
        matched = match_classes(asked, classes) if len(asked) > 1 else []
        classes, kind = matched or classes, {"label": name, "separator": separator}
        found = LabelColumns("multilabel", **kind, classes=classes, why=f"{why}; {reason}", why_classes="sorted")
        found.doubts += [doubt] * bool(doubt)
        return _note_missing(found, labels.to_frame(), missing & (labels != "").to_frame())
    found = describe_classes(set(known), asked, set(shown))
    found.label, found.why = name, f"{why}; {known.nunique()} class names"
    found.doubts += [doubt] * bool(doubt)
    is_graded = found.classes == [str(grade) for grade in range(len(found.classes))] and len(found.classes) > 2
    found.are_grades = is_graded and len(asked) < 2
    return _note_missing(found, labels.to_frame(), missing)


def _is_missing(cells):
    return cells.isin(_MISSING)


def _note_missing(found, cells, missing):
    """Record how many labels are missing, and how they are written."""
    if count := int(missing.to_numpy().sum()):
        words = sorted(set(cells.to_numpy()[missing.to_numpy()]))
        shown = listing([repr(one) if one else "an empty cell" for one in words], 3)
        rows = f"in {int(missing.any(axis=1).sum())} of {len(cells)} rows"
        found.missing = f"{count} labels are missing ({shown}) {rows}"
        by_cell = found.task in ("multilabel", "regression") and not found.label and cells.shape[1] > 1
        what = "such cells count for nothing" if by_cell else "such rows are left out of training"
        if found.label and any(words):
            what += f"; if {words[-1]!r} is a class, add it to competition.classes"
        found.doubts.append(f"{found.missing}: {what}")
    return found


def split_cell(cell, separator):
    """Return the labels of a cell."""
    return [part.strip() for part in cell.split(separator.strip() or separator) if part.strip()]


def find_separator(labels, name, shown=()):
    """Find the text between the labels of a cell, where its cells hold several.

    A blank may as well be a part of a class name (golden retriever), so that proof is asked for.

    Args:
        labels: the column's cells.
        shown: the sample submission's cells of that column.

    Returns: (separator or None, reason, a doubt or None).
    """
    cells = sorted({cell.strip() for cell in set(labels)} - {""})
    for sign in "|;, ":
        parts = {cell: split_cell(cell, sign) for cell in cells}
        several = {cell: one for cell, one in parts.items() if len(one) > 1}
        if not several:
            continue
        counts, alone = Counter(part for one in parts.values() for part in set(one)), set(cells) - set(several)
        first = next(iter(several))
        composed = [cell for cell, one in several.items() if set(one) <= alone]
        lengths = {len(one) for one in parts.values()}
        unseen = [one for cell in set(shown) if len(one := split_cell(cell, sign)) > 1 and cell not in parts]
        is_named = bool(set(_words(name)) & set(_SEVERAL_WORDS)) and len(counts) <= len(cells) + 1
        is_sure = (
            len({frozenset(one) for one in several.values()}) < len(set(map(tuple, several.values())))  # in any order
            or any(set(one) <= set(counts) for one in unseen)  # the sample joins them as no training row does
            or all(part.isdigit() for part in counts)
            or 2 * len(composed) >= len(several)  # their labels stand alone, too
            or (len(lengths) > 2 and len(cells) >= 2 * len(counts))
            or (sign in "|;" and composed)
        )
        chance = "if these are single class names, set competition.separator=null and competition.task=multiclass"
        if is_sure or is_named:
            separator = sign if sign == " " or any(sign + " " not in cell for cell in several) else sign + " "
            reason = f"{len(counts)} labels, several in a cell, between them {separator!r} (as in {first!r})"
            doubt = f"the cells of {name} are read as several labels ({first!r}); {chance}"
            return separator, reason, None if is_sure else doubt
        some = [set(one) for one in several.values()][:_MOST_CELLS]
        is_nested = sum(one < other for one in some for other in some) > 1
        if composed or is_nested or (sign != " " and max(counts.values()) > 1):
            setting = f"competition.separator={sign!r} competition.task=multilabel competition.classes=[]"
            doubt = f"{name} may hold several labels in a cell ({(composed or [first])[0]!r}); if so, set {setting}"
            return None, "", doubt
    return None, "", None


def _may_be_label(cells, name):
    """Whether a column has few values, or its cells hold few labels in many ways."""
    cells = cells[~cells.isin(_MISSING)]
    if 2 <= cells.nunique() <= len(cells) / 2:
        return True
    if not len(cells):
        return False
    cells = cells.iloc[:: -(-len(cells) // (100 * _MOST_CELLS))]
    separator = find_separator(cells, name)[0]
    return bool(separator) and len({part for cell in cells for part in split_cell(cell, separator)}) <= len(cells) / 2


def find_stems(ids, labels):
    """Find the stem that ids of one patient or scene share (123_left, 123_right).

    labels: what each row is labelled with; stems that are the labels themselves group nothing.

    Returns: (a regular expression whose first group is the stem, reason), or None.
    """
    ids = ids.str.replace(r"\.[A-Za-z]{3,4}$", "", regex=True)
    sides = "(left|right|Left|Right|LEFT|RIGHT|OD|OS|L|R)"
    for sign, form in (("_", "(.+)_([^_]+)"), ("-", "(.+)-([^-]+)"), ("", f"(.*[0-9])()?{sides}")):
        parts = ids.str.extract(f"^{form}$")
        stems, ends = parts[0], parts.iloc[:, -1]
        if stems.isna().any():
            continue
        kinds = sorted(set(ends))
        if len(kinds) <= min(20, 0.2 * len(ids)) and (why := _describe_stems(ids, stems, labels)):
            words = "|".join(map(re.escape, kinds)) if len(kinds) <= 6 else "[^_-]+"
            return f"re:^(.+){sign}({words})", why
    numbered = "([^/]*[A-Za-z]-?[0-9]+)(?:[_-][A-Za-z]+)?(?:[_-][0-9]+)+"  # person7_virus_12, IM-0115-0001
    stems = ids.str.extract(f"{numbered}$")[0]
    if not stems.isna().any() and (why := _describe_stems(ids, stems, labels)):
        return f"re:{numbered}(?:[.]|$)", why
    for depth in (3, 2, 1):  # of folders: a patient's, with one of each study below it
        form = f"^(.+)(?:/[^/]+){{{depth}}}$"
        stems = ids.str.extract(form)[0]
        if not stems.isna().any() and (why := _describe_stems(ids, stems, labels)):
            return f"re:{form}", why
    return None


def _describe_stems(ids, stems, labels):
    """Return how many ids share their stem, in words; "" where few do, or stems are classes or mere parts of a list."""
    sizes = stems.value_counts()
    is_many = len(sizes) >= 5 and sizes[sizes > 1].sum() >= 0.5 * len(ids) and sizes.max() <= max(20, 0.02 * len(ids))
    is_class = len(sizes) <= 2 * len(set(labels)) and labels.groupby(stems).nunique().max() == 1
    if not is_many or is_class:
        return ""
    shown = listing(ids[stems == sizes.index[0]], 2)
    return f"{sizes[sizes > 1].sum()} of {len(ids)} ids begin alike, as {shown}"


def _from_values(train, free, asked, sample):
    """Choose by names and values, as no sample column is a training column."""
    classes = [name for name in free if _may_be_label(train[name], name) and not _is_measure(train[name])]
    classes = [name for name in classes if not set(_words(name)) & {*_GROUP_WORDS, *_NOT_LABEL_WORDS}]
    binary = [name for name in classes if _is_01(train[name])]
    named = [name for name in classes if set(_words(name)) & set(_LABEL_WORDS)]
    named.sort(key=lambda name: min(_LABEL_WORDS.index(word) for word in _words(name) if word in _LABEL_WORDS))
    is_one = train[binary].apply(pd.to_numeric, errors="coerce").sum(axis=1) == 1
    if len(asked) != 1 and len(binary) > 1 and is_one.all():
        return _from_columns(train, binary, "by their values", asked)
    if len(asked) != 1 and len(binary) > 1 and not named:
        return _from_columns(train, binary, "all the 0/1 columns", asked)
    if not classes:
        return LabelColumns(doubts=["no column looks like a label; set targets (0/1) or label (class names)"])
    chosen = (named or binary or classes)[0]
    found = _from_columns(train, [chosen], "by its name" if named else "by its values", asked, sample)
    if asked and len(asked) == 1:
        found.why += f"; the sample's {asked[0]} is no column"
    if len(classes) > 1:
        others = [name for name in classes if name != chosen]
        reason = f"{chosen} was chosen {found.why.split(';')[0]}"
        found.doubts.append(f"the labels could also be in {', '.join(others[:3])}; {reason}")
    return found


def _is_01(column):
    is_missing = _is_missing(column.to_frame()).iloc[:, 0]
    known = column[~is_missing]
    return known.isin(["0", "1", "0.0", "1.0"]).all() and known.nunique() > 1


def _is_measure(column, shown=()):
    """Fractions, there or in the sample's cells `shown`, or very many different numbers."""
    numbers, shown = (pd.to_numeric(pd.Series(pd.unique(one)), errors="coerce") for one in (column, pd.Series(shown)))
    has_fractions = any(one.notna().all() and (one % 1 != 0).any() for one in (numbers, shown))
    return bool(numbers.notna().all() and len(numbers) > 2 and (has_fractions or len(numbers) > 200))


def _words(name):
    """Split a column's name: PatientID, patient_id, StudyInstanceUID -> lower-case words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
