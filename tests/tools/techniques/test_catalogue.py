"""The catalogue is complete, and each of its entries loads or is refused for a known reason."""

import re

import pytest

from src.config.settings import settings
from src.errors import UserError
from src.files import save_text
from src.model.head import ACTIVATIONS, INITIALIZERS
from src.model.losses import check_loss
from tools.techniques.catalogue import CATALOGUE
from tools.techniques.study import BASE, lineage, read_words

PRETRAINED_ONLY = {"head only", "last stage only", "gradual unfreezing", "head first, then all"}
SCRATCH_ONLY = {one.name for one in CATALOGUE if one.words.startswith(("model.norm=", "model.init="))}
VALUES_ONLY = "mean absolute error"
# what each kind of competition refuses, for the loss, since its weights are random, or since they are not
REFUSED = {
    "binary": {"cross-entropy", VALUES_ONLY} | SCRATCH_ONLY,
    "multilabel": {"cross-entropy", VALUES_ONLY} | SCRATCH_ONLY,
    "multiclass": {"binary cross-entropy", "asymmetric", VALUES_ONLY} | SCRATCH_ONLY,
    "demo": {"binary cross-entropy", "asymmetric", "frozen BatchNorm", VALUES_ONLY} | PRETRAINED_ONLY,
}
OPTIMIZERS = [
    *("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop"),
    *("adam", "nadam", "adamw", "radam", "lion", "lamb"),
]


def _competition(folder, task):
    """Write the settings of a competition without data; return the words that name it."""
    if task == "demo":
        return []
    columns = {"binary": "targets: [sick]", "multilabel": "targets: [one, two]", "multiclass": "label: kind"}
    save_text(folder / f"{task}.yaml", f"competition: {{train_table: t.csv, task: {task}, {columns[task]}}}\n")
    return [f"competition={folder / task}.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["demo", "binary", "multiclass"])  # multilabel refuses what binary does
def test_every_technique_loads_or_is_refused_for_a_known_reason(tmp_path, task):
    study = read_words(_competition(tmp_path, task))
    refused = set()
    for one in CATALOGUE:
        try:
            check_loss(study.config_of(one, 1))
        except UserError:
            refused.add(one.name)
    assert refused == REFUSED[task]


def test_slugs_are_unique_and_every_entry_has_a_sentence_and_a_source():
    assert len({one.slug for one in (*CATALOGUE, BASE)}) == len(CATALOGUE) + 1
    for one in CATALOGUE:
        assert one.text.endswith("."), one.name
        assert re.search(r"\d{4}", one.source), one.name
        assert all(re.fullmatch(r"\d{4}\.\d{4,5}", found) for found in re.findall(r"arXiv:([^\s,;]+)", one.source)), (
            one.name
        )
        assert "|" not in one.text + one.source


@pytest.mark.house
def test_every_choice_of_the_textbooks_is_in_the_catalogue():
    words = {word for one in CATALOGUE for word in one.words.split("  ")}
    assert {f"optimizer.name={name}" for name in OPTIMIZERS} <= words
    choices = {key: settings()[key].metadata["choices"] for key in ("schedule.name", "loss.name", "augment.preset")}
    choices |= {"model.head_kwargs.init": INITIALIZERS, "model.kwargs.act_layer": ACTIVATIONS}
    for key, names in choices.items():
        assert {f"{key}={name}" for name in names if name not in ("auto", "relu")} <= words, key


def test_parents_come_before_what_builds_on_them():
    for place, one in enumerate(CATALOGUE):
        assert all(CATALOGUE.index(parent) < place for parent in lineage(one)[:-1]), one.name
