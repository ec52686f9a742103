"""Recognises a Kaggle-style folder: decides every key of a competition file, each with its reason.

The tables decide first; without one that leads to the images, folder or file names hold the labels.
"""

import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from src.competition.image_files import IMAGE_SUFFIXES
from src.competition.metadata import fit_encoding
from src.competition.tables import is_count
from src.config.settings import Competition
from src.errors import UserError, listing
from tools.adopt.columns import describe_classes, find_group, find_label_columns, find_stems, several_labels
from tools.adopt.corrections import (
    average_targets,
    describe_boxes,
    drop_repeats,
    empty_unknown,
    find_boxes,
    join_labels,
    signs_to_zeros,
    take_test_rows,
)
from tools.adopt.folder import Files, scan, unpack_command
from tools.adopt.images import choose_channels, choose_image_size, count_bits_in_use, read_headers
from tools.adopt.patterns import DICOM_SUFFIXES, Match, any_image, find_siblings, match_column, match_labels, roles
from tools.adopt.readers import find_annotations
from tools.adopt.several import decide_several
from tools.adopt.tables import (
    choose_test,
    choose_train,
    find_sample_key,
    is_key,
    join_all,
    match_table,
    read_others,
    read_tables,
    refine,
    spread,
    take_sample,
    take_solution,
)

_NUM_IMAGES = 50  # whose headers are read


@dataclass
class Layout:
    """What was decided: {dotted setting: (value, reason)}; and `doubts`, sentences for the user to check."""

    files: Files
    settings: dict[str, tuple] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # columns that competition.metadata can name
    folder: object = ""
    output: Path = Path()
    copies: dict[Path, object] = field(default_factory=dict)  # path -> corrected table, to be written there
    blanks: dict[tuple, str] = field(default_factory=dict)  # (path, column) -> sentence on its outer blanks
    notes: dict[str, list] = field(default_factory=lambda: defaultdict(list))  # path of a table -> what was corrected

    def decide(self, key, value, why):
        """Record a setting of the competition group."""
        self.settings[f"competition.{key}"] = (value, why)

    def tell_blanks(self, path, columns, read):
        """Say which columns have outer blanks; `read` is the column in the path, if it is no id: it needs a copy."""
        for name in dict.fromkeys(columns):
            if sentence := self.blanks.pop((path, name), None):
                if name == read:
                    self.notes[path].append(f"{sentence}; the copy has none")
                else:
                    self.doubts.append(f"{sentence}, which do not count")

    def decide_table(self, key, path, table, why):
        """Record a table by its path; one that was corrected is copied, and what was done is said."""
        notes = self.notes.pop(path, [])
        if notes:
            path = self.output / f"{key.removesuffix('_table')}.csv"
            self.copies[path] = table
            self.doubts += filter(None, notes)
            path, why = str(path), f"{why}; a corrected copy"
        self.decide(key, path, why)

    def value(self, key):
        """Return what was decided for a setting of the competition group, or None."""
        return self.settings.get(f"competition.{key}", (None,))[0]


