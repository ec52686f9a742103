"""Tables in another form than a CSV with a header: JSON, lists of files in text, parts, rows of both roles."""

import json
import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pandas as pd

from src.competition.image_files import IMAGE_SUFFIXES
from tools.adopt.patterns import roles

_SPLIT_WORDS = {
    **{"train": ("train", "training"), "test": ("test", "testing")},
    "val": ("val", "valid", "validation", "dev"),
}


def add_header(table):
    """Return a table whose header is its first row, the name of an image among it, with a header; None of others."""
    if not any(name.lower().endswith(IMAGE_SUFFIXES) for name in table):
        return None
    values = pd.DataFrame([["" if re.fullmatch(r"Unnamed: \d+", one) else one for one in table]], columns=table.columns)
    rows = pd.concat([values, table], ignore_index=True)
    is_image = [name.lower().endswith(IMAGE_SUFFIXES) for name in table]
    names, others = [], len(is_image) - sum(is_image)
    for number, one in enumerate(is_image):
        names.append(f"image_{number}" if one and sum(is_image) > 1 else "image" if one else f"column_{number}")
    return rows.set_axis(["label" if others == 1 and name.startswith("column_") else name for name in names], axis=1)


def read_json(path):
    """Read {file: label}, a list of records, columns, or COCO's images, annotations and categories; None of others."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if isinstance(content, dict) and {"images", "annotations"} <= set(content):
            return _read_coco(content)
        if isinstance(content, dict) and content and not any(isinstance(one, dict | list) for one in content.values()):
            return _as_text(pd.DataFrame({"image": list(content), "label": list(content.values())}))
        return _as_text(pd.DataFrame(content)) if isinstance(content, dict | list) and content else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _read_coco(content):
    """Return a row per annotation: its image's file_name, its category's name, its box if it has one."""
    files = pd.DataFrame(content["images"])[["id", "file_name"]].rename(columns={"id": "image_id"})
    rows = pd.DataFrame(content["annotations"]).merge(files, on="image_id")
    names = {one["id"]: one["name"] for one in content.get("categories", ())}
    labels = [names.get(one, one) for one in rows["category_id"]]
    found = pd.DataFrame({"image": rows["file_name"], "label": labels})
    return _as_text(found.assign(bbox=rows["bbox"]) if "bbox" in rows else found)


def _as_text(table):
    return table.map(lambda one: "" if one is None or one is pd.NA or one != one else str(one)).rename(columns=str)


def read_lists(folder, paths):
    """Read text files whose lines name images: with a label each, or several files that are named after the labels.

    Returns: {path: table of image and label}; of several files the path of the first.
    """
    found, named = {}, defaultdict(dict)
    for path in paths:
        try:
            lines = (Path(folder) / path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        rows = [re.split(r"[\t,; ]+", line.strip()) for line in lines if line.strip()]
        if not rows or not all(one[0].lower().endswith(IMAGE_SUFFIXES) and len(one) <= 2 for one in rows):
            continue
        if all(len(one) == 2 for one in rows):
            found[path] = pd.DataFrame(rows, columns=["image", "label"])
        elif all(len(one) == 1 for one in rows) and not roles(PurePosixPath(path).name):
            named[PurePosixPath(path).parent][path] = [one[0] for one in rows]
    for lists in named.values():
        if len(lists) > 1:
            rows = [(image, PurePosixPath(path).stem) for path, files in lists.items() for image in files]
            found[next(iter(lists))] = pd.DataFrame(rows, columns=["image", "label"])
    return found


def find_annotations(folder, paths):
    """Return sentences on text and XML files that hold the boxes of an image each: YOLO's and VOC's."""
    sentences = []
    for suffix, holds_boxes in ((".txt", _is_yolo), (".xml", lambda text: "<bndbox>" in text)):
        for path in [path for path in paths if path.lower().endswith(suffix)][:20]:
            with suppress(OSError, UnicodeDecodeError):
                if holds_boxes((Path(folder) / path).read_text(encoding="utf-8-sig")):
                    sentences.append(f"{path} and others like it are of object detection: the boxes of an image each")
                    break
    return sentences


def _is_yolo(text):
    lines = [line.split() for line in text.splitlines()[:100]]
    return bool(lines) and all(len(one) >= 5 and all(re.fullmatch(r"[\d.]+", word) for word in one) for one in lines)


def join_parts(tables):
    """Join tables that are parts of one: of the same columns, named alike but for a number, with no row in common.

    Returns: [(path of the first, joined table, paths of the others)].
    """
    alike, joined = defaultdict(list), []
    for path, table in tables.items():
        if re.search(r"\d", PurePosixPath(path).stem):
            alike[re.sub(r"\d+", "#", path), tuple(table.columns)].append(path)
    for paths in (paths for paths in alike.values() if len(paths) > 1):
        whole = pd.concat([tables[path] for path in sorted(paths)], ignore_index=True)
        if whole.iloc[:, 0].is_unique:
            joined.append((sorted(paths)[0], whole, sorted(paths)[1:]))
    return joined


def find_split(table):
    """Find the column that says which rows are for training and which for testing.

    Returns: (column, (N,) bool: for testing), or None.
    """
    for name in table:
        values = set(table[name].str.strip().str.lower())
        kinds = {kind for kind, words in _SPLIT_WORDS.items() if values & set(words)}
        if {"train", "test"} <= kinds and values <= {word for words in _SPLIT_WORDS.values() for word in words}:
            return name, table[name].str.strip().str.lower().isin(_SPLIT_WORDS["test"])
    return None
