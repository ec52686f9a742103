"""What test-time augmentation gives a run: python -m tools.tta RUN [views=hflip|[hflip,vflip]|d4|...]

Predicts the rows that each fold has not learned from, once under every view.
"""

import sys
import textwrap
from pathlib import Path

from src.config.registry import list_names
from src.errors import UserError, listing, one_line_errors

_WIDTH = 80
USAGE = f"""usage: python -m tools.tta RUN [views=NAME or views=[NAME,NAME]] [key=value ...]

  python -m tools.tta outputs/demo_default views=[hflip,scales]

Each fold's network predicts the rows that it has not learned from: the plain
image, and every view of it. Printed are the score of each alone, of their
plain mean as infer.tta takes it, and of a mean with weights, with 95 %
intervals and the difference to the plain image. A fold's weights are fitted on
the other folds (non-negative least squares), so that the score is not the
fitted one. The weights of all folds go to tta.json in the run's folder, with
the command that uses them.

  views=        {listing(list_names("inference/tta.py", "VIEWS"), 20)}
                left out: hflip
  output=FILE   where the numbers go, in place of tta.json
  device= threads= precision= train.num_workers= competition.root= ...
                where and how it runs, as infer.py takes them
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs = [word for word in words if "=" not in word]
        chosen = dict(word.split("=", 1) for word in words if "=" in word)
        if len(runs) != 1:
            raise UserError(f"command line: {len(runs)} runs, wanted is 1; write RUN, the folder of a run")
        from src.checkpointing.run_folder import load_run

        output, views = (chosen.pop(key, default) for key, default in (("output", None), ("views", "hflip")))
        others = [f"{key}={value}" for key, value in chosen.items()]
        if wrong := next((key for key in chosen if key.startswith("infer.") and key != "infer.batch_size"), None):
            raise UserError(f"command line: {wrong} is infer.py's; the views to try are views=[hflip,vflip]")
        try:
            run_folder, config = load_run([f"run={runs[0]}", f"infer.tta={views}", *others])
            if not config.infer.tta:
                raise UserError(f"views={views}: leaves nothing to try; write for example views=hflip")
            result = judge(run_folder, config)
        except UserError as error:
            raise UserError(str(error).replace("infer.tta=", "views=")) from None
        print(describe(result))
        from src.files import save_json

        save_json(Path(output or run_folder / "tta.json"), result)


def judge(run_folder, config):
    """Return what tta.json holds of a run folder, with the config's infer.tta."""
    from src.inference.tta import build_views

    views = build_views(config.infer.tta, config.image_size)
    run, probs = predict_views(run_folder, config, views)
    return {"run": str(run_folder), "tta": config.infer.tta} | compare_views(
        run.oof, run.config.competition, views, probs
    )


def predict_views(run_folder, config, views):
    """Return (the ReopenedRun, probs (1 + V, N, C) of its oof.csv's rows: of the plain image and of each view)."""
    import numpy as np
    from torch import nn

    from src.checkpointing.serialization import load_network
    from src.inference.predict import check_views
    from src.inference.reopened_run import ReopenedRun
    from src.training.engine import apply_view

    class Viewing(nn.Module):
        """A network that sees a view of its inputs; the image itself for None."""

        def __init__(self, network, view):
            super().__init__()
            self.network, self.view = network, view
            self.normalize, self.pixel_stats = network.normalize, network.pixel_stats

        def forward(self, **inputs):
            return self.network(**(apply_view(self.view, inputs) if self.view else inputs))

    run = ReopenedRun(config, run_folder)
    probs = np.empty((1 + len(views), *run.oof.probs.shape))
    for fold in run.folds:
        network = load_network(run.config, fold).place(run.device, run.config.train.channels_last)
        if fold is run.folds[0]:
            rows = np.flatnonzero(run.table.folds == fold.number)
            check_views(network, views.values(), run.build_loader(rows, batch_size=1), run.config)
        networks = [Viewing(network, view) for view in (None, *views.values())]
        probs[:, run.oof.folds == fold.number] = run.predict_fold(networks, fold.number, f"fold {fold.number}")
    return run, probs