def recognise(folder, unpacked=(), output=None):
    """Decide every key of the competition file of `folder`.

    Args:
        unpacked: its archives that were just unpacked.
        output: the folder for corrected copies of tables, which `Layout.copies` holds; None: outputs/adopt/<folder>.

    Raises:
        UserError: nothing to adopt: no such folder, no images, or nothing that labels them.
    """
    output = output or Path("outputs") / "adopt" / Path(folder).name
    layout = Layout(scan(folder), folder=folder, output=Path(output).absolute())
    if not layout.files.images:
        raise UserError(next(iter(layout.files.unread), _no_images(folder, layout.files)))
    tables, layout.doubts, layout.blanks = read_tables(folder, layout.files.tables, layout.notes)
    layout.doubts += layout.files.unread
    sample, solution = take_sample(tables, layout.files.images), take_solution(tables)
    join_all(tables, layout.notes, layout.files.images)
    train_path, match, rivals = choose_train(tables, sample, layout.files.images, layout.notes)
    if train_path is None and (others := read_others(folder, layout.files.texts, layout.notes)):
        train_path, match, rivals = choose_train(others, sample, layout.files.images, layout.notes)
        tables |= others if train_path else {}
    if rivals:
        layout.doubts.append(
            f"{listing(rivals)} could be the training table too, with the same columns as {train_path}"
        )
    layout.decide("root", str(folder).rstrip("/\\") or "/", "the paths below start here")
    if train_path:
        _decide_by_table(layout, tables, sample, train_path, *match)
    else:
        _decide_by_names(layout, tables, sample, folder)
    if solution:
        layout.decide("solution", solution, "the labels of the test rows")
    layout.unused = list(tables)
    count = len(layout.value("classes") or layout.value("targets") or ())
    metric = ("roc_auc", "or average_precision")
    if layout.value("task") == "regression":
        metric = ("rmse", "or mae, r2, spearman; of whole grades quadratic_kappa")
    elif len(sample.asked) == 1 and layout.value("separator"):
        metric = ("fbeta_samples", "the sample asks for a row's labels; or f1_macro, f1_micro")
    elif len(sample.asked) == 1 and (count > 2 or layout.value("task") == "multiclass"):
        why = f"the sample asks for one of {count} classes in its column {sample.asked[0]}"
        metric = ("accuracy", f"{why}; or f1_macro, balanced_accuracy; of grades quadratic_kappa")
    layout.decide("metric", *metric)
    _decide_images(layout, folder)
    for key in ("train_image", "test_image"):
        _name_containers(layout, key)
    packed = [path for path in layout.files.archives if path not in (*unpacked, *layout.files.containers)]
    packed = [path for path in packed if not (Path(folder) / path).with_suffix("").exists()]
    if packed and (layout.doubts or not (layout.value("sample_submission") and layout.value("test_image"))):
        layout.doubts.append(f"still packed: {listing(packed)}; {unpack_command(folder, packed)}")
    return layout


def _name_containers(layout, key):
    """Say of images that are read inside a file which it is."""
    pattern, why = layout.settings.get(f"competition.{key}", ("", ""))
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    inside = [one for one in layout.files.containers if any(pattern.startswith(f"{one}/") for pattern in patterns)]
    if inside:
        layout.decide(key, pattern, f"{why}; read inside {listing(inside)}, which need not be unpacked")


def _decide_by_table(layout, tables, sample, train_path, column, match):
    """Fill the layout when a training table names the images."""
    train, images = tables.pop(train_path), layout.files.images
    row_id = sample.id if sample.id in train else column
    shared = bool(sample.ids) and not any(sample.ids & set(train[name]) for name in train)
    if row_id != column:
        by_id = match_column(spread(train), row_id, images, "train", shared)
        if by_id and by_id.share >= match.share - 0.01:
            column, match = row_id, by_id
    test_path, test = choose_test(tables, sample, [row_id, column])
    split = None if test is not None else take_test_rows(train, row_id, sample)
    if split:
        train, test, sentence = split
        test_path = f"{train_path}, test rows"
        layout.notes[train_path].append(sentence)
        layout.notes[test_path] += [""]
        match = match_column(spread(train), column, images, "train", shared) or match
    train, match = refine(train, column, match, images, "train", shared, layout.notes[train_path])
    train = empty_unknown(signs_to_zeros(train, layout.notes[train_path]), layout.notes[train_path])
    key = None if test is None else find_sample_key(test, sample.ids, train)
    is_grouped = key is not None and ("{" in key or not is_key(test, key))
    row_id = column if is_grouped else row_id
    # A column in the path may be the class folder: it names no row, so it may hold the labels.
    in_path = re.findall(r"\{([^{}\[]+)", " ".join(match.patterns))
    in_path = [name for name in in_path if train[name].nunique() > len(train) / 2]
    taken = {row_id, column, *in_path, *([] if test is None or split else test)}
    free = [name for name in train if name not in taken]
    found = find_label_columns(train, sample.asked, free, sample.table)
    train, found = _keep_one_row(layout, train_path, train, row_id, found, sample)
    layout.tell_blanks(train_path, [row_id, column, found.label], column if column != row_id else None)

    layout.decide_table("train_table", train_path, train, f"{len(train)} rows; {column} leads to the images")
    columns, train_ids = [column, row_id], set(train[row_id])
    suffix = PurePosixPath(match.patterns[0]).suffix.removesuffix(".*")
    test_match = _decide_test_rows(layout, sample, test_path, test, columns, train_ids, suffix)
    why = "names a row in each table" if test is not None or sample.id else "names a row"
    counting = [name for name in train if name not in (row_id, column) and is_count(train[name])]
    layout.decide("id", row_id, f"{why}; {listing(counting)} only counts rows and is left alone" if counting else why)
    if is_grouped:
        count = f"{len(sample.ids)} for {len(test)} test rows"
        layout.decide("predict_by", key, f"what the sample's {sample.id} names: {count}")
        layout.decide("predict_with", "mean", "of the predictions of such rows; or max")
    elif sample.id and sample.id != row_id:
        layout.doubts.append(f"the sample calls {sample.id} what the tables call {row_id}; they are matched by value")
    layout.decide("train_image", match.pattern, _why_pattern(match, images, len(spread(train)), "training", layout))
    layout.doubts += find_siblings(match.pattern, train, spread(train), images)
    layout.doubts += find_other_images(match.pattern, train, row_id, column, images, shared)
    _decide_test_image(layout, *test_match)
    decide_several(layout, train, spread(train), test_match[1])
    _decide_labels(layout, found)
    _decide_group(layout, train, row_id, {row_id, column, found.label, *found.targets}, found)
    taken = {row_id, column, found.label, *found.targets, *in_path, *counting, layout.value("group")}
    layout.beside = find_metadata(train, [] if test is None or split else test, taken)


