"""Figures of a run: pure functions of arrays and tables -> matplotlib Figure; `save_svg` suits light and dark pages.

Many rows are thinned or binned before they are drawn, so that a figure of a million rows is as small as one of a
hundred. Names are drawn as they are: $ and _ are no formulas.
"""

import functools
import io
import logging
import math
import re
import warnings

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from src.analysis.curve_bands import compute_bands, compute_mean_roc, order_columns, sample_rows, thin

# At least 3 to 1 on the page's light and dark ground, and apart for the colour-blind (after Okabe and Ito, 2008).
COLORS = ("#2f7fc4", "#d1611c", "#148f6b", "#b35fa5", "#8f7a12", "#6470dd", "#c24c4c", "#5f8a8b")
INK = "#1c2024"  # of text and axes; `save_svg` makes it the page's own colour
_WIDTH, _HEIGHT = 4.5, 3.1  # inches
_MOST_POINTS, _MOST_CURVES, _MOST_STRIPS = 400, 4, 12
# A letter that one lacks is taken from the next that is installed: Korean and Chinese, of Linux, Windows and macOS.
FONTS = ["DejaVu Sans", "Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Sans CJK JP", "NanumGothic", "WenQuanYi Zen Hei",
         "Malgun Gothic", "Microsoft YaHei", "Apple SD Gothic Neo", "AppleGothic", "PingFang SC"]  # fmt: skip
_STYLE = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.grid": True,
    "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.titlesize": 10,
    "axes.titlelocation": "left", "font.size": 9, "legend.fontsize": 8.5, "legend.frameon": False,
    "lines.linewidth": 1.8, "lines.solid_capstyle": "round", "text.parse_math": False, "svg.fonttype": "none",
    "axes.prop_cycle": matplotlib.cycler(color=COLORS), "figure.dpi": 150, "savefig.dpi": 150,
    "font.sans-serif": FONTS,
    "axes.formatter.useoffset": False,
}  # fmt: skip
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a font that is not installed is no news


def styled(draw):
    """Decorate a function that draws a Figure: with the page's colours, fonts and lines."""

    @functools.wraps(draw)
    def drawn(*arguments, **keywords):
        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return drawn


def save_svg(figure):
    """Return the figure as the text of an SVG element that takes text and axes in the page's own colour and font.

    Its text stays text, ids are left out where nothing refers to them, and it names no other address.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"{id(figure)}"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks: the page's has them
        text, grounds = io.StringIO(), [figure.patch, *(axes.patch for axes in figure.axes)]
        for ground in grounds:
            ground.set_visible(False)  # the page's own shows through
        dpi = figure.dpi
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
        figure.dpi = dpi  # which it has set to 72
        for ground in grounds:
            ground.set_visible(True)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace(INK, "currentColor").replace(' xlink:href="', ' href="')
    body = re.sub(r' style="font: [^"]*?(\d[\d.]*)px [^";]*', r' style="font: \1px system-ui, sans-serif', body)
    numbers = re.compile(r"(-?\d+\.\d\d)\d+")
    body = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', lambda found: numbers.sub(r"\1", found[0]), body)
    body = re.sub(r"\n\s*(?=<)", "", body)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    return f'<svg {box} role="img" stroke-linejoin="round">{body.strip()}'


def save_png(figure, path):
    """Write the figure as a PNG on white."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FigureCanvasAgg(figure).print_png(path)


@styled
def draw_curves(log, metric_name):
    """Draw training and validation loss, and the validation score, over epochs.

    Args:
        log: DataFrame of all folds' log.csv, with a column `fold`.
    """
    figure = Figure(figsize=(2 * _WIDTH, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, log)
    _draw_scores(right, log, metric_name)
    return figure


@styled
def draw_losses(log):
    """Draw training and validation loss over epochs, thin a fold and thick their mean; log: of `draw_curves`."""
    figure, axes = _figure()
    _draw_losses(axes, log)
    return figure


@styled
def draw_scores(log, metric_name):
    """Draw the validation score over epochs, thin a fold and thick their mean; log: of `draw_curves`."""
    figure, axes = _figure()
    _draw_scores(axes, log, metric_name)
    return figure


@styled
def draw_runs(logs, column, label):
    """Draw a column of several runs' logs over epochs, each run's mean over its folds; logs: {name of a run: log}."""
    figure, axes = _figure()
    for place, (name, log) in enumerate(logs.items()):
        mean = log.groupby("epoch")[column].mean()
        color = COLORS[place % len(COLORS)]
        style = {"color": color, "ls": "-" if place < len(COLORS) else "--", "marker": "o" if len(mean) < 4 else None}
        axes.plot(*thin(mean.index.to_numpy(), mean.to_numpy()), label=_short(name, 40), ms=4, **style)
    _set_epochs(axes, next(iter(logs.values())), label)
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1)
    return figure


