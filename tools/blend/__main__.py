"""Blend what runs predict: python -m tools.blend RUN_A RUN_B ... [FILE.csv ...] name=NAME [method=auto]

Reads out-of-fold and test predictions; nothing is trained on images, no image is read.
"""

import shlex
import sys

from src.errors import UserError, listing, nearest, one_line_errors

METHODS = ("auto", "mean", "rank", "power", "hill", "nnls", "logistic", "linear")
STACKS = ("lightgbm", "gradient_boosting", "logistic")
USAGE = """usage: python -m tools.blend RUN_A RUN_B ... [FILE.csv ...] name=NAME
                                                        [key=value ...]

  python -m tools.blend outputs/a outputs/b name=both
  python -m tools.blend outputs/a outputs/b oof.csv+test.csv name=all
  python -m tools.blend outputs/a name=c stack=lightgbm metadata=[sex,age,site]

Writes outputs/NAME, a folder like a run's: oof.csv, folds.csv, scores.json,
config.yaml, blend.json, and where every input has test predictions (infer.py)
also test.csv and submission.csv, with infer.py's checks. tools.compare and
tools.blend take it as they take a run.

Others' predictions are CSVs: an id column (the competition's, `id`, or the
first) and a column for each target, maybe with one prefix or suffix; of a
binary target any single column. OOF.csv holds out-of-fold rows,
OOF.csv+TEST.csv test rows too; or a folder of oof.csv and test.csv (or
submission.csv). One run at least is needed: its folds and targets count.

  method=auto      the plain mean, unless another is better beyond noise; or
      mean         equal weights
      rank         equal weights of ranks, for metrics of the order (ROC AUC)
      power        equal weights of a power of the probabilities;
                   power=EXPONENT (0: the geometric mean), else the best of four
      hill         hill climbing with replacement, bagged (Caruana 2004)
      nnls         least squares, no weight below 0, bagged
      logistic     logistic regression of logits, column by column, bagged
      linear       the same of values, for competition.task=regression
  per_column=true  hill, nnls: weights for each column
  ranks=fold       ranks among the rows of a fold; all (default): of all rows
  prune=0.999      an input that correlates more with a better one is left out;
                   prune=off: none is
  stack=lightgbm   (pip install lightgbm), gradient_boosting or logistic: learns
                   from the predictions and
  metadata=[a,b]   columns of the tables: numbers, categories, gaps; with
                   competition.group predictions and numbers also relative to
                   the group's mean, which needs no columns
  seed=0           of the bags
  overwrite=true   replaces a blend of that name; never a trained run
  output_dir=      where outputs/NAME is written
  competition.root=  where the competition's data lies now

Nested scores: a fold's rows are predicted by weights that the other folds
chose; oof.csv holds these. In-sample ones, of weights fitted on the same rows,
promise too much (where chance puts them below the nested one, that is shown).
auto, hill, nnls, logistic and linear give no weight to an input that is no
better than chance. Intervals are 95 %; rows of one group count as one.
"""
_KNOWN = {
    "name": None, "method": "auto", "per_column": "false", "ranks": "all", "prune": "0.999", "power": None,
    "stack": None, "metadata": None, "seed": "0", "overwrite": "false", "output_dir": None, "competition.root": None,
}  # fmt: skip


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        paths = [word for word in words if "=" not in word]
        options = read_options(words)
        kept = [word for word in words if not word.startswith("overwrite=")]
        options["command"] = shlex.join(["python", "-m", "tools.blend", *kept])
        if not paths:
            raise UserError("command line: no inputs; write RUN_A RUN_B, folders of runs")
        from tools.blend.command import blend_runs  # here, as help and a typo do not wait for what computes

        blend_runs(paths, options)


def read_options(words):
    """Return {key: value} of the key=value words, checked and typed."""
    options = dict(_KNOWN)
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key not in _KNOWN:
            raise UserError(f"command line: {word} is not known{nearest(key, _KNOWN)}; it takes {listing(_KNOWN, 20)}")
        if sign:
            options[key] = value
    name = options["name"] or ""
    if not name.isprintable() or not name.strip() or "/" in name or name.startswith("."):
        raise UserError(f"command line: name={name} is no folder's name; write for example name=blend")
    for key, known in (("method", METHODS), ("stack", STACKS), ("ranks", ("all", "fold"))):
        if options[key] is not None and options[key] not in known:
            found = f"{key}={options[key]} is not one of {listing(known)}"
            raise UserError(f"command line: {found}{nearest(options[key], known)}; choose one of them")
    for key in ("per_column", "overwrite"):
        if options[key] not in ("true", "false"):
            raise UserError(f"command line: {key}={options[key]} is neither true nor false; write {key}=true")
        options[key] = options[key] == "true"
    for key, kind, low, high in (("prune", float, 0, 1), ("power", float, 0, 100), ("seed", int, 0, 2**32 - 1)):
        if options[key] is not None and (key, options[key]) != ("prune", "off"):
            options[key] = _read_number(key, options[key], kind, low, high)
    if options["power"] is not None and options["method"] != "power":
        raise UserError(f"command line: power= belongs to method=power, not to {options['method']}; leave one out")
    if options["metadata"] is not None:
        options["metadata"] = [one.strip() for one in options["metadata"].strip("[]").split(",") if one.strip()]
    if options["metadata"] and not options["stack"]:
        raise UserError("command line: metadata= needs stack=lightgbm, which learns from these columns; write both")
    if options["stack"] and options["method"] != "auto":
        raise UserError(f"command line: stack={options['stack']} and method={options['method']}: keep one of them")
    return options


def _read_number(key, text, kind, low, high):
    try:
        value = kind(text)
        if low <= value <= high:
            return value
    except ValueError:
        pass
    also = " or off" if key == "prune" else ""
    example = f"for example {key}={_KNOWN[key] or 2}"
    raise UserError(f"command line: {key}={text} is no number from {low} to {high}{also}; {example}")


if __name__ == "__main__":
    main(sys.argv[1:])