def find_other_images(pattern, train, row_id, column, images, shared):
    """Return a sentence on further columns that lead to images, others than the one that is read; [] without."""
    rows, found = spread(train), []
    stem = lambda name: rows[name].map(lambda cell: PurePosixPath(cell).stem)  # noqa: E731
    for name in (one for one in rows if f"{{{one}" not in str(pattern) and one not in (row_id, column)):
        if rows[name].nunique() > len(rows) / 2 and (stem(name) != stem(column)).all():
            other = match_column(rows, name, images, "train", shared)
            found += [other.pattern] if other and other.share >= 0.9 and isinstance(other.pattern, str) else []
    reads = f"competition.images=[{pattern}, {', '.join(found)}] with competition.test_image=test/{{id}} reads all"
    return [f"further columns lead to images, which are not read; {reads} (of test rows test for train)"] * bool(found)


def find_metadata(train, test, taken):
    """Return the columns of both tables that competition.metadata takes: numbers or few words, and no ids."""
    found = []
    for name in (one for one in train if one in test and one not in taken):
        with suppress(UserError):
            _, [note] = fit_encoding(train, Competition(metadata=[name]), "")
            found += [] if note.endswith("an id)") else [name]
    return found


def _decide_group(layout, train, row_id, taken, found):
    """Decide the column that groups rows, or the beginning that ids share."""
    group, why = find_group(train, taken)
    columns = [found.label] if found.label else found.targets
    labels = train.groupby(columns, sort=False).ngroup() if columns else train[row_id]
    if group is None:
        _decide_stems(layout, train[row_id], labels, why)
    else:
        layout.decide("group", group, why)


def _decide_stems(layout, ids, labels, why):
    """Decide the beginning that ids share, as a regular expression; why: there is no other group."""
    group = None
    if stems := find_stems(ids, labels) if len(ids) else None:
        group, why = stems
        layout.doubts.append(f"{why}: they stay in one fold; if not of one patient or scene, set group to null")
    layout.decide("group", group, why)


