"""Images that cannot be read, are blank, turned, of fewer bits than they have, or unlike the others."""

from dataclasses import replace

import numpy as np

from src.data.cache import is_worth_building
from src.data.decode import decode_image
from src.errors import UserError
from src.training.learner import build_transforms, count_reads
from tools.doctor.findings import Fact, Finding, name_rows

_NOISE = 0.01  # std of a blank 8-bit image after compression, as a share of the images' median range
_ROUNDING = 1e-6  # std of a blank float32 array, as a share of its largest value
_USUAL = 0.9  # share of images that are alike, above which the others are unusual
_FAR = 4.0  # factor between a side and the median side
_FEW = 0.01  # share of the images that may be left out without a look at them
_NUM_SHOWN = 12  # unusual images on the page
_NUM_LISTED = 6  # sizes and kinds that the facts list


def check_images(data):
    """Return (findings, facts) about single images of a `CompetitionData`."""
    scan, names = data.scan, data.names
    findings = list(_find_unreadable(scan, names, data.config.unreadable))
    read = np.flatnonzero(scan.is_read)
    if len(read):
        findings += [
            *_find_blank(data),
            *_find_turned(data),
            *_find_pages(data),
            *_find_unused_bits(data),
            *_find_unusual_sizes(scan, names, read),
            *_find_unusual_kinds(scan, names, read[scan.is_uint8[read]]),
            *_find_mixed_types(data, read),
        ]
    return findings, [_describe(data, read)] if len(read) else []


