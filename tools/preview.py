"""Draw the images that training sees: python -m tools.preview [key=value ...] [output=FILE.png]

They come from the dataset that training reads (src/analysis/batches.py): exactly what the network gets.
"""

import sys
import textwrap
import warnings
from pathlib import Path

from src.config.load import load_config
from src.errors import UserError, one_line_errors
from src.files import atomic_path, save_json

USAGE = """usage: python -m tools.preview [key=value ...] [output=FILE.png]

  python -m tools.preview                             the embedded competition
  python -m tools.preview competition=NAME augment.preset=heavy
  python -m tools.preview competition=NAME recipe=NAME output=seen.png

Draws six training images, of as many classes as there are: resized, then as
seven epochs see them, and mixed with each other where mix.prob says so. It
takes all settings of train.py (python train.py --help all lists them). Without
output=FILE.png the image is outputs/preview_<competition>_<recipe>.png. The
.json beside it holds the transforms that it prints."""

_WIDTH = 80
_NUM_ROWS = 6
_CELL, _DPI = 1.5, 100  # an image's longer side in inches, dots per inch


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        _preview(words)


def _preview(words):
    outputs = [word.partition("=")[2] for word in words if word.startswith("output=")]
    config = load_config([word for word in words if not word.startswith("output=")])
    default = Path(config.output_dir) / f"preview_{config.competition.name}_{config.recipe}.png"
    path = Path(outputs[-1]) if outputs else default
    if path.suffix != ".png":
        raise UserError(f"output={path}: not a PNG; choose a name that ends in .png")
    from src.analysis.batches import choose_rows, compute_columns  # here, since these imports take seconds
    from src.competition.demo import write_demo
    from src.competition.tables import load_train_table

    if config.competition.name == "demo":
        write_demo(config.competition.root)
    table = load_train_table(config.competition)
    table = table.take(choose_rows(table, _NUM_ROWS, config.seed))
    columns, transforms = compute_columns(config, table)
    changes = [word for word in words if not word.startswith(("competition=", "recipe=", "seed=", "output="))]
    title = f"competition={config.competition.name} recipe={config.recipe} seed={config.seed} {' '.join(changes)}"
    draw_columns(path, columns, title)
    shape = columns[0][1][0].shape
    counts = {"num_images": len(table), "num_views": len(columns), "shape": shape}
    save_json(path.with_suffix(".json"), counts | {"transforms": transforms, "mix_prob": config.mix.prob})
    print(f"wrote {path}: {len(table)} images x {len(columns)} views, each {'x'.join(map(str, shape))}")
    for line in transforms or ["nothing but a resize"]:
        indent = " " * (2 + len(line) - len(line.lstrip()))
        print(indent + textwrap.shorten(line, _WIDTH - len(indent), placeholder=" ..."))
    if config.mix.prob:
        print(f"  p={config.mix.prob:.2f} Mixup or CutMix of a whole batch; here these {len(table)} images are one")


def draw_columns(path, columns, title):
    """Write the grid of `analysis.batches.compute_columns` as a PNG; the same columns give the same file.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure  # without pyplot: draws with Agg, needs no screen
    except ModuleNotFoundError:
        raise UserError("tools.preview: matplotlib is missing; pip install matplotlib") from None
    from src.analysis.batches import to_uint8
    from src.analysis.figures import FONTS
    from src.analysis.labels import fit_caption

    matplotlib.rcParams["font.sans-serif"] = FONTS

    num_rows = len(columns[0][1])
    height, width = columns[0][1][0].shape[:2]
    tall, wide = (_CELL * side / max(height, width) for side in (height, width))
    wide_column, tall_row, top = max(wide, 0.8) + 0.1, tall + 0.38, 0.5  # inches, with room for two lines of caption
    figure = Figure(figsize=(wide_column * len(columns) + 0.1, tall_row * num_rows + top + 0.05), dpi=_DPI)
    across, down = figure.get_size_inches()
    title = textwrap.shorten(title, round(across * 12), placeholder=" ...")
    figure.text(0.1 / across, 1 - 0.17 / down, title, fontsize=9, va="center", color="0.3", parse_math=False)
    for number, (heading, images, captions) in enumerate(columns):
        left = 0.1 + number * wide_column
        figure.text(left / across, 1 - 0.41 / down, heading, fontsize=9, va="center", weight="bold")
        for row, image in enumerate(images):
            bottom = down - top - (row + 1) * tall_row
            axes = figure.add_axes((left / across, bottom / down, wide / across, tall / down))
            interpolation = "nearest" if max(height, width) < _CELL * _DPI else "antialiased"
            shown = to_uint8(image)
            shown = shown if shown.shape[2] == 3 else shown[..., 0]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation=interpolation, aspect="auto")
            axes.set_axis_off()
            if captions:
                caption = fit_caption(captions[row], num_letters=round(wide_column * 14))
                axes.set_title(caption, fontsize=8, loc="left", pad=2, parse_math=False)  # a $ is a $
    try:
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font lacks, a line for each
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output=FILE") from None


if __name__ == "__main__":
    main(sys.argv[1:])
