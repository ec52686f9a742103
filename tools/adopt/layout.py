"""Recognises a Kaggle-style folder: decides every key of a competition file, each with its reason.

The tables decide first; without one that leads to the images, folder or file names hold the labels.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from src.competition.paths import IMAGE_SUFFIXES
from src.errors import UserError, listing
from tools.adopt.columns import describe_classes, find_group, find_label_columns
from tools.adopt.folder import Files, scan, unpack_command
from tools.adopt.images import choose_channels, choose_image_size, read_headers
from tools.adopt.patterns import DICOM_SUFFIXES, any_image, match_column, match_labels, roles
from tools.adopt.tables import choose_test, choose_train, match_table, read_tables, spread, take_sample, take_solution

_NUM_IMAGES = 50  # whose headers are read


@dataclass
class Layout:
    """What was decided: {dotted setting: (value, reason)}; and `doubts`, sentences for the user to check."""

    files: Files
    settings: dict[str, tuple] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def decide(self, key, value, why):
        """Record a setting of the competition group."""
        self.settings[f"competition.{key}"] = (value, why)

    def value(self, key):
        """Return what was decided for a setting of the competition group, or None."""
        return self.settings.get(f"competition.{key}", (None,))[0]


def recognise(folder, unpacked=()):
    """Decide every key of the competition file of `folder`.

    Args:
        unpacked: its archives that were just unpacked.

    Raises:
        UserError: nothing to adopt: no such folder, no images, or nothing that labels them.
    """
    layout = Layout(scan(folder))
    if not layout.files.images:
        raise UserError(_no_images(folder, layout.files))
    tables, layout.doubts = read_tables(folder, layout.files.tables)
    sample, solution = take_sample(tables), take_solution(tables)
    train_path, match, rivals = choose_train(tables, sample, layout.files.images)
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
    layout.decide("metric", "roc_auc", "or average_precision")
    _decide_images(layout, folder)
    packed = [path for path in layout.files.archives if path not in unpacked]
    packed = [path for path in packed if not (Path(folder) / path).with_suffix("").exists()]
    if packed and (layout.doubts or not (layout.value("sample_submission") and layout.value("test_image"))):
        layout.doubts.append(f"still packed: {listing(packed)}; {unpack_command(folder, packed)}")
    return layout


def _decide_by_table(layout, tables, sample, train_path, column, match):
    """Fill the layout when a training table names the images."""
    train, images = tables.pop(train_path), layout.files.images
    row_id = sample.id if sample.id in train else column
    if sample.id and sample.id not in train:
        layout.doubts.append(f"the sample names its rows by {sample.id}, the training table by {column}; rename one")
    if row_id != column:
        by_id = match_column(spread(train), row_id, images, "train")
        if by_id and by_id.share >= match.share - 0.01:
            column, match = row_id, by_id
    test_path, test = choose_test(tables, sample, [row_id, column])

    layout.decide("train_table", train_path, f"{len(train)} rows; {column} leads to the images")
    _decide_test_rows(layout, sample, test_path, test)
    layout.decide("id", row_id, "names a row in each table" if test is not None or sample.id else "names a row")
    layout.decide("train_image", match.pattern, _why_pattern(match, images, len(spread(train)), "training", layout))
    if not train[row_id].is_unique:
        layout.doubts.append(f"{train[row_id].duplicated().sum()} training rows repeat an id; keep one row per image")
    source = test if test is not None else sample.table
    _decide_test_image(layout, source, test_path or sample.path, [column, row_id], set(train[row_id]))

    # A column in the path may be the class folder: it names no row, so it may hold the labels.
    in_path = [name for name in re.findall(r"\{([^{}\[]+)", match.pattern) if train[name].nunique() > len(train) / 2]
    free = [name for name in train if name not in (row_id, column, *in_path, *([] if test is None else test))]
    found = find_label_columns(train, sample.asked, free)
    _decide_labels(layout, found)
    layout.decide("group", *find_group(train, {row_id, column, found.label, *found.targets}))


def _decide_by_names(layout, tables, sample, folder):
    """Fill the layout when folder or file names hold the labels."""
    images = layout.files.images
    train = {path: names for path, names in images.items() if "train" in roles(path)}
    train = train or {path: names for path, names in images.items() if not roles(path)}
    found = match_labels(train) if train else None
    if not found or len(found[1]) < 2:
        raise UserError(_no_labels(folder, layout.files))
    pattern, labels = found
    test_path, test = choose_test(tables, sample, [sample.id, "id"])
    row_id = sample.id or ("id" if test is None else test.columns[0])
    layout.decide("train_table", None, "none: the labels are in the paths")
    _decide_test_rows(layout, sample, test_path, test)
    layout.decide("id", row_id, "names a test row; a training row is named by its path")
    why = "a folder per class" if pattern.endswith("/*") else "the label is in the file's name"
    counts = ", ".join(f"{label} {count}" for label, count in labels.most_common(3))
    layout.decide("train_image", pattern, f"{why}: {counts}{' ...' if len(labels) > 3 else ''}")
    _decide_test_image(layout, test if test is not None else sample.table, test_path or sample.path, [row_id], set())
    test_folder = (layout.value("test_image") or "").split("/")[0]
    beside = {path.split("/")[0] for path in set(images) - set(train)} - {test_folder}
    if pattern.startswith("{label}/") and beside:
        layout.doubts.append(
            f"{listing(sorted(beside))} would count as a class too; move the class folders into a folder train"
        )
    found = describe_classes(labels, sample.asked)
    found.label, found.why = "label", "read from the paths"
    _decide_labels(layout, found)
    layout.decide("group", None, "none: paths name no patient")
    if left_out := sum(len(names) for path, names in images.items() if "val" in roles(path)):
        layout.doubts.append(f"{left_out} images in a validation folder are left out; move them to the training ones")


def _decide_test_rows(layout, sample, test_path, test):
    why = f"{len(test)} rows" if test is not None else "none; the sample has the ids" if sample.path else "none"
    layout.decide("test_table", test_path, why)
    why = "none: submission.csv gets the test rows as they come"
    if sample.path:
        why = f"{len(sample.table)} rows; asks for {listing(sample.asked, 3)}"
    layout.decide("sample_submission", sample.path, why)


def _decide_test_image(layout, source, where, columns, train_ids):
    """Find the test images by the ids of the test table or the sample, else by their folder's name."""
    images = layout.files.images
    if source is None:
        test = {path: names for path, names in images.items() if "test" in roles(path)}
        if test:
            layout.decide("test_image", any_image(test), "every image in the test folder")
        else:
            layout.doubts.append("no test images found; training works, infer.py has nothing to predict")
        return
    rows, columns = spread(source), [name for name in dict.fromkeys(columns) if name in source]
    shared = bool(train_ids) and not any(train_ids & set(source[name]) for name in columns)
    matches = [match for name in columns if (match := match_column(rows, name, images, "test", shared))]
    match = max(matches, key=lambda one: round(one.share, 2), default=None)
    if match is None:
        match = (match_table(source, images, "test", shared) or (None, None))[1]
    if match:
        layout.decide("test_image", match.pattern, _why_pattern(match, images, len(rows), "test", layout))
        return
    train_image = layout.value("train_image")
    same = "{label}" not in train_image and re.search("train", train_image, re.IGNORECASE)
    guess = re.sub("train", "test", train_image, count=1) if same else f"test/{{{layout.value('id')}}}"
    layout.decide("test_image", guess, "a guess: no such image is there")
    layout.doubts.append(f"no image for the ids of {where} is there; test_image is a guess")


