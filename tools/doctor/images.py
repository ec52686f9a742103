"""Images that cannot be read, are blank, or are of another size or kind than the rest."""

import numpy as np

from src.data.cache import is_worth_building
from src.errors import UserError
from src.training.learner import build_augmentations, count_reads
from tools.doctor.findings import Fact, Finding, name_rows

_NOISE = 0.01  # share of what half of the 8-bit pictures span, by which compression alters one that shows nothing
_ROUNDING = 1e-6  # share of its largest value, by which an array of float32 varies that shows nothing
_USUAL = 0.9  # share of images that are alike, above which the others are odd
_FAR = 4.0  # times larger or smaller than the median side
_SHOWN = 12  # pictures of odd images on the page
_LISTED = 6  # sizes and kinds that the facts list


def check_images(case):
    """Return (findings, facts) about single images of a `case.Case`."""
    scan, names = case.scan, case.names
    findings = list(_find_unreadable(scan, names, case.config.unreadable))
    read = np.flatnonzero(scan.is_read)
    if len(read):
        findings += [
            *_find_blank(scan, names),
            *_find_odd_sizes(scan, names, read),
            *_find_odd_kinds(scan, names, read[scan.is_uint8[read]]),
            *_find_mixed_types(case, read),
        ]
    return findings, [_describe(case, read)] if len(read) else []


def is_blank(scan):
    """Return (N,) bool: images that show nothing; they all look alike, so they are not compared with others.

    Arrays of float32 are measured by themselves alone: their numbers may be of any scale, and of another in each.
    """
    spans = (scan.highs - scan.lows)[scan.is_read & scan.is_uint8]
    noise = _NOISE * np.median(spans) if len(spans) else 0.0
    rounding = _ROUNDING * np.maximum(np.abs(scan.lows), np.abs(scan.highs))
    return scan.is_read & (scan.stds <= np.where(scan.is_uint8, noise, rounding))


def _find_unreadable(scan, names, unreadable):
    if not scan.reasons:
        return
    reasons = {row: reason if scan.num_bytes[row] else "empty file" for row, reason in sorted(scan.reasons.items())}
    empty = sum(reason == "empty file" for reason in reasons.values())
    title = f"{len(reasons)} of {len(scan)} images cannot be decoded"
    named = [f"{names[row]}: {reason}" for row, reason in reasons.items()]
    yield Finding(
        "error" if unreadable == "error" else "warning",
        title + (f", {empty} of them empty files" if empty else ""),
        "copy them again from the source, or set unreadable=skip to train without them",
        **name_rows(named, range(len(named))),
    )


def _find_blank(scan, names):
    rows = np.flatnonzero(is_blank(scan))
    if len(rows):
        yield Finding(
            "warning",
            f"{len(rows)} of {len(scan)} images are blank: one shade all over",
            "look at them; if the answer cannot be seen in them, remove their rows from training",
            **name_rows(names, rows),
            pictures=_alone(rows),
        )


def _find_odd_sizes(scan, names, read):
    sizes, of, counts = np.unique(_pack_sizes(scan, read), return_inverse=True, return_counts=True)
    usual = counts.argmax()
    if len(sizes) > 1 and counts[usual] >= _USUAL * len(read):
        rows = read[of != usual]
        title = f"{len(rows)} of {len(read)} images are not {_name_size(sizes[usual])} as the others are"
    else:
        is_far, heights, widths = np.zeros(len(read), bool), scan.heights[read], scan.widths[read]
        for side in (np.log(heights), np.log(widths), np.log(heights / widths)):
            is_far |= np.abs(side - np.median(side)) > np.log(_FAR)
        rows = read[is_far]
        title = f"{len(rows)} of {len(read)} images are over {_FAR:g} times larger or smaller than the median"
    if len(rows):
        named = [f"{names[row]} {scan.widths[row]}x{scan.heights[row]}" for row in rows]
        yield Finding(
            "warning",
            title,
            "look at them: a crop, a collage or a thumbnail is stretched to image_size like the rest",
            **name_rows(named, range(len(named))),
            pictures=_alone(rows),
        )