def compare_views(oof, competition, views, probs):
    """Return scores, differences, weights and sentences of views, {name: function}, from their probs (1 + V, N, C)."""
    import numpy as np

    from src.evaluation.intervals import compare_scores, compute_verdict
    from src.evaluation.metrics import build_metric
    from src.evaluation.sampling import sample_scores

    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    names = ["plain", *views]
    mean, weights, nested = probs.mean(axis=0), fit_weights(oof.targets, probs), None
    if len(np.unique(oof.folds)) > 1:
        nested = np.empty_like(mean)
        for fold in np.unique(oof.folds):
            rows = oof.folds == fold
            nested[rows] = np.tensordot(fit_weights(oof.targets[~rows], probs[:, ~rows]), probs[:, rows], 1)
    shown = [*names, "mean", *(["weighted"] if nested is not None else [])]
    found = sample_scores(metric, oof.targets, [*probs, mean, *([] if nested is None else [nested])], oof.groups)
    scores = {name: compare_scores(found, place) for place, name in enumerate(shown)}
    facts = {"metric": metric.name, "rows": len(oof.ids), "groups": None if oof.groups is None else found.num_units,
             "scores": scores, "weights": dict(zip(names, weights.tolist(), strict=True))}  # fmt: skip

    def judge_pair(first, second):
        return compute_verdict(found.difference(first, second)[1:3], metric.greater_is_better)

    gained = judge_pair(0, len(names))
    sentences = [f"the plain mean of views {_WORDS[gained]} than the image alone: {_numbers(found, 0, len(names))}"]
    chosen = "mean" if gained > 0 else "plain"
    if nested is not None:
        gained = judge_pair(len(names), len(names) + 1)
        numbers = _numbers(found, len(names), len(names) + 1)
        sentences.append(f"the mean with weights, nested by fold, {_WORDS[gained]} than the plain mean: {numbers}")
        if gained > 0 and judge_pair(0, len(names) + 1) > 0:
            chosen = "weighted"
        elif chosen == "mean":
            sentences.append("the plain mean is as good as weights: leave infer.tta_weights out")
    if chosen == "plain":
        sentences.append("no views are shown to be better than the image alone: leave infer.tta out")
    return facts | {"chosen": chosen, "sentences": sentences}


_WORDS = {1: "is better", 0: "is not better beyond chance", -1: "is worse"}


def _numbers(found, first, second):
    from src.evaluation.intervals import describe_difference

    difference, low, high, _ = found.difference(first, second)
    return describe_difference(difference, (low, high))


def fit_weights(targets, probs):
    """Return the weights (M,) of a sum of 1 whose mean of M predictions (M, N, C) is closest to the targets (N, C).

    Reference: Breiman, Stacked Regressions, 1996, Machine Learning 24: non-negative least squares.
    """
    import numpy as np
    from scipy.optimize import nnls

    is_known = ~np.isnan(targets)
    weights = nnls(probs[:, is_known].T, targets[is_known])[0]
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(probs), 1 / len(probs))


def describe(result):
    """Return the result as text of 80 columns, with the command of what is chosen."""
    groups = f" in {result['groups']} groups" if result["groups"] else ""
    width = max(map(len, result["scores"]))
    lines = [f"{result['metric']} of {result['rows']} out-of-fold rows{groups}, 95 % intervals", ""]
    lines.append(f"  {'':<{width}}  score    low      high       to plain  low       high")
    for name, one in result["scores"].items():
        score = f"{one['score']:.5f}  {one['interval'][0]:.5f}  {one['interval'][1]:.5f}"
        low, high = one["difference_interval"]
        difference = "" if name == "plain" else f"  {one['difference']:+.5f}  {low:+.5f}  {high:+.5f}"
        lines.append(f"  {name:<{width}}  {score}  {difference}")
    weights = ", ".join(f"{name} {value:.3f}" for name, value in result["weights"].items())
    lines += ["", *textwrap.wrap(f"weights on all rows: {weights}", _WIDTH, subsequent_indent="  ")]
    for sentence in result["sentences"]:
        lines += textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)
    command = f"python infer.py run={result['run']}"
    if result["chosen"] != "plain":
        command += f" infer.tta=[{','.join(result['tta'])}]"
    if result["chosen"] == "weighted":
        command += f" infer.tta_weights=[{','.join(f'{value:.4f}' for value in result['weights'].values())}]"
    return "\n".join([*lines, command])


if __name__ == "__main__":
    main(sys.argv[1:])
