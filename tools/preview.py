"""Draw the images that training sees: python -m tools.preview [key=value ...] [output=FILE.png]

They come from the dataset that training reads, so the preview shows exactly what the network gets.
"""

import sys
import textwrap
from functools import partial
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
_NUM_ROWS, _NUM_AUGMENTED = 6, 7
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
    from src.competition.demo import write_demo  # here, since these imports take seconds and a typo should not
    from src.competition.tables import load_train_table

    if config.competition.name == "demo":
        write_demo(config.competition.root)
    table = load_train_table(config.competition)
    spread = table.strata if table.task == "regression" else table.targets
    table = table.take(choose_rows(spread, _NUM_ROWS, config.seed))
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


def choose_rows(targets, num_rows, seed):
    """Return rows (int) in random order, of each class one before a second of any, from targets (N, C) in [0, 1].

    A row counts as its rarest label; rows without a label are a class of their own.
    """
    import numpy as np
    import pandas as pd

    targets = np.nan_to_num(targets)
    has_label = (targets > 0) & (targets >= np.minimum(0.5, targets.max(axis=1, keepdims=True)))
    rarest = np.where(has_label, has_label.sum(axis=0), np.inf).argmin(axis=1)
    classes = pd.Series(np.where(has_label.any(axis=1), rarest, -1)).sample(frac=1, random_state=seed)
    return classes.groupby(classes).cumcount().sort_values(kind="stable").index[:num_rows].to_numpy()


def compute_columns(config, table):
    """Return the columns of the grid and a line for each transform.

    Returns:
        [(heading, images, captions), ...], the resized images first; images are (H, W, C) arrays, one for each row of
        the table (several images of a row side by side), captions their labels. Row k of epoch e is drawn with
        (config.seed, e, k).

    Raises:
        UserError: an image cannot be decoded, or the augmentation cannot be built.
    """
    import numpy as np

    from src.data.dataset import ImageDataset, build_loader
    from src.data.decode import decode_image
    from src.data.inspection import describe_transforms
    from src.data.mixup_cutmix import Mixer
    from src.data.transforms import build_augmentation, build_resize

    competition = config.competition
    is_uint8 = decode_image(str(table.paths[0]), competition).dtype == np.uint8
    augmentation = build_augmentation(config, is_uint8)
    datasets = [ImageDataset(table, competition, one, config.seed) for one in (build_resize(config), augmentation)]
    plain, augmented = (build_loader(dataset, len(table), num_workers=0) for dataset in datasets)

    is_binary = len(table.target_names) == 1 and table.task != "regression"
    names = config.competition.classes if is_binary else table.target_names
    names = names or table.target_names
    describe = partial(_describe_numbers if table.task == "regression" else _describe_targets, names=names)
    labels = [describe(targets) for targets in table.targets]
    ids = [f"{name}\n{label}" for name, label in zip(table.ids, labels, strict=True)]
    columns = [("resized", _join_images(next(plain.batches(0))["inputs"]), ids)]
    mixer = Mixer(config.mix) if config.mix.prob else None
    for epoch in range(_NUM_AUGMENTED):
        inputs, captions = next(augmented.batches(epoch))["inputs"], labels
        if augmentation.num_views > 1:
            views = [f"epoch {epoch}", *(f"epoch {epoch}, AugMix {number}" for number in (1, 2))]
            columns += [(heading, _join_images(inputs)[:, view], labels) for view, heading in enumerate(views)]
            continue
        if mixer:
            inputs, targets = _mix(mixer, inputs, table.targets, config.seed + epoch)
            captions = [describe(row) for row in targets]
        columns.append((f"epoch {epoch}", _join_images(inputs), captions))
    return columns[: 1 + _NUM_AUGMENTED], describe_transforms(augmentation.transforms)


def draw_columns(path, columns, title):
    """Write the grid of `compute_columns` as a PNG; the same columns give the same file.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: draws with Agg, needs no screen
    except ModuleNotFoundError:
        raise UserError("tools.preview: matplotlib is missing; pip install matplotlib") from None
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
            axes.imshow(_to_uint8(image), cmap="gray", vmin=0, vmax=255, interpolation=interpolation, aspect="auto")
            axes.set_axis_off()
            if captions:
                caption = _fit(captions[row], num_letters=round(wide_column * 14))
                axes.set_title(caption, fontsize=8, loc="left", pad=2, parse_math=False)  # a $ is a $
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output=FILE") from None


def _mix(mixer, inputs, targets, seed):
    """Mix the inputs {name: (N, ...) tensor} of one batch, and their targets."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    batch = {name: one.permute(0, 3, 1, 2).float() if one.ndim == 4 else one for name, one in inputs.items()}
    batch, targets = mixer(batch, torch.from_numpy(targets), generator)
    for name, one in inputs.items():
        if one.ndim == 4:
            mixed = batch[name].permute(0, 2, 3, 1)
            batch[name] = mixed if one.is_floating_point() else mixed.round().to(one.dtype)
    return batch, targets.numpy()


def _join_images(inputs):
    """Return the images (N, ..., H, W, C) of a batch as an array, several images of a row side by side."""
    import numpy as np

    return np.concatenate([one.numpy() for one in inputs.values() if one.ndim >= 4], axis=-2)


def _describe_targets(targets, names):
    """Return a row's targets as a caption: those that are not 0, the largest first; of one without classes its value.

    names: of the targets, or of a binary one's two classes.
    """
    if len(names) == 1:
        return f"{names[0]}={targets[0]:.2g}"
    values = targets.tolist() if len(targets) > 1 else [1 - targets[0], targets[0]]
    positive = sorted((-value, name) for value, name in zip(values, names, strict=True) if value >= 0.005)
    return ", ".join(name if value <= -0.995 else f"{name} {-value:.2f}" for value, name in positive) or "none"


def _describe_numbers(targets, names):
    """Return a row's numbers, of regression, as a caption."""
    return ", ".join(f"{name}={value:.4g}" for name, value in zip(names, targets, strict=True))


def _fit(caption, num_letters):
    """Return at most two lines, each cut in its middle where it is too long: names differ at their ends."""
    lines = caption.split("\n") if "\n" in caption else textwrap.wrap(caption, num_letters)
    half = num_letters // 2
    return "\n".join(line if len(line) <= num_letters else f"{line[: half - 1]}…{line[-half:]}" for line in lines[:2])


def _to_uint8(image):
    """Return (H, W, 3) or, of other numbers of channels the first, (H, W) uint8; floats are scaled to their range."""
    import numpy as np

    if image.shape[2] != 3:
        image = image[..., 0]
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return np.uint8(np.rint((image - low) * (255 / (high - low)))) if high > low else np.zeros_like(image, np.uint8)


if __name__ == "__main__":
    main(sys.argv[1:])