@styled
def draw_learning_rate(log):
    """Draw the mean learning rate of each epoch; log: of `draw_curves`."""
    figure, axes = _figure(height=2.4)
    _draw_over_epochs(axes, log, "lr", "", COLORS[0])
    _set_epochs(axes, log, "learning rate")
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    return figure


@styled
def draw_gradient_norms(log):
    """Draw the gradient's norm by stage of the network, the mean of the folds; log: of `draw_curves`."""
    figure, axes = _figure(height=2.9)
    columns = [name for name in log if name.startswith("gradient_") and (log[name] > 0).any()]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.85, max(2, len(columns))))
    for place, name in enumerate(columns):
        mean = log[log[name] > 0].groupby("epoch")[name].mean()
        color = COLORS[place] if len(columns) <= len(COLORS) else shades[place]
        axes.plot(mean.index, mean, color=color, lw=1.5, marker="o" if len(mean) == 1 else None,
                  label=name.removeprefix("gradient_"))  # fmt: skip
    _set_log_scale(axes)
    _set_epochs(axes, log, "norm of the gradient")
    _legend(axes, is_outside=True)
    return figure


@styled
def draw_folds(names, scores, intervals, mean, metric_name):
    """Draw each fold's score with its interval, and their mean as a line.

    Args:
        names: of the folds; scores (F,), nan where undefined; intervals: (low, high) or None of each.
        mean: of the folds' scores, or None.
    """
    figure, axes = _figure(height=max(1.6, 0.6 + 0.3 * len(names)))
    _draw_intervals(axes, [f"fold {name}" for name in names], scores, intervals, mean, "mean of folds")
    axes.set_xlabel(metric_name)
    return figure


@styled
def draw_intervals(names, scores, intervals, reference, label):
    """Draw a score with its interval for each name, from the top; reference: a line through all, or None."""
    figure, axes = _figure(height=max(1.6, 0.7 + 0.26 * len(names)))
    _draw_intervals(axes, [_short(name) for name in names], scores, intervals, reference)
    axes.set_xlabel(label)
    return figure


@styled
def draw_roc(targets, probs, names, groups=None, columns=None):
    """Draw the ROC curve of each column: of many the four with the lowest AUC, and the mean of all.

    The band holds 95 % of bootstrap samples at each place, drawn by group where there is one.

    Args:
        targets, probs: (N, C), nan where a target is not known.
        groups: (N,), rows of one vary together; None: each row alone.
        columns: those that have both sides, in the order of their AUC, where it is known; None: they are found.
    """
    figure, axes = _figure(height=3.5)
    columns = order_columns(targets, probs) if columns is None else columns
    shown = columns[:_MOST_CURVES]
    axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":", alpha=0.6)
    for place, column in enumerate(shown):
        found = compute_bands(targets[:, column], probs[:, column], groups)
        _draw_band(axes, found.grid, found.tpr_low, found.tpr_high, COLORS[place])
        axes.plot(found.fpr, found.tpr, color=COLORS[place], label=f"{_short(names[column])}, AUC {found.auc:.4f}")
    if len(columns) > len(shown):
        label = f"mean of {len(columns)} columns"
        axes.plot(*compute_mean_roc(targets, probs, columns), color=INK, ls="--", lw=1.4, label=label)
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    _legend(axes, loc="lower right")
    return figure


@styled
def draw_precision_recall(targets, probs, names, groups=None, columns=None):
    """Draw precision over recall for the columns that `draw_roc` shows, with its band; dotted: the positives' share."""
    figure, axes = _figure(height=3.5)
    columns = order_columns(targets, probs) if columns is None else columns
    for place, column in enumerate(columns[:_MOST_CURVES]):
        found, color = compute_bands(targets[:, column], probs[:, column], groups), COLORS[place]
        _draw_band(axes, found.recall_grid, found.precision_low, found.precision_high, color)
        label = f"{_short(names[column])}, AP {found.average_precision:.4f}"
        axes.plot(found.recall, found.precision, color=color, label=label)
        axes.axhline(found.share, color=color, lw=0.8, ls=":", alpha=0.7)
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    _legend(axes, loc="lower left")
    return figure


