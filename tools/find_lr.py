"""python -m tools.find_lr key=value ...: raise the learning rate while training a little, and propose one."""

import sys
from pathlib import Path

from src.config.help import help_text
from src.config.load import load_config
from src.errors import UserError, one_line_errors
from src.files import atomic_path, save_table

_CLEAR_FALL = 0.1  # share of the loss; less than it falls by chance too

USAGE = """usage: python -m tools.find_lr [key=value ...]

  python -m tools.find_lr                        the embedded competition
  python -m tools.find_lr competition=NAME recipe=finetune train.batch_size=64

It takes the words of train.py and trains 200 steps on one fold's training rows,
from a thousandth of optimizer.lr up to a thousand times of it. It prints a rate
to paste, and draws the curve in outputs/lr_<competition>_<recipe>.png; the same
numbers are in the .csv. A rate holds for its optimizer, batch size and
backbone. All settings, with defaults:
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE + help_text())
            return
        config = load_config(words)
        try:
            import matplotlib  # noqa: F401  asked for first, since the sweep takes minutes
        except ImportError:
            raise UserError("tools.find_lr: draws with matplotlib; pip install matplotlib") from None
        from tools.lr_finder import find_lr  # here, since torch takes seconds and a typo should not

        report(config, *find_lr(config))


def report(config, sweep, proposal, num_images):
    """Write the sweep's CSV and picture, and print the proposal as a word to paste.

    Args:
        config: src.config.settings.Config.
        sweep: table of `lr_finder.sweep_lr`.
        proposal: lr_finder.Proposal; None: the loss fell at no rate.
        num_images: training images of the fold.

    Raises:
        UserError: there is no proposal; both files are written all the same.
    """
    path = Path(config.output_dir) / f"lr_{config.competition.name}_{config.recipe}.png"
    save_table(path.with_suffix(".csv"), sweep)
    title = f"{config.model.backbone}, batch size {config.train.batch_size * config.optimizer.accumulate_steps}"
    draw_sweep(path, sweep, proposal, config.optimizer.lr, title)
    print(f"{title}: {len(sweep)} steps, {num_images} training images")
    print(f"{path}\n{path.with_suffix('.csv')}")
    if proposal is None:
        raise UserError(f"{path}: the loss fell at no rate; look at the data, the loss and model.freeze")
    print(
        f"optimizer.lr={proposal.lr:.1e}   (now {config.optimizer.lr:.1e}; the loss was lowest at "
        f"{proposal.lowest:.1e})"
    )
    if proposal.fall < _CLEAR_FALL:
        print(f"the loss fell by {proposal.fall:.0%} only, so this is a guess: look at the picture")


def draw_sweep(path, sweep, proposal, lr_now, title):
    """Draw the losses over the rate as a PNG; arguments as in `report`, lr_now the config's rate."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(sweep["lr"], sweep["loss"], color="tab:blue", alpha=0.3, label="loss of each step")
    axes.plot(sweep["lr"], sweep["smoothed"], color="tab:blue", linewidth=2.5, label="smoothed")
    if proposal is not None:
        height = sweep["smoothed"][(sweep["lr"] - proposal.lr).abs().idxmin()]
        axes.plot(proposal.lr, height, "o", color="tab:red", markersize=10, label=f"proposal {proposal.lr:.1e}")
    if lr_now > 0:
        axes.axvline(lr_now, color="black", linestyle="--", label=f"optimizer.lr {lr_now:.1e}")
    low, high = sweep["smoothed"].min(), sweep["smoothed"].iloc[0]
    margin = 0.2 * (high - low) or 1.0
    axes.set(xscale="log", xlabel="learning rate of the backbone", ylabel="training loss", title=title)
    axes.set_ylim(low - margin, high + 3 * margin)  # or the explosion at the end flattens all that matters
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    main(sys.argv[1:])