def _keep_one_row(layout, path, train, row_id, found, sample):
    """Return the training table with one row per id, and the LabelColumns of it.

    Raises:
        UserError: the table is of detection: what is asked for is boxes, or a class of each box.
    """
    labels, boxes = [found.label] if found.label else found.targets, find_boxes(train)
    kept, sentences, clashing = drop_repeats(train, row_id, labels)
    num_ids, num_clashing = train[row_id].nunique(), clashing[row_id].nunique()
    is_several = num_clashing > 0.1 * num_ids
    if boxes and (is_several or not labels or find_boxes(sample.asked)):
        advice = "to classify whole images, put a CSV with a row per image and its labels in its place"
        found = f"{path} is of {describe_boxes(boxes)}, {len(train)} rows of {num_ids} images"
        raise UserError(f"{layout.folder}: {found}; {advice}")
    if boxes:
        what = describe_boxes(boxes)
        layout.doubts.append(f"{path} is of {what}, which are not used: whole images are classified")
    if is_several and found.label:
        kept, found = join_labels(train, row_id, found.label), several_labels(train[found.label].unique(), found)
        several = f"{num_clashing} of {num_ids} ids have rows of several labels"
        sentences = [f"{several}: the copy has a row of each id, whose cell holds all, joined by |"]
    elif is_several:
        kept = average_targets(train, row_id, labels)
        sentences = [
            f"{num_clashing} of {num_ids} ids have rows of different targets: the copy has the mean of each id"
        ]
    layout.notes[path] += sentences
    return kept, found


def _decide_by_names(layout, tables, sample, folder):
    """Fill the layout when folder or file names hold the labels."""
    images = layout.files.images
    train = {path: names for path, names in images.items() if "train" in roles(path)}
    train = train or {path: names for path, names in images.items() if not roles(path)}
    found = match_labels(train) if train else None
    if not found or len(found[1]) < 2:
        raise UserError(_no_labels(folder, layout, {**tables, **({sample.path: sample.table} if sample.path else {})}))
    pattern, labels = found
    test_path, test = choose_test(tables, sample, [sample.id, "id"])
    row_id = sample.id or ("id" if test is None else test.columns[0])
    layout.decide("train_table", None, "none: the labels are in the paths")
    test_match = _decide_test_rows(layout, sample, test_path, test, [row_id], set())
    layout.decide("id", row_id, "names a test row; a training row is named by its path")
    why = "a folder per class" if pattern.endswith("/*") else "the label is in the file's name"
    counts = ", ".join(f"{label} {count}" for label, count in labels.most_common(3))
    patterns, val = [pattern], {path: names for path, names in images.items() if "val" in roles(path)}
    if train and (more := match_labels(val) if val else None) and set(more[1]) == set(labels):
        patterns.append(more[0])
        layout.doubts.append(f"{more[1].total()} images in a validation folder are trained on, too: {more[0]}")
    elif left_out := sum(map(len, val.values())):
        layout.doubts.append(f"{left_out} images in a validation folder are left out; move them to the training ones")
    pattern = pattern if len(patterns) == 1 else patterns
    layout.decide("train_image", pattern, f"{why}: {counts}{' ...' if len(labels) > 3 else ''}")
    _decide_test_image(layout, *test_match)
    test_folders = {one.split("/")[0] for one in (test_match[2].patterns if test_match[2] else ())}
    test_folders |= {str(layout.value("test_image")).split("/")[0]}
    beside = {path.split("/")[0] for path in set(images) - set(train)} - test_folders
    if patterns[0].startswith("{label}/") and beside:
        layout.doubts.append(
            f"{listing(sorted(beside))} would count as a class too; move the class folders into a folder train"
        )
    shown = sample.table[sample.asked[0]] if len(sample.asked) == 1 else ()
    found = describe_classes(labels, sample.asked, set(shown))
    found.label, found.why = "label", "read from the paths"
    _decide_labels(layout, found)
    learned = {path: names for path, names in {**train, **val}.items() if path.count("/") == patterns[0].count("/") - 1}
    ids = pd.Series([f"{path}/{name}" for path, names in learned.items() for name in names])
    folders = pd.Series([path for path, names in learned.items() for _ in names])
    _decide_stems(layout, ids, folders, "none: paths name no patient")


