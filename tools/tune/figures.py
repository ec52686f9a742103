"""Figures of a search: scores over trials, each setting against the score, and how much each setting counts."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from src.analysis.figures import COLORS, styled

_WIDTH, _HEIGHT = 4.5, 2.9  # inches
_MOST_TICKS = 22  # letters of a choice


@styled
def draw_history(trials, best, metric_name, greater_is_better):
    """Draw each trial's score over its number, and the best so far as a line.

    Args:
        trials: [(number, score, is_complete)]; of a pruned trial its last score on the first fold.
        best: number of the best trial.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.3), layout="constrained")
    axes = figure.subplots()
    done = [(number, score) for number, score, is_complete in trials if is_complete]
    numbers, scores = np.array(done).T
    so_far = (np.maximum if greater_is_better else np.minimum).accumulate(scores)
    axes.step(numbers, so_far, where="post", color=COLORS[0], lw=1.4, label="best so far")
    _draw_trials(axes, trials, best)
    axes.set(xlabel="trial", ylabel=metric_name)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def draw_slice(key, trials, best, metric_name, is_log, choices):
    """Draw the score over one setting.

    Args:
        trials: [(value, score, is_complete)], value a number, or one of `choices`.
        best: value of the best trial; choices: texts in their order, () for numbers.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    if choices:
        places = {text: place for place, text in enumerate(choices)}
        trials, best = [(places[value], *rest) for value, *rest in trials], places[best]
    _draw_trials(axes, trials, best)
    axes.set(xlabel=key, ylabel=metric_name)
    if choices:
        texts = [text if len(text) <= _MOST_TICKS else f"{text[: _MOST_TICKS - 1]}…" for text in choices]
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, texts)) > 44 else {}
        axes.set_xticks(range(len(texts)), texts, **turn)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    elif is_log:
        axes.set_xscale("log")
        values = [value for value, *_ in trials]
        is_wide = math.log10(max(values) / min(values)) > 2
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if is_wide else (1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(type(value) is int for value, *_ in trials)))
    return figure


@styled
def draw_importances(importances):
    """Draw the share of the score's variance that each setting explains, {key: share}, as bars from the top."""
    figure = Figure(figsize=(_WIDTH, max(1.6, 0.7 + 0.3 * len(importances))), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(importances)), [100 * one for one in importances.values()], color=COLORS[0], height=0.6)
    axes.set_yticks(range(len(importances)), importances)
    axes.set_ylim(len(importances) - 0.5, -0.5)
    axes.set_xlabel("share of the score's variance, %")
    axes.grid(axis="y", visible=False)
    return figure


def _draw_trials(axes, trials, best):
    """Draw (x, score, is_complete) of trials; the one at `best` that is highest or lowest stays as it is, ringed."""
    for is_complete, marker, color, label in ((False, "x", COLORS[7], "pruned"), (True, "o", COLORS[0], "complete")):
        own = np.array([(x, score) for x, score, is_done in trials if is_done == is_complete])
        if len(own):
            axes.plot(*own.T, ls="", marker=marker, ms=5, color=color, alpha=0.8, label=label)
    axes.axvline(best, color=COLORS[1], lw=1.1, alpha=0.8, label="the best")
