"""Names and keywords of registries, read without importing their files; the check of the user's keywords."""

import importlib

import pytest

from src.config.registry import check_kwargs, list_keywords, list_names
from src.config.settings import settings
from src.errors import UserError

REGISTRIES = [
    ("competition/splits.py", "SPLITS"),
    ("data/augmentations.py", "AUGMENTATIONS"),
    ("data/augmentations.py", "FLIPS"),
    ("data/augmentations.py", "PRESETS"),
    ("data/samplers.py", "SAMPLERS"),
    ("evaluation/metrics.py", "METRICS"),
    ("inference/ensemble.py", "ENSEMBLES"),
    ("inference/tta.py", "VIEWS"),
    ("model/backbone.py", "BACKBONES"),
    ("model/head.py", "HEADS"),
    ("model/head.py", "POOLINGS"),
    ("model/losses.py", "LOSSES"),
    ("training/averaging.py", "AVERAGES"),
    ("training/optimizer.py", "OPTIMIZERS"),
    ("training/schedule.py", "SCHEDULES"),
]


@pytest.mark.parametrize(("file", "registry"), REGISTRIES, ids=[registry for _, registry in REGISTRIES])
def test_names_are_those_of_the_imported_registry(file, registry):
    module = importlib.import_module(f"src.{file.removesuffix('.py').replace('/', '.')}")
    assert list_names(file, registry) == tuple(getattr(module, registry)) != ()


def test_every_registry_of_a_setting_is_known_here():
    assert {one.metadata["kwargs_of"] for one in settings().values()} - {None} <= set(REGISTRIES)
    assert settings()["loss.name"].metadata["choices"] == ("auto", *list_names("model/losses.py", "LOSSES"))


def test_keywords_are_those_with_a_default():
    assert list_keywords("training/schedule.py", "SCHEDULES")["polynomial"] == "power=0.9"
    assert list_keywords("model/head.py", "HEADS")["mlp"].startswith("widths=[], activation=relu, ")
    assert "cosine" not in list_keywords("training/schedule.py", "SCHEDULES")
    assert list_names("training/nothing.py", "NOTHING") == ()


def focal(logits, targets, gamma=2.0, rounds=1, kind="a", widths=(), is_on=False, anything=None):
    return gamma


def check(kwargs, **ranges):
    check_kwargs("loss.kwargs", focal, kwargs, **ranges)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"gamma": 1},
        {"gamma": 0.5, "rounds": 3, "kind": "b", "widths": [64], "is_on": True, "anything": {"a": []}},
        {"anything": 3},
    ],
)
def test_right_keywords_pass(kwargs):
    check(kwargs, gamma=(0, None), rounds=(1, 3), kind=("a", "b"))


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"gama": 1}, "loss.kwargs: focal has no gama (it has gamma, rounds, kind, widths, is_on, anything); "
         "did you mean gamma?"),
        ({"logits": 1}, "loss.kwargs: focal has no logits (it has gamma, rounds, kind, widths, is_on, anything); "
         "leave it out, or empty what a file sets with loss.kwargs={}"),
        ({"gamma": "x"}, "loss.kwargs.gamma=x: must be a number; the default is 2.0"),
        ({"gamma": True}, "loss.kwargs.gamma=True: must be a number; the default is 2.0"),
        ({"gamma": None}, "loss.kwargs.gamma=None: must be a number; the default is 2.0"),
        ({"gamma": -1}, "loss.kwargs.gamma=-1: must be at least 0"),
        ({"gamma": float("nan")}, "loss.kwargs.gamma=nan: must be a finite number at least 0"),
        ({"rounds": 1.5}, "loss.kwargs.rounds=1.5: must be a whole number; the default is 1"),
        ({"rounds": 4}, "loss.kwargs.rounds=4: must be from 1 to 3"),
        ({"anything": float("inf")}, "loss.kwargs.anything=inf: must be a finite number"),
        ({"kind": "c"}, "loss.kwargs.kind=c: not one of a, b"),
        ({"widths": 3}, "loss.kwargs.widths=3: must be a list; the default is ()"),
        ({"is_on": 1}, "loss.kwargs.is_on=1: must be true or false; the default is False"),
    ],
)  # fmt: skip
def test_each_wrong_keyword_has_its_own_line(kwargs, expected):
    with pytest.raises(UserError) as caught:
        check(kwargs, gamma=(0, None), rounds=(1, 3), kind=("a", "b"))
    assert str(caught.value) == expected


def test_a_function_without_keywords_and_one_that_takes_all():
    with pytest.raises(UserError) as caught:
        check_kwargs("loss.kwargs", lambda logits: logits, {"gamma": 1}, "bce")
    assert str(caught.value) == (
        "loss.kwargs: bce has no gamma (it has none); leave it out, or empty what a file sets with loss.kwargs={}"
    )
    check_kwargs("optimizer.kwargs", lambda params, momentum=0.9, **kwargs: params, {"betas": [0.9, 0.99], "a": 1})
    with pytest.raises(UserError, match=r"optimizer\.kwargs\.momentum=x: must be a number"):
        check_kwargs("optimizer.kwargs", lambda params, momentum=0.9, **kwargs: params, {"momentum": "x"})


def test_a_list_whose_default_holds_numbers_holds_finite_numbers():
    for value in ("a", float("inf")):
        with pytest.raises(UserError) as caught:
            check_kwargs("a.kwargs", {"betas": (0.9, 1)}, {"betas": [0.5, value]}, "a")
        assert str(caught.value) == f"a.kwargs.betas={value}: must be a finite number"
    check_kwargs("a.kwargs", {"betas": (0.9, 1), "names": ("a",)}, {"betas": [1, 0.5, 3], "names": ["b"]}, "a")


def test_keywords_are_checked_against_defaults_without_a_function():
    check_kwargs("a.kwargs", {"epochs": None}, {"epochs": None}, "a", epochs=(0.5, None))
    number = "a finite number at least 0.5"
    for value, right in (("x", number), ([1], number), (0.1, "at least 0.5"), (10**16, "from 0.5 to")):
        with pytest.raises(UserError) as caught:
            check_kwargs("a.kwargs", {"epochs": None}, {"epochs": value}, "a", epochs=(0.5, None))
        assert str(caught.value).startswith(f"a.kwargs.epochs={value}: must be {right}")
    with pytest.raises(UserError, match=r"^a\.kwargs: a has no epoch \(it has epochs\); did you mean epochs\?$"):
        check_kwargs("a.kwargs", {"epochs": None}, {"epoch": 1}, "a")