def _find_odd_kinds(scan, names, read):
    """Look at 8-bit pictures: arrays of any other type are all read as float32, without a change of their numbers."""
    kinds, of, counts = np.unique(scan.kinds[read], return_inverse=True, return_counts=True)
    if len(kinds) > 1 and counts.max() >= _USUAL * len(read):
        usual = counts.argmax()
        rows = read[of != usual]
        named = [f"{names[row]} {scan.kinds[row]}" for row in rows]
        yield Finding(
            "warning",
            f"{len(rows)} of {len(read)} images are of another kind than {kinds[usual]}",
            "look at them: transparency is dropped and colours are converted, which may leave something else than "
            "the picture",
            **name_rows(named, range(len(named))),
            pictures=_alone(rows),
        )


def _find_mixed_types(case, read):
    is_uint8 = case.scan.is_uint8[read]
    is_usual_uint8 = is_uint8.mean() > 0.5
    rows = read[is_uint8 != is_usual_uint8]
    if not len(rows):
        return
    rare, usual = ("float32", "uint8") if is_usual_uint8 else ("uint8", "float32")
    stops = _stops_at_mixed_types(case, read)
    yield Finding(
        "error" if stops else "warning",
        f"{len(rows)} of {len(read)} images are read as {rare}, the others as {usual}",
        "save all as one type and on one scale: "
        + ("training stops at them, or with cache=off" if stops else "training")
        + " takes their numbers as they are",
        **name_rows(case.names, rows),
        pictures=_alone(rows),
    )


def _stops_at_mixed_types(case, read):
    """Whether the training images are of two types and train.py would keep them, decoded, in one file."""
    config, rows = case.config, read[~case.is_test[read]]
    if case.folds is None or len(np.unique(case.scan.is_uint8[rows])) < 2:
        return False
    try:
        augmentations = build_augmentations(config, case.train.take(rows[:1]))
    except UserError:  # which the self-test of augmentation tells
        return False
    folds = case.folds[rows]
    left = range(folds.max() + 1) if config.fold is None else [config.fold]
    reads_at = count_reads(config, folds, left, augmentations)
    return any(is_worth_building(config.cache, reads, len(rows)) for reads in reads_at.values())


def _describe(case, read):
    scan, lines = case.scan, []
    for side, rows in (("train", read[~case.is_test[read]]), ("test", read[case.is_test[read]])):
        if not len(rows):
            continue
        low, high, mean, std = (one[rows] for one in (scan.lows, scan.highs, scan.means, scan.stds))
        sizes = _pack_sizes(scan, rows)
        lines += [
            f"{side:5} {len(rows)} images, {scan.num_bytes[rows].sum() / 1e6:.1f} MB",
            f"      sizes {_count(sizes, _name_size)}",
            f"      kinds {_count(scan.kinds[rows], str)}",
            f"      pixels {low.min():g} to {high.max():g}, mean {mean.mean():.1f}, std {std.mean():.1f}",
        ]
    return Fact("images (width x height)", tuple(lines))


def _pack_sizes(scan, rows):
    """Return (N,) int64, which sorts faster than pairs: width and height."""
    return scan.widths[rows].astype(np.int64) << 32 | scan.heights[rows]


def _name_size(packed):
    return f"{packed >> 32}x{packed & 0xFFFFFFFF}"


def _count(values, name):
    """Return the most frequent values by name, each with how often it is there."""
    values, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_LISTED]
    shown = ", ".join(f"{name(values[one])} ({counts[one]})" for one in order)
    return shown + (f" ... ({len(values)} in all)" if len(values) > _LISTED else "")


def _alone(rows):
    return tuple((int(row),) for row in rows[:_SHOWN])