def _decide_labels(layout, found):
    if found.label:
        layout.decide("label", found.label, found.why)
        layout.decide("classes", found.classes, found.why_classes)
    else:
        layout.decide("targets", found.targets, found.why)
    count = len(found.classes or found.targets)
    meaning = {"binary": "yes or no", "multiclass": f"one of {count}", "multilabel": f"any of {count}"}
    layout.decide("task", found.task, meaning[found.task])
    layout.doubts += found.doubts


def _decide_images(layout, folder):
    """Read the headers of some training images; decide channels, size and normalisation."""
    train_image = layout.value("train_image")
    pattern = re.sub(r"\\\*|\\\{.*?\\\}", ".*", re.escape(train_image))
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
    channels, why = choose_channels(headers)
    layout.decide("channels", channels, why)
    size, why = choose_image_size(headers)
    if size != (224, 224):
        layout.settings["image_size"] = (size[0] if size[0] == size[1] else list(size), why)
    if headers.is_array or channels == 1:
        layout.settings["normalize"] = ("dataset", "their own mean and std: these are not RGB photos")


def _why_pattern(match, images, num_rows, kind, layout):
    """Return the reason for a pattern; padded names and rows without an image are doubts."""
    pattern, reasons = match.pattern, []
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
    if match.padding:
        layout.doubts.append(
            f"the names of the {kind} images are padded with zeros to {match.padding} digits, the ids are not: "
            "rewrite the column in the tables with zeros"
        )
    if match.share < 1:
        missing = round((1 - match.share) * num_rows)
        layout.doubts.append(f"{missing} of {num_rows} {kind} rows looked at have no image at {pattern}")
    return "; ".join(reasons) or f"all {num_rows} {kind} rows looked at have an image there"


def _no_images(folder, files):
    """The line for a folder without images."""
    if files.archives:
        command = unpack_command(folder, files.archives)
        return f"{folder}: no images yet, only archives ({listing(files.archives)}); unpack them: {command}"
    with os.scandir(folder) as entries:
        found = listing(files.tables) if files.tables else "other files" if any(entries) else "nothing"
    return f"{folder}: no images (found {found}); unpack the competition's data there ({listing(IMAGE_SUFFIXES, 20)})"


def _no_labels(folder, files):
    """The line for images that nothing labels."""
    first, count, tables = files.paths[0], len(files.paths), listing(files.tables) if files.tables else "no table"
    line = f"{folder}: nothing labels the {count} images (first: {first}; {tables})"
    if files.archives:
        command = unpack_command(folder, files.archives)
        return f"{line}, but there are archives ({listing(files.archives)}); unpack them: {command}"
    return f"{line}; add a CSV with a column of their names and one of labels"
