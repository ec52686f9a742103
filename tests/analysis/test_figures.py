"""Figures show what scikit-learn finds, stay small with many rows, and become SVG in the page's own colours."""

import re

import numpy as np
import pandas as pd

from src.analysis import figures


def make_log(epochs=3, folds=2):
    rows = [{"fold": fold, "epoch": epoch, "lr": 0.1 / epoch, "train_loss": 1 / epoch, "val_loss": 1.2 / epoch,
             "val_score": 1 - 0.5 / epoch, "gradient_stem": 1.0 / epoch, "gradient_frozen": 0.0}
            for fold in range(folds) for epoch in range(1, epochs + 1)]  # fmt: skip
    return pd.DataFrame(rows)


def draw_all(targets, probs, name="$x_1$ <b> 고양이"):
    log, names = make_log(), [f"{name}{k}" for k in range(targets.shape[1])]
    counts = np.arange(9).reshape(3, 3)
    image = np.zeros((8, 12, 3), np.uint8)
    return {
        "curves": figures.draw_curves(log, name), "losses": figures.draw_losses(log),
        "scores": figures.draw_scores(log, name), "rate": figures.draw_learning_rate(log),
        "gradients": figures.draw_gradient_norms(log),
        "folds": figures.draw_folds([0, 1], [0.5, np.nan], [(0.4, 0.6), None], 0.5, name),
        "intervals": figures.draw_intervals(names, [0.5] * len(names), [(0, 1)] * len(names), None, name),
        "roc": figures.draw_roc(targets, probs, names), "pr": figures.draw_precision_recall(targets, probs, names),
        "calibration": figures.draw_calibration(np.array([0.2, 0.8]), np.array([0.1, 0.9]), np.array([10, 20])),
        "confusion": figures.draw_confusion(counts, names[:3]),
        "distributions": figures.draw_distributions(targets, probs, names),
        "distribution": figures.draw_distributions(targets[:, :1], probs[:, :1], names[:1]),
        "shift": figures.draw_shift(probs[:, 0], probs[:, 1], name),
        "predicted": figures.draw_predicted(probs[:, 0], probs[:, 1], name),
        "residuals": figures.draw_residuals(probs[:, 0], probs[:, 1], name),
        "sizes": figures.draw_sizes(np.arange(9), np.arange(9) ** 2, np.arange(9) > 5),
        "images": figures.draw_images([image, image[..., :1]], [name, "b"], [np.ones((2, 3)), None]),
    }  # fmt: skip


def test_every_figure_is_a_small_svg_of_text_in_the_colour_of_the_page(predictions):
    for name, figure in draw_all(*predictions).items():
        svg = figures.save_svg(figure)
        assert svg.startswith("<svg viewBox="), name
        assert svg.endswith("</svg>"), name
        assert not re.search(r"https?:|<style|<metadata|#1c2024|mathdefault|#ffffff", svg), name
        assert name == "images" or "currentColor" in svg, name
        assert len(svg) < 60_000, name
        assert "&lt;b&gt;" in svg or "$x_1$" not in svg, name
        assert "<b>" not in svg, name
    assert "$x_1$ &lt;b&gt; 고양이" in figures.save_svg(figures.draw_scores(make_log(), "$x_1$ <b> 고양이"))


def test_a_million_rows_are_thinned():
    rng = np.random.default_rng(3)
    targets = (rng.random((1_000_000, 1)) < 0.5).astype(float)
    probs = np.clip(rng.random((1_000_000, 1)) + 0.2 * targets, 0, 1)
    for figure in (figures.draw_roc(targets, probs, ["a"]), figures.draw_predicted(targets[:, 0], probs[:, 0], "a")):
        assert len(figures.save_svg(figure)) < 100_000


def test_a_map_is_laid_over_an_image():
    image = np.full((6, 8, 1), 100, np.uint8)
    over = figures.overlay_saliency(image, np.array([[0.0, 1.0]]))
    assert over.shape == (6, 8, 3)
    assert (over[:, :4] == over[0, 0]).all()
    assert over[0, 7].sum() > over[0, 0].sum()


def test_fonts_that_are_not_installed_are_no_news(tmp_path, capfd):
    """The first is always there; letters that it lacks come from the next that is installed."""
    figure = figures.draw_confusion(np.eye(2), ["고양이", "狗"])
    figures.save_png(figure, tmp_path / "confusion.png")
    assert figure.axes[0].get_xticklabels()[0].get_fontfamily() == ["sans-serif"]
    assert figures.FONTS[0] == "DejaVu Sans"
    assert capfd.readouterr() == ("", "")
