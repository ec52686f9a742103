"""Findings, classes, facts and images -> doctor.html: one file that needs no network."""

import numpy as np
from markupsafe import Markup

from src.data.decode import decode_image, resize_image
from src.data.inspection import tile_images
from src.errors import UserError
from src.files import save_text
from tools.doctor.classes import count_ranges, describe_label, list_classes
from tools.doctor.findings import SEVERITIES
from tools.page import image_url, render

_SIDE = 160  # pixels of an image's longer side; smaller ones keep their size
_MOST_BYTES = 3_500_000  # of all images on the page
_NUM_SIZES = 8  # in the table


def save_page(path, data, findings, facts, advice):
    """Write the page.

    Args:
        data: CompetitionData.
        findings: list of findings.Finding, as they follow on the page.
        facts: list of findings.Fact.
        advice: (sentence, command) of `advice.advise`.
    """
    classes, left_out = list_classes(data)
    rows = {row for one in findings for group in one.images for row in group}
    rows |= {row for one in classes for row in one.rows}
    page = render(
        "doctor/report.html.jinja",
        name=data.config.competition.name,
        counts={severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES},
        overview=_summarize(data, classes),
        findings=findings,
        classes=classes,
        left_out=left_out,
        ranges=count_ranges(data),
        sizes=(sizes := count_sizes(data)),
        size_plot=draw_sizes(data) if len(sizes) > _NUM_SIZES else "",
        facts=facts,
        find_text=find_text,
        images=draw_images(data, sorted(rows)),
        advice=advice,
    )
    save_text(path, page)


def find_text(table):
    """Return the class of each column of a Fact's table: text, or that of numbers, "", which are set to the right."""
    columns = [filter(None, column) for column in zip(*table[1:], strict=True)]
    return [
        "text" if any(" " in cell or not cell.lstrip("-")[:1].isdigit() for cell in column) else ""
        for column in columns
    ]


def draw_images(data, rows, most_bytes=_MOST_BYTES):
    """Return {row: {"name", "label", "source": data URL, "is_small"}} of rows of the scan.

    They are drawn smaller where they would take more than most_bytes.
    """
    pixels, side = {row: _load(data, row) for row in rows}, _SIDE
    urls = {row: image_url(image, side) for row, image in pixels.items()}
    while sum(map(len, urls.values())) > most_bytes and side > 16:
        side //= 2
        urls = {row: image_url(image, side) for row, image in pixels.items()}
    names = data.names
    return {
        row: {
            "name": names[row],
            "label": describe_label(data, row),
            "fold": _find_fold(data, row),
            "source": url,
            "is_small": max(pixels[row].shape) <= 64,
        }
        for row, url in urls.items()
    }


def count_sizes(data):
    """Return [(size, train images, test images, share of all)] of the most frequent sizes, and of all others."""
    read = np.flatnonzero(data.scan.is_read)
    if not len(read):
        return []
    sizes = np.stack([data.scan.widths[read], data.scan.heights[read]], axis=1)
    sizes, of, counts = np.unique(sizes, axis=0, return_inverse=True, return_counts=True)
    test = np.bincount(of.ravel(), weights=data.is_test[read], minlength=len(sizes)).astype(int)
    order = np.argsort(-counts, kind="stable")
    rows = [
        (f"{sizes[one][0]} x {sizes[one][1]}", int(counts[one] - test[one]), int(test[one]), counts[one] / len(read))
        for one in order[:_NUM_SIZES]
    ]
    if len(rest := order[_NUM_SIZES:]):
        total, num_test = int(counts[rest].sum()), int(test[rest].sum())
        rows.append((f"{len(rest)} other sizes", total - num_test, num_test, total / len(read)))
    return rows


def draw_sizes(data):
    """Return the sizes of all images as the text of an SVG."""
    from src.analysis import figures  # here, since matplotlib takes a second and most images have few sizes

    read = data.scan.is_read
    figure = figures.draw_sizes(data.scan.widths[read], data.scan.heights[read], data.is_test[read])
    return Markup(figures.save_svg(figure))


def _summarize(data, classes):
    """Return {word: value} of the competition."""
    competition, table = data.config.competition, data.train
    words = {"training images": f"{data.num_train:,}", "test images": f"{np.count_nonzero(data.is_test):,}"}
    if table is not None and table.targets is not None:
        words["task"] = f"{competition.task}, {competition.metric}"
        counts = table.positives.sum(axis=0)
        if competition.task == "regression":
            words["columns"] = len(table.target_names)
        elif len(counts) > 1:
            words["classes"] = f"{len(counts):,}"
            words["images per class"] = f"{counts.min():,} to {counts.max():,}"
        else:
            words["positives"] = f"{counts[0] / len(table):.1%}"
        if table.groups is not None:
            words["groups"] = f"{len(np.unique(table.groups)):,}"
    if data.folds is not None:
        words["folds"] = int(data.folds.max()) + 1
    read = data.scan.is_read
    if read.any():
        words["median size"] = f"{np.median(data.scan.widths[read]):.0f} x {np.median(data.scan.heights[read]):.0f}"
    return words


def _find_fold(data, row):
    return None if data.folds is None or data.is_test[row] else int(data.folds[row])


def _load(data, row):
    """Return the pixels of an image of the scan, uint8 (H, W, 1 or 3), at most _SIDE a side."""
    channels, image = data.config.competition.channels, data.scan.thumbnails[row][..., None]
    if channels in (1, 3):
        try:
            pixels = decode_image(str(data.scan.paths[row]), data.config.competition, (_SIDE, _SIDE))
            pixels = tile_images(pixels, channels)
            image = pixels if pixels.dtype == np.uint8 else image
        except UserError:  # an unreadable image is shown by its empty thumbnail
            pass
    if (scale := _SIDE / max(image.shape[:2])) < 1:
        image = resize_image(image, tuple(max(1, round(side * scale)) for side in image.shape[:2]))
    return image
