"""Linear models on frozen backbones: python -m tools.probe competition=NAME candidates=[BACKBONE,...] [key=value ...]

Features are computed once and kept; then every backbone, layer and C is judged in seconds.
"""

import math
import shlex
import sys

from src.config.settings import settings
from src.errors import UserError, listing, nearest, one_line_errors

JOINS = ("greedy", "pairs", "all", "off")
USAGE = """usage: python -m tools.probe competition=NAME candidates=[BACKBONE,...]
                                                     [key=value ...]

  python -m tools.probe competition=NAME
                        candidates=[mobilenetv2_100,tf_efficientnet_lite0]
  python -m tools.probe competition=NAME model.backbone=resnet18 layers=all
  python -m tools.probe competition=NAME candidates=[resnet18,outputs/sister]

Logistic regression (ridge for regression) on the features of frozen backbones,
which are computed once and kept (recipe=head_only shares them). Prints a line
for each backbone, layer and join with score and 95 % interval on the run's
folds; writes the best as outputs/NAME, a folder like a run's: oof.csv,
folds.csv, scores.json, config.yaml, probe.json, test.csv and submission.csv,
for tools.compare, tools.blend, tools.leaderboard and tools.report.

  candidates=[...]    backbones of timm; BACKBONE@FILE: with these weights;
                      outputs/sister: a run on other rows, its network of
                      fold=all, else of its first fold; outputs/sister/fold2.
                      Left out: model.backbone, which may be a list, too
  layers=last         last pooled features; all: each stage's or block's, too;
                      [3,last]: by number from 0 (-1: the last) or by name
  join=greedy         features of several beside each other: of the six best,
                      one after another while it helps; pairs: each two; off;
                      all: all layers of all backbones, and nothing else
  hflip=true          the mean of an image's features and of its mirror image's
  balance=true        classes, or a column's two sides, weigh the same
  C=[0.001,0.01]      the grid; left out: 1e-6 to 100, from the strongest
                      penalty on, ended where weaker ones have stopped to help
  metadata=false      competition.metadata's columns are left out
  name=NAME           left out: <competition>_probe; overwrite=true replaces a
                      probe of that name, never a trained run

All other words are settings as train.py takes them: model.weights=FOLDER,
image_size, num_folds, competition.group, threads ... (train.py --help all).

C is chosen for each fold on its training rows alone: the other folds take
turns in validating (of two folds: three parts of the training rows, split as
the folds are). Features are standardised on the training rows. Test predictions
are the mean of the folds' models. Rows of one group count as one.
"""
_KNOWN = {
    "candidates": None, "layers": "last", "join": "greedy", "hflip": "false", "balance": "false", "C": None,
    "metadata": "true",
}  # fmt: skip
# what would make other images, or other networks, than the features are of
_FIXED = ("model.freeze=head_only", "train.views=1", "mix.prob=0", "augment.augmix_consistency=0")


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        options, others = read_options(words)
        config = read_settings(others, options)
        kept = [word for word in words if not word.startswith("overwrite=")]
        options["command"] = shlex.join(["python", "-m", "tools.probe", *kept])
        from tools.probe.command import probe  # here, as help and a typo do not wait for what computes

        probe(config, options)


def read_options(words):
    """Return ({key: value} of the probe's own words, checked and typed; the other words)."""
    options, words_of_train, known = dict(_KNOWN), [], [*settings(), "competition", "recipe"]
    for word in words:
        key, sign, value = word.partition("=")
        is_list = key == "model.backbone" and value.startswith("[")
        if sign and (key in _KNOWN or is_list):
            if is_list or key == "candidates":
                if options["candidates"]:
                    raise UserError(f"command line: {word}: candidates are named twice; write them in one list")
                key = "candidates"
            options[key] = value
        else:
            if key not in known and (near := nearest(key, _KNOWN)):
                raise UserError(f"command line: {key} is not known{near}")
            words_of_train.append(word)
    for key in ("candidates", "layers", "C"):
        if options[key] is not None:
            listed = [one.strip(" '\"") for one in options[key].strip("[] ").split(",")]
            options[key] = list(dict.fromkeys(one for one in listed if one))
            if not options[key]:
                raise UserError(f"command line: {key}= names nothing; leave it out, or see --help")
    if options["layers"] in (["last"], ["all"]):
        [options["layers"]] = options["layers"]
    elif "all" in options["layers"]:
        raise UserError("command line: layers: all stands alone; write layers=all")
    else:
        options["layers"] = [int(one) if one.lstrip("-").isdigit() else one for one in options["layers"]]
    if options["join"] not in JOINS:
        found = f"join={options['join']} is not one of {listing(JOINS)}"
        raise UserError(f"command line: {found}{nearest(options['join'], JOINS) or '; choose one of them'}")
    for key in ("hflip", "balance", "metadata"):
        if options[key] not in ("true", "false"):
            raise UserError(f"command line: {key}={options[key]} is neither true nor false; write {key}=true")
        options[key] = options[key] == "true"
    if options["C"]:
        options["C"] = sorted(_read_c(one) for one in options["C"])
    return options, words_of_train


def _read_c(text):
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise UserError(f"command line: C={text} is no number above 0; write for example C=[0.001,0.01]")


def read_settings(words, options):
    """Return the Config of the other words, with what a probe asks for."""
    from src.config.load import load_config

    for word in words:
        key, _, value = word.partition("=")
        if key == "model.backbone" and options["candidates"]:
            raise UserError(f"command line: {word} beside candidates=; write it into that list")
        if key == "fold" and value != "null":
            raise UserError(f"command line: {word}: a probe is of all folds; leave it out")
        if key in ("model.freeze", "train.views"):
            raise UserError(f"command line: {word}: a probe's backbone is frozen, its images are plain; leave it out")
    plain = load_config(words)
    if not plain.model.pretrained:
        found = "model.pretrained=false: features of random weights would say nothing of the backbone"
        raise UserError(f"{found}; set model.pretrained=true")
    if plain.model.pool == "gem":
        raise UserError("model.pool=gem: its power is learned with the backbone; set model.pool=avg")
    if plain.competition.images_as == "attention":
        raise UserError("competition.images_as=attention: its weights are learned in training; set it to mean or max")
    if options["balance"] and plain.competition.task == "regression":
        raise UserError("command line: balance=true counts classes, and regression has none; leave it out")
    name = plain.name or f"{plain.competition.name}_probe"
    return load_config([*words, *_FIXED, f"name={name}"])


if __name__ == "__main__":
    main(sys.argv[1:])
