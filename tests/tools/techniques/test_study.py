"""The words of a study, factors of the base's values, and what a technique is compared with."""

import pytest

from src.config.load import load_config
from src.errors import UserError
from tools.techniques.catalogue import CATALOGUE
from tools.techniques.study import BASE, choose, differs, find, read_words, resolve_word


def test_factors_multiply_the_base():
    base = load_config(["optimizer.lr=0.01", "train.epochs=5", "image_size=32"])
    assert resolve_word("optimizer.lr=x30", base) == "optimizer.lr=0.3"
    assert resolve_word("train.epochs=x2", base) == "train.epochs=10"
    assert resolve_word("train.batch_size=x0.01", base) == "train.batch_size=1"
    assert resolve_word("image_size=x0.5", base) == "image_size=[16,16]"
    assert resolve_word("model.head_kwargs.init=xavier_normal", base) == "model.head_kwargs.init=xavier_normal"


def test_only_includes_what_it_is_compared_with():
    names = [one.name for one in choose(["AugMix with consistency"])]
    assert names == ["base", "no augmentation", "AugMix", "AugMix with consistency"]
    assert {one.area for one in choose(["schedules"])} == {"", "schedules"}
    assert len(choose([])) == len(CATALOGUE) + 1
    with pytest.raises(UserError, match="only=cosinus: no such area or technique; did you mean cosine"):
        choose(["cosinus"])


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("fast", "'fast' is not key=value"),
        ("seed=3", "seed=3: the study sets it"),
        ("seeds=a", "seeds=a: not whole numbers"),
        ("write=docs", "write=docs: not a Markdown file"),
        ("optimizer.lrr=1", "unknown setting optimizer.lrr"),
    ],
)
def test_a_wrong_word_is_named(word, complaint):
    with pytest.raises(UserError, match=complaint):
        read_words([word])


@pytest.mark.slow
def test_what_the_base_has_already_is_not_trained(tmp_path):
    study = read_words([f"output={tmp_path}", "augment.preset=none"])
    for name in ("Adam", "cosine", "cross-entropy", "BatchNorm that keeps learning", "no augmentation", "from scratch"):
        assert not differs(study.config_of(find(name), 1), study.config_of(BASE, 1)), name
    assert study.reference_of(find("rotate")) is BASE
    assert study.reference_of(find("AugMix with consistency")).name == "AugMix"