def is_blank(scan):
    """Return (N,) bool: images of one shade; they all look alike, so duplicates are not searched among them.

    float32 arrays are judged one by one, as each may have its own scale.
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
        **name_rows(named),
        words=("unreadable=skip",) if len(reasons) <= _FEW * len(scan) else (),
    )


def _find_blank(data):
    scan, names, competition = data.scan, data.names, data.config.competition
    rows = np.flatnonzero(is_blank(scan))
    other = replace(competition, background="black" if competition.background == "white" else "white")
    is_hidden = np.array([np.ptp(decode_image(scan.paths[row], other), axis=(0, 1)).max() > 8 for row in rows], bool)
    if is_hidden.any():
        yield Finding(
            "warning",
            f"{is_hidden.sum()} of {len(scan)} images are blank on competition.background={competition.background}: "
            "what they show is in their alpha channel",
            f"set competition.background={other.background}",
            **name_rows(names, rows[is_hidden]),
            words=(f"competition.background={other.background}",),
        )
    rows = rows[~is_hidden]
    if len(rows):
        yield Finding(
            "warning",
            f"{len(rows)} of {len(scan)} images are blank: one shade all over",
            "look at them; where the label cannot be seen, remove their rows from training",
            **name_rows(names, rows),
            images=_alone(rows),
        )


def _find_turned(data):
    rows, is_applied = np.flatnonzero(data.scan.orientations > 1), data.config.competition.exif
    if len(rows):
        yield Finding(
            "note" if is_applied else "warning",
            f"{len(rows)} of {len(data.scan)} images have an orientation tag that "
            + ("turns them" if is_applied else "is not applied (competition.exif=false)"),
            f"look at them; if they do not stand upright, set competition.exif={str(not is_applied).lower()}",
            **name_rows(data.names, rows),
            images=_alone(rows),
        )


def _find_pages(data):
    scan, channels = data.scan, data.config.competition.channels
    rows = np.flatnonzero((scan.pages > 1) & ((scan.pages != channels) | (channels in (1, 3))))
    if len(rows):
        count = int(np.median(scan.pages[rows]))
        are_channels = f"; if its grey pages are channels, set competition.channels={count}"
        is_stack = (scan.pages[rows] == count).all() and all(scan.kinds[row].startswith("TIFF") for row in rows)
        yield Finding(
            "note",
            f"{len(rows)} of {len(scan)} images hold several pages or frames, {count} in the median; the first is read",
            "look whether it is the right one" + (are_channels if is_stack and count not in (1, 3) else ""),
            **name_rows(data.names, rows),
            images=_alone(rows),
        )


def _find_unused_bits(data):
    """Compare the bits that nine tenths of the 16-bit images use, an even number, with those that are scaled to 8."""
    bits, declared = data.scan.bits, data.config.competition.bits or 16
    rows = np.flatnonzero(bits)
    if not len(rows):
        return
    used = max(8, int(np.quantile(bits[rows], 0.9, method="higher")))
    used += used % 2
    is_clipped = bits[rows] > declared
    if declared - used > 1:
        yield Finding(
            "warning",
            f"{(bits[rows] <= used).sum()} of {len(rows)} 16-bit images use only {used} bits, which leaves them "
            f"{2 ** (8 - declared + used)} of 256 shades",
            f"set competition.bits={used}",
            **name_rows(data.names, rows),
            images=_alone(rows),
            words=(f"competition.bits={used}",),
        )
    elif used > declared:
        yield Finding(
            "warning",
            f"{is_clipped.sum()} of {len(rows)} 16-bit images have values above competition.bits={declared}, which "
            "become white",
            f"set competition.bits={used}",
            **name_rows(data.names, rows[is_clipped]),
            images=_alone(rows[is_clipped]),
            words=(f"competition.bits={used}",),
        )


def _find_unusual_sizes(scan, names, read):
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
            "look at them: a crop, a collage or a thumbnail is brought to image_size like the others",
            **name_rows(named),
            images=_alone(rows),
        )


def _find_unusual_kinds(scan, names, read):
    """Compare 8-bit images only: arrays of all other types are read as float32, with the same values."""
    kinds, of, counts = np.unique(scan.kinds[read], return_inverse=True, return_counts=True)
    if len(kinds) > 1 and counts.max() >= _USUAL * len(read):
        usual = counts.argmax()
        rows = read[of != usual]
        named = [f"{names[row]} {scan.kinds[row]}" for row in rows]
        yield Finding(
            "warning",
            f"{len(rows)} of {len(read)} images are of another kind than {kinds[usual]}",
            "look at them: transparent pixels lie on competition.background, colours are converted, which may change "
            "what they show",
            **name_rows(named),
            images=_alone(rows),
        )


def _find_mixed_types(data, read):
    is_uint8 = data.scan.is_uint8[read]
    is_usual_uint8 = is_uint8.mean() > 0.5
    rows = read[is_uint8 != is_usual_uint8]
    if not len(rows):
        return
    rare, usual = ("float32", "uint8") if is_usual_uint8 else ("uint8", "float32")
    stops = _stops_at_mixed_types(data, read)
    yield Finding(
        "error" if stops else "warning",
        f"{len(rows)} of {len(read)} images are read as {rare}, the others as {usual}",
        "save all as one type and on one scale: "
        + ("training stops at them, or with cache=off" if stops else "training")
        + " takes their values as they are",
        **name_rows(data.names, rows),
        images=_alone(rows),
    )


def _stops_at_mixed_types(data, read):
    """Whether the training images are of two types and train.py would cache them in one file."""
    config, rows = data.config, read[~data.is_test[read]]
    if data.folds is None or len(np.unique(data.scan.is_uint8[rows])) < 2:
        return False
    try:
        transforms = build_transforms(config, data.train.take(rows[:1]))
    except UserError:  # which check_augmentation reports
        return False
    folds = data.folds[rows]
    left = range(folds.max() + 1) if config.fold is None else [config.fold]
    reads_at = count_reads(config, folds, left, transforms)
    return any(is_worth_building(config.cache, reads, len(rows)) for reads in reads_at.values())


def _describe(data, read):
    scan, lines, table = data.scan, [], [("", "images", "MB", "kinds", "pixels", "mean", "std")]
    for side, rows in (("train", read[~data.is_test[read]]), ("test", read[data.is_test[read]])):
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
        cells = len(rows), f"{scan.num_bytes[rows].sum() / 1e6:.1f}", _count(scan.kinds[rows], str)
        cells += f"{low.min():g} to {high.max():g}", f"{mean.mean():.1f}", f"{std.mean():.1f}"
        table.append((side, *map(str, cells)))
    return Fact("images (width x height)", tuple(lines), tuple(table))


def _pack_sizes(scan, rows):
    """Return (N,) int64 of width and height, which sorts faster than pairs."""
    return scan.widths[rows].astype(np.int64) << 32 | scan.heights[rows]


def _name_size(packed):
    return f"{packed >> 32}x{packed & 0xFFFFFFFF}"


def _count(values, name):
    """Return the most frequent values by name, each with its count."""
    values, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_NUM_LISTED]
    shown = ", ".join(f"{name(values[one])} ({counts[one]})" for one in order)
    return shown + (f" ... ({len(values)} in all)" if len(values) > _NUM_LISTED else "")


def _alone(rows):
    return tuple((int(row),) for row in rows[:_NUM_SHOWN])