@styled
def draw_calibration(confidences, shares, sizes):
    """Draw the share that came true over the mean predicted probability of each bin, with its 95 % interval.

    All arguments are (B,), as `expected_calibration_error` returns them; sizes: predictions in a bin. The intervals are
    Wilson's (Probable Inference, 1927).
    """
    figure, axes = _figure(height=3.5)
    low, high = _wilson(shares, sizes)
    start = max(0.0, math.floor(10 * min(np.min(confidences), np.min(low)) - 0.5) / 10)
    axes.plot([start, 1], [start, 1], color=INK, lw=0.8, ls=":", alpha=0.6)
    bars = np.maximum(0, [shares - low, high - shares])
    axes.errorbar(confidences, shares, yerr=bars, color=COLORS[0], marker="o", ms=4, lw=1.4, elinewidth=0.9)
    edge = 0.02 * (1 - start)
    axes.set(xlabel="predicted probability", ylabel="share that came true")
    axes.set(xlim=(start - edge, 1 + edge), ylim=(start - edge, 1 + edge))
    return figure


@styled
def draw_confusion(counts, names, predicted_names=None):
    """Draw a confusion table (K, K) of counts, true classes as rows, shaded by the share of the row."""
    counts = np.asarray(counts)
    side = min(6.0, max(3.6, 0.42 * len(counts) + 1.4))
    figure = Figure(figsize=(side, side * 0.92), layout="constrained")
    axes, shares = figure.subplots(), counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shade = np.zeros((*counts.shape, 4))
    shade[..., :3], shade[..., 3] = matplotlib.colors.to_rgb(COLORS[0]), 0.6 * np.sqrt(shares)
    axes.imshow(shade, interpolation="nearest")
    if len(counts) <= 16:
        for row, column in np.argwhere(counts > 0):
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8)
    for axis, labels in ((axes.xaxis, predicted_names or names), (axes.yaxis, names)):
        axis.set_ticks(range(len(labels)), [_short(name, 14) for name in labels])
    if max(len(str(name)) for name in names) > 3:
        axes.tick_params(axis="x", rotation=45 if len(counts) <= 4 else 90)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


@styled
def draw_distributions(targets, probs, names, columns=None):
    """Draw how the probabilities of positives and of the others are distributed: one column as histograms, of several
    each one's range (5 to 95 %), middle half and median, of many the twelve with the lowest AUC.

    The arguments are those of `draw_roc`.
    """
    if len(names) == 1:
        figure, axes = _figure()
        for label, color, is_side in (("negative", COLORS[0], targets[:, 0] < 0.5),
                                      ("positive", COLORS[1], targets[:, 0] >= 0.5)):  # fmt: skip
            if is_side.any():
                counts, edges = np.histogram(probs[is_side, 0], bins=40, range=(0, 1))
                label = f"{label}, {int(is_side.sum()):,}"
                axes.stairs(counts / counts.sum(), edges, color=color, fill=True, alpha=0.35)
                axes.stairs(counts / counts.sum(), edges, color=color, label=label, lw=1.3)
        axes.set(xlabel=f"predicted probability of {_short(names[0])}", ylabel="share of the rows", xlim=(-0.01, 1.01))
        _set_log_scale(axes, subs=(1,), is_percent=True)
        _legend(axes, loc="upper center")
        return figure
    shown = (order_columns(targets, probs) if columns is None else columns)[:_MOST_STRIPS]
    figure, axes = _figure(height=max(2.0, 0.8 + 0.34 * len(shown)))
    for place, column in enumerate(shown):
        known = ~np.isnan(targets[:, column])
        for offset, color, is_side in ((-0.17, COLORS[1], targets[:, column] >= 0.5),
                                       (0.17, COLORS[0], targets[:, column] < 0.5)):  # fmt: skip
            values = probs[known & is_side, column]
            if len(values):
                _draw_strip(axes, place + offset, values, color)
    axes.set_yticks(range(len(shown)), [_short(names[column]) for column in shown])
    axes.invert_yaxis()
    axes.set(xlabel="predicted probability", xlim=(-0.01, 1.01))
    _legend_of(axes, {"positive": COLORS[1], "negative": COLORS[0]})
    return figure