def _decide_test_rows(layout, sample, test_path, test, columns, train_ids, suffix=""):
    """Decide the tables of the test rows; return (path, table, Match) of those that `_decide_test_image` needs."""
    images, path, source, match = layout.files.images, test_path or sample.path, test, None
    if source is None and sample.path:
        source = sample.table.drop(columns=sample.asked)
    if source is not None:
        layout.tell_blanks(path, columns, columns[0] if columns[0] != columns[-1] else None)
        if test is None:  # whose id is found by its values
            source = source.rename(columns={sample.id: columns[-1]})
        rows, columns = spread(source), [name for name in dict.fromkeys(columns) if name in source]
        shared = bool(train_ids) and not any(train_ids & set(source[name]) for name in columns)
        matches = [(name, match_column(rows, name, images, "test", shared, suffix)) for name in columns]
        best = max((one for one in matches if one[1]), key=lambda one: round(one[1].share, 2), default=None)
        best = best or match_table(source, images, "test", shared) or ([*columns, sample.id][0], Match("", 0))
        source, match = refine(source, *best, images, "test", shared, layout.notes[path], suffix)
    why = f"{len(test)} rows" if test is not None else "none; the sample has the ids" if sample.path else "none"
    if test is None and layout.notes[path]:
        layout.decide_table("test_table", path, source, f"{len(source)} rows, the sample's")
    else:
        layout.decide_table("test_table", test_path, source, why)
    why = "none: submission.csv gets the test rows as they come"
    if sample.path:
        why = f"{sample.num_rows} rows; asks for {listing(sample.asked, 3)}"
    layout.decide("sample_submission", sample.path, why)
    return path, source, match


def _decide_test_image(layout, path, source, match):
    """Decide where the test images are: by the ids of the test table or the sample, else by their folder's name."""
    images = layout.files.images
    if source is None:
        test = {path: names for path, names in images.items() if "test" in roles(path)}
        if test:
            layout.decide("test_image", any_image(test), "every image in the test folder")
        else:
            missing = "no test images found; training works, infer.py has nothing to predict"
            layout.doubts.append(missing + _name_unread(images, layout.files.others))
        return
    if match.share:
        why = _why_pattern(match, images, len(spread(source)), "test", layout)
        layout.decide("test_image", match.pattern, why)
        return
    train_image = layout.value("train_image")
    train_image = train_image if isinstance(train_image, str) and "image_file" not in train_image else "{label}"
    same = "{label}" not in train_image and re.search("train", train_image, re.IGNORECASE)
    guess = re.sub("train", "test", train_image, count=1) if same else f"test/{{{layout.value('id')}}}"
    layout.decide("test_image", guess, "a guess: no such image is there")
    missing = f"no image for the ids of {path} is there; test_image is a guess"
    layout.doubts.append(missing + _name_unread(images, layout.files.others))


def _name_unread(images, others):
    """Return words on files that may hold the images that are missing, or an empty string."""
    if not others:
        return ""
    suffix = next((PurePosixPath(name).suffix for names in images.values() for name in names), ".png")
    advice = f"write each as a file, test/<id>{suffix}, and adopt again"
    return f"; {listing(others)} may hold them but is not read: {advice}"


def _decide_labels(layout, found):
    if found.label:
        layout.decide("label", found.label, found.why)
        if found.separator:
            layout.decide("separator", found.separator, "between the labels of a cell")
        layout.decide("classes", found.classes, found.why_classes)
    else:
        layout.decide("targets", found.targets, found.why)
    if found.missing:
        layout.decide("missing", "drop", found.missing)
    count = len(found.classes or found.targets)
    meaning = {"binary": "yes or no", "multiclass": f"one of {count}", "multilabel": f"any of {count}"}
    meaning["regression"] = "numbers, predicted as they are"
    if found.are_grades:
        meaning["multiclass"] += "; of grades in order: task=regression with metric=quadratic_kappa"
    layout.decide("task", found.task, meaning[found.task])
    layout.doubts += found.doubts


