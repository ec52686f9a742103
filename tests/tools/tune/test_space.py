"""A space of settings is read and checked before anything starts, and what is wrong with it is one line."""

import math
from dataclasses import replace

import pytest

from src.config.load import load_config
from src.errors import UserError
from tools.tune.space import load_space

WORDS = ["competition=demo", "train.epochs=8"]


@pytest.fixture
def load(tmp_path):
    """load(text): the Parameters of a space.yaml; a UserError loses the file's path."""
    path = tmp_path / "space.yaml"

    def load(text, words=WORDS):
        path.write_text(text)
        try:
            return load_space(path, words)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{path}: ")) from None

    return load


def test_ranges_and_choices_become_words_of_train_py(load):
    found = load("""
optimizer.lr: {low: 1e-5, high: 1e-2, log: true}
optimizer.weight_decay: {low: 0, high: 1, step: 0.3}
train.batch_size: {low: 8, high: 33, step: 8}
image_size: {low: 16, high: 32, step: 8}
augment: {preset: [none, medium], kwargs: {rotate: {low: 0, high: 30}, scale: [[0.8, 1.2], [1, 1]]}}
loss.kwargs.gamma: {low: 1, high: 3}
loss.name: [focal]
""".replace("[focal]", "[focal, bce]"))  # fmt: skip
    lr, decay, batch = (found[key] for key in ("optimizer.lr", "optimizer.weight_decay", "train.batch_size"))
    assert (lr.low, lr.high, lr.log, lr.is_int) == (1e-5, 1e-2, True, False)
    assert lr.word(0.00123456789) == "optimizer.lr=0.001235"
    assert lr.word(1e-5) == "optimizer.lr=1e-05"
    assert (decay.high, decay.is_int) == (0.9, False)  # the last that steps of 0.3 reach
    assert (decay.num_values, batch.num_values, found["loss.name"].num_values, lr.num_values) == (4, 4, 2, math.inf)
    assert replace(decay, high=2000.0).word(1000.5) == "optimizer.weight_decay=1000.5"  # as the steps have it
    assert (batch.low, batch.high, batch.step, batch.is_int) == (8, 32, 8, True)
    assert found["augment.preset"].choices == ("none", "medium")  # a setting of text has no quotes
    assert found["augment.kwargs.scale"].choices == ("[0.8, 1.2]", "[1, 1]")
    assert found["augment.kwargs.rotate"].is_int
    assert not found["loss.kwargs.gamma"].is_int  # its default is 2.0
    words = [one.word((one.choices or (one.low,))[0]) for one in found.values()]
    config = load_config([*WORDS, *words])
    assert (config.optimizer.lr, config.image_size, config.loss.kwargs) == (1e-5, (16, 16), {"gamma": 1.0})
    assert config.augment.kwargs == {"rotate": 0, "scale": [0.8, 1.2]}
    assert [one.find(config) for one in found.values()] == [
        *(1e-5, 0.0, 8, 16, "none", 0, "[0.8, 1.2]", 1.0, "focal"),
    ]
    outside = load_config([*WORDS, "optimizer.lr=0.1", "train.batch_size=9", "image_size=[16,24]"])
    assert [found[key].find(outside) for key in ("optimizer.lr", "train.batch_size", "image_size")] == [None] * 3


REFUSED = {
    "": "an empty space; write lines such as optimizer.lr: {low: 1e-4, high: 1e-2, log: true}",
    "optimizer.lrr: {low: 1, high: 2}": "unknown setting optimizer.lrr; did you mean optimizer.lr?",
    "lr: [0.1, 0.2]": "unknown setting lr; did you mean optimizer.lr?",
    "augment.kwargs.rotat: [1, 2]": "augment.kwargs has no rotat; did you mean rotate?",
    "loss.kwargs.gama: [1, 2]": "loss.kwargs has no gama; did you mean gamma?",
    "optimizer.lr.x: [1, 2]": "unknown setting optimizer.lr.x",
    "optimizer.lr: 0.1": "optimizer.lr: 0.1 is neither a range nor a list of choices; write optimizer.lr: {low: ",
    "optimizer.lr: {low: 0.1}": "optimizer.lr: the range has no high; write",
    "optimizer.lr: {lo: 0.1, hi: 1}": "optimizer.lr: unknown lo (a range has low, high, step, log); did you mean low?",
    "optimizer.lr: {low: 1, high: 0.1}": "optimizer.lr: low=1 is not below high=0.1; exchange them",
    "optimizer.lr: {low: a, high: 1}": "optimizer.lr: low=a is no finite number; write",
    "optimizer.lr: {low: 0, high: 1, log: true}": "optimizer.lr: low=0 has no logarithm; set it above 0, or leave out",
    "optimizer.lr: {low: 0.1, high: 1, log: 3}": "optimizer.lr: log=3 is neither true nor false; write log: true",
    "optimizer.lr: {low: 0.1, high: 1, step: 2}": "optimizer.lr: step=2 must be above 0, at most 0.9",
    "optimizer.lr: {low: 0.1, high: 1, step: 0.1, log: true}": "optimizer.lr: step=0.1 does not go with log: true",
    "optimizer.lr: {low: -1, high: 1}": "optimizer.lr=-1.0: must be at least 0",
    "mix.prob: {low: 0, high: 2}": "mix.prob=2.0: must be from 0 to 1",
    "train.batch_size: {low: 1.5, high: 3}": "train.batch_size: takes whole numbers, low, high and step are 1.5, 3",
    "augment.preset: {low: 1, high: 3}": "augment.preset: takes no number; write a list of choices",
    "augment.preset: [light, medum]": "augment.preset=medum: not one of",
    "train.compile: [true, maybe]": "train.compile=maybe is not true or false",
    "augment.preset: [light]": "augment.preset: 1 choices, wanted are 2 or more",
    "augment.preset: [light, light]": "augment.preset: light is there twice; leave one out",
    "augment.kwargs: [1, 2]": "augment.kwargs: is a mapping; search one of its keys, such as augment.kwargs.NAME",
    "train.epochs: {low: 3, high: 9}": "train.epochs: is searched and given on the command line; leave out one of",
    "schedule.warmup_epochs: {low: 0, high: 9}": "schedule.warmup_epochs=9: leaves nothing of train.epochs=8",
    "fold_seed: [1, 2]": "fold_seed cannot be searched: all trials are scored on the same folds",
    "seed: [1, 2]": "seed cannot be searched: the luckiest seed is no better setting; train the best",
    "competition.metric: [roc_auc, accuracy]": "competition.metric cannot be searched: it says what is predicted",
    "infer.average: [mean, rank]": "infer.average cannot be searched: it is infer.py's",
    "train.select: [last, best]": "train.select cannot be searched: best is chosen by the validation rows",
    "train.teacher: [a, b]": "train.teacher cannot be searched: a teacher has seen the labels",
    **{f"{key}: [a, b]": f"{key} cannot be searched: it does not change what is trained; give it as a word"
       for key in ("name", "output_dir", "device", "launcher", "threads")},
    "[1, 2]": "holds list, not settings",
}  # fmt: skip


def test_what_cannot_be_searched_is_refused_in_one_line(load):
    for text, line in REFUSED.items():
        with pytest.raises(UserError) as error:
            load(text)
        assert str(error.value).startswith(line), text