@styled
def draw_shift(val, test, name, is_probability=True):
    """Draw the distribution of validation predictions (N,) and of test predictions (M,) of one column."""
    figure, axes = _figure(height=2.6)
    both = (0, 1) if is_probability else _limits(np.concatenate([val, test]))
    for label, values, color in (("validation", val, COLORS[0]), ("test", test, COLORS[1])):
        counts, edges = np.histogram(values, bins=30, range=both)
        axes.stairs(counts / max(1, counts.sum()), edges, color=color, label=f"{label}, {len(values):,}", lw=1.5)
    axes.set(xlabel=f"prediction of {_short(name)}", ylabel="share")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    _legend(axes)
    return figure


@styled
def draw_predicted(targets, predicted, name):
    """Draw predicted over true values (N,) of a regression; of many rows 2,000 are drawn."""
    figure, axes = _figure(height=3.5)
    rows = sample_rows(len(targets), 2000)
    low, high = _limits(np.concatenate([targets, predicted]))
    axes.plot([low, high], [low, high], color=INK, lw=0.8, ls=":", alpha=0.6)
    axes.plot(targets[rows], predicted[rows], ls="", marker="o", ms=3, mew=0, alpha=0.45, rasterized=len(rows) > 500)
    axes.set(xlabel=f"true {_short(name)}", ylabel="predicted")
    return figure


@styled
def draw_residuals(targets, predicted, name):
    """Draw how the residuals, predicted minus true (N,), are distributed."""
    figure, axes = _figure()
    residuals = predicted - targets
    counts, edges = np.histogram(residuals, bins=40, range=_limits(residuals))
    axes.stairs(counts, edges, color=COLORS[0], fill=True, alpha=0.4)
    axes.stairs(counts, edges, color=COLORS[0], lw=1.2)
    axes.axvline(0, color=INK, lw=0.8, ls=":", alpha=0.6)
    axes.axvline(residuals.mean(), color=COLORS[1], lw=1.4, label=f"mean {residuals.mean():.4g}")
    axes.set(xlabel=f"predicted minus true {_short(name)}", ylabel="rows")
    _legend(axes)
    return figure


@styled
def draw_sizes(widths, heights, is_test):
    """Draw the sizes of images in pixels, (N,) each: dots of training, crosses of test; of many, some at random."""
    figure, axes = _figure()
    for is_in, marker, label in ((~is_test, "o", "train"), (is_test, "x", "test")):
        rows = np.flatnonzero(is_in)[sample_rows(int(is_in.sum()), _MOST_POINTS)]
        if len(rows):
            axes.plot(widths[rows], heights[rows], marker, ms=4, alpha=0.7, label=label)
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    axes.margins(0.08)
    _legend(axes, is_outside=True)
    return figure