def _decide_images(layout, folder):
    """Read the headers of some training images; decide channels, size and normalisation."""
    train_image = layout.value("train_image")
    train_image = [train_image] if isinstance(train_image, str) else train_image
    pattern = "|".join(re.sub(r"\\\*|\\\{.*?\\\}", ".*", re.escape(one)) for one in train_image)
    paths = layout.files.paths
    paths = [path for path in paths if re.fullmatch(pattern, path)] or paths
    paths = paths[:: -(-len(paths) // _NUM_IMAGES)]
    if paths[0].lower().endswith(DICOM_SUFFIXES):
        layout.decide("channels", 3, "DICOM grey, repeated to RGB: pretrained networks want it")
        return
    headers = read_headers(folder, paths)
    if headers is None or headers.unreadable:
        first, count = (paths[0], len(paths)) if headers is None else (headers.unreadable[0], len(headers.unreadable))
        layout.doubts.append(f"{count} of {len(paths)} images looked at cannot be read (first: {first})")
    if headers is None:
        return
    if (bits := count_bits_in_use(folder, paths)) < 15:
        layout.decide("bits", bits, "more are not in use in the 16-bit images looked at")
    channels, why = choose_channels(headers)
    if layout.value("channels") is None:  # else it is a file a colour
        layout.decide("channels", channels, why)
    size, why = choose_image_size(headers)
    if size != (224, 224):
        layout.settings["image_size"] = (size[0] if size[0] == size[1] else list(size), why)
    if headers.is_array or layout.value("channels") == 1:
        layout.settings["normalize"] = ("dataset", "their own mean and std: these are not RGB photos")


def _why_pattern(match, images, num_rows, kind, layout):
    """Return the reason for a pattern; rows without an image are doubts."""
    pattern, *more = match.patterns
    reasons = [f"or, for other rows, {listing(more)}"] if more else []
    if "*" in pattern.rpartition("}")[2].removesuffix(".*"):
        reasons.append("a folder per row: of all its files the middle one by name is read")
        if "/*/" in pattern:
            reasons.append("name a series in place of the first * to read its middle slice")
        elif re.search(r"\}/[^*]+/\*", pattern):
            reasons.append("the middle slice of one series; others may lie beside it")
    if pattern.endswith(".*"):
        reasons.append("mixed suffixes")
    if re.search(r"\[\d\]", pattern):
        reasons.append("folders by letters of the id")
    dicom = any(names[0].lower().endswith(DICOM_SUFFIXES) for names in images.values())
    if dicom and not pattern.lower().endswith((*DICOM_SUFFIXES, "*")):
        reasons.append("8-bit images, preferred to the DICOM files")
    if match.share < 1:
        missing = round((1 - match.share) * num_rows)
        where = " or ".join(match.patterns)
        layout.doubts.append(f"{missing} of {num_rows} {kind} rows looked at have no image at {where}")
    count = "all" if match.share == 1 else f"{num_rows - missing} of"
    return "; ".join(reasons) or f"{count} {num_rows} {kind} rows looked at have an image there"


def _no_images(folder, files):
    """The line for a folder without images."""
    if files.archives:
        command = unpack_command(folder, files.archives)
        return f"{folder}: no images yet, only archives ({listing(files.archives)}); unpack them: {command}"
    with os.scandir(folder) as entries:
        found = [*files.tables, *files.others]
        found = listing(found) if found else "other files" if any(entries) else "nothing"
    return f"{folder}: no images (found {found}); unpack the competition's data there ({listing(IMAGE_SUFFIXES, 20)})"


def _no_labels(folder, layout, tables):
    """The line for images that nothing labels: what each table lacks, or holds that is no label of an image."""
    files, reasons = layout.files, list(layout.doubts)
    for path, table in tables.items():
        row = ", ".join(f"{name}={value}" for name, value in list(table.iloc[0].items())[:3])
        if boxes := find_boxes(table):
            reasons.append(f"{path} is of {describe_boxes(boxes)}")
        else:
            reasons.append(f"{path} names none of them (first row: {row})")
    reasons += find_annotations(folder, files.texts)
    line = f"{folder}: nothing labels the {len(files.paths)} images (first: {files.paths[0]}): "
    line += "; ".join(reasons) or "there is no table"
    if files.archives:
        command = unpack_command(folder, files.archives)
        return f"{line}, but there are archives ({listing(files.archives)}); unpack them: {command}"
    return f"{line}; add a CSV with a column of their names and one of labels"