@styled
def draw_images(images, captions, overlays=None, columns=6):
    """Draw images (H, W, 1 or 3) uint8 in a grid with a caption each.

    Args:
        overlays: of each image a map (h, w) in [0, 1], such as a saliency, laid over it in colour, or None.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(1.5 * columns, 1.95 * rows), layout="constrained")
    for place, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.axis("off")
        if place < len(images):
            image = images[place]
            grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[2] == 1 else {}
            axes.imshow(image[..., 0] if image.shape[2] == 1 else image, **grey)
            if overlays is not None and overlays[place] is not None:
                extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
                axes.imshow(overlays[place], cmap="inferno", alpha=0.45, vmin=0, vmax=1, extent=extent,
                            interpolation="bilinear")  # fmt: skip
            axes.set_title(str(captions[place]), fontsize=7, loc="center")
    return figure


def overlay_saliency(image, saliency):
    """Return the image (H, W, 1 or 3) uint8 as RGB with a map (h, w) in [0, 1] laid over it, from dark to yellow."""
    rows = np.minimum((np.arange(image.shape[0]) + 0.5) * saliency.shape[0] / image.shape[0], saliency.shape[0] - 1)
    columns = np.minimum((np.arange(image.shape[1]) + 0.5) * saliency.shape[1] / image.shape[1], saliency.shape[1] - 1)
    values = np.clip(saliency, 0, 1)[rows.astype(int)][:, columns.astype(int)]
    color = matplotlib.colormaps["inferno"](values)[..., :3] * 255
    weight = 0.15 + 0.45 * values[..., None]
    return ((1 - weight) * np.broadcast_to(image, (*image.shape[:2], 3)) + weight * color).round().astype(np.uint8)


def _draw_losses(axes, log):
    has_val = "val_loss" in log and log["val_loss"].notna().any()
    _draw_over_epochs(axes, log, "train_loss", "training", COLORS[0])
    if has_val:
        _draw_over_epochs(axes, log, "val_loss", "validation", COLORS[1])
    values = log[["train_loss", "val_loss"] if has_val else ["train_loss"]].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        _set_log_scale(axes)
    _set_epochs(axes, log, "loss")
    _legend(axes)


def _draw_scores(axes, log, metric_name):
    _draw_over_epochs(axes, log, "val_score", "validation", COLORS[1])
    _set_epochs(axes, log, metric_name)


def _draw_over_epochs(axes, log, column, label, color):
    """Draw a column over epochs: thin for each fold where there are several, thick their mean."""
    rows = log[log[column].notna()]
    folds = list(rows.groupby("fold", sort=False)) if "fold" in rows else [(0, rows)]
    for _, one in folds if 1 < len(folds) <= 20 else ():
        axes.plot(*thin(one["epoch"].to_numpy(), one[column].to_numpy()), color=color, lw=0.8, alpha=0.45)
    mean = rows.groupby("epoch")[column].mean()
    marker = "o" if len(mean) < 4 else None
    label = (
        f"{label} (thick: mean of {len(folds)} folds)" if label and len(folds) > 1 and label != "training" else label
    )
    axes.plot(*thin(mean.index.to_numpy(), mean.to_numpy()), color=color, label=label, marker=marker, ms=4)


def _set_epochs(axes, log, label):
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if log["epoch"].nunique() == 1:
        axes.set_xlim(log["epoch"].iloc[0] - 1, log["epoch"].iloc[0] + 1)


def _set_log_scale(axes, subs=(1, 2, 5), is_percent=False):
    """Scale y by its logarithm, with plain numbers: powers of ten would be formulas."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %" if is_percent else f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_intervals(axes, names, scores, intervals, reference, label="all rows"):
    for place, (score, interval) in enumerate(zip(scores, intervals, strict=True)):
        if interval is not None:
            axes.plot(interval, [place, place], color=COLORS[0], lw=1.6, alpha=0.7)
        if score is not None and np.isfinite(score):
            axes.plot([score], [place], color=COLORS[0], marker="o", ms=5)
    if reference is not None and np.isfinite(reference):
        axes.axvline(reference, color=COLORS[1], lw=1.2, label=label)
        _legend(axes, is_outside=True)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_strip(axes, height, values, color):
    low, quarter, middle, three, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    axes.plot([low, high], [height, height], color=color, lw=1, alpha=0.7)
    axes.plot([quarter, three], [height, height], color=color, lw=4, alpha=0.6, solid_capstyle="butt")
    axes.plot([middle], [height], color=color, marker="o", ms=4)


def _draw_band(axes, grid, low, high, color):
    if low is not None:
        axes.fill_between(grid, low, high, color=color, alpha=0.18, lw=0)


def _figure(height=_HEIGHT):
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(axes, is_outside=False, loc="best"):
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    if is_outside:
        count = 3 if max(map(len, labels)) < 14 else 2
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=min(count, len(labels)))
    else:
        axes.legend(handles, labels, loc=loc)


def _legend_of(axes, colors):
    handles = [matplotlib.lines.Line2D([], [], color=color, marker="o", ms=4, lw=2) for color in colors.values()]
    axes.figure.legend(handles, colors, loc="outside upper left", ncols=len(colors))


def _short(name, most=24):
    name = "".join(one if one.isprintable() else "?" for one in str(name))
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _limits(values):
    """Return (low, high) that holds the values, of outliers 99.8 %; never of no width."""
    low, high = np.quantile(values, (0.001, 0.999))
    low, high = (float(low), float(high)) if high > low else (float(np.min(values)), float(np.max(values)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _wilson(shares, sizes):
    """Return (low, high), (B,) each: 95 % intervals of shares of `sizes` rows."""
    z, sizes = 1.96, np.maximum(sizes, 1)
    middle, scale = (shares + z**2 / (2 * sizes)), 1 + z**2 / sizes
    half = z * np.sqrt(shares * (1 - shares) / sizes + z**2 / (4 * sizes**2))
    return (middle - half) / scale, (middle + half) / scale
