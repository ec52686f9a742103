"""The catalogue is whole and loads; the study's table is what its runs' scores say, and goes on where it stopped."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks import techniques
from benchmarks.catalogue import CATALOGUE
from benchmarks.pictures import EPOCHS, STEPS_PER_EPOCH, draw_schedules, learning_rates
from benchmarks.techniques import BASE, choose, find, lineage, read_words, resolve_word
from src.config.load import config_yaml, load_config
from src.config.settings import REPOSITORY, Schedule, settings
from src.errors import UserError
from src.evaluation.intervals import paired_interval
from src.files import load_json, save_json, save_text

PRETRAINED_ONLY = {"head only", "last stage only", "gradual unfreezing", "head first, then all"}
# what each kind of competition refuses, for the loss or since its weights are random
REFUSED = {
    "binary": {"cross-entropy"},
    "multilabel": {"cross-entropy"},
    "multiclass": {"binary cross-entropy", "asymmetric"},
    "demo": {"binary cross-entropy", "asymmetric", "frozen BatchNorm"} | PRETRAINED_ONLY,
}
OPTIMIZERS = [
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "rmsprop",
    "adam",
    "nadam",
    "adamw",
    "radam",
    "lion",
    "lamb",
]


def _competition(folder, task):
    """The words for a competition of that task, of which only the settings are there."""
    if task == "demo":
        return []
    columns = {"binary": "targets: [answer]", "multilabel": "targets: [one, two]", "multiclass": "label: kind"}
    save_text(folder / f"{task}.yaml", f"competition: {{train_table: t.csv, task: {task}, {columns[task]}}}\n")
    return [f"competition={folder / task}.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("task", REFUSED)
def test_every_technique_loads_or_is_refused_for_a_known_reason(tmp_path, task):
    study = read_words(_competition(tmp_path, task))
    refused = set()
    for one in CATALOGUE:
        try:
            study.config_of(one, 1)
        except UserError:
            refused.add(one.name)
    assert refused == REFUSED[task]


def test_slugs_are_unique_and_every_entry_says_what_and_whence():
    assert len({one.slug for one in (*CATALOGUE, BASE)}) == len(CATALOGUE) + 1
    for one in CATALOGUE:
        assert one.text.endswith("."), one.name
        assert re.search(r"\d{4}", one.source), one.name
        assert all(re.fullmatch(r"\d{4}\.\d{4,5}", found) for found in re.findall(r"arXiv:([^\s,;]+)", one.source)), (
            one.name
        )
        assert "|" not in one.text + one.source


def test_every_choice_of_the_textbooks_is_in_the_catalogue():
    words = {word for one in CATALOGUE for word in one.words.split("  ")}
    assert {f"optimizer.name={name}" for name in OPTIMIZERS} <= words
    for key in ("schedule.name", "loss.name", "model.head_init", "model.backbone_activation", "augment.preset"):
        choices = set(settings()[key].metadata["choices"]) - {"auto", "default", "relu"}
        assert {f"{key}={choice}" for choice in choices} <= words, key


def test_parents_come_before_what_builds_on_them():
    for place, one in enumerate(CATALOGUE):
        assert all(CATALOGUE.index(parent) < place for parent in lineage(one)[:-1]), one.name


def test_times_are_taken_of_the_base():
    base = load_config(["optimizer.lr=0.01", "train.epochs=5", "image_size=32"])
    assert resolve_word("optimizer.lr=x30", base) == "optimizer.lr=0.3"
    assert resolve_word("train.epochs=x2", base) == "train.epochs=10"
    assert resolve_word("train.batch_size=x0.01", base) == "train.batch_size=1"
    assert resolve_word("image_size=x0.5", base) == "image_size=[16,16]"
    assert resolve_word("model.head_init=xavier_normal", base) == "model.head_init=xavier_normal"


def test_only_brings_what_it_is_compared_with():
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


def _finish(study, technique, scores):
    """Write the scores that finished runs would leave: {seed: [score of each fold]}."""
    for seed, folds in scores.items():
        folder = study.output / f"{technique.slug}_seed{seed}"
        save_text(folder / "config.yaml", config_yaml(study.config_of(technique, seed)))
        save_text(folder / "folds.csv", "id,fold\n" + "".join(f"{row},{row % len(folds)}\n" for row in range(10)))
        folds = dict(enumerate(folds))
        save_json(folder / "scores.json", {"mean": 0, "folds": folds, "seconds": 2.0})


@pytest.mark.slow
def test_the_table_by_hand(tmp_path):
    study = read_words(["seeds=1,2", f"output={tmp_path}", "only=SiLU in the head,zero first weights", "num_folds=2"])
    _finish(study, BASE, {1: [0.90, 0.92], 2: [0.91, 0.93]})
    _finish(study, find("zero first weights"), {1: [0.95, 0.97], 2: [0.96, 0.98]})
    _finish(study, find("hidden layer"), {1: [0.80, 0.81], 2: [0.82, 0.83]})
    _finish(study, find("SiLU in the head"), {1: [0.81, 0.80], 2: [0.84, 0.82]})
    rows = techniques.compute_rows(study, {}).set_index("technique")
    zero, silu = rows.loc["zero first weights"], rows.loc["SiLU in the head"]
    assert zero["difference"] == pytest.approx(0.05)
    assert zero["is_beyond_chance"]
    assert silu["against"] == "hidden layer"
    assert silu["difference"] == pytest.approx((0.01 - 0.01 + 0.02 - 0.01) / 4)
    assert (silu["low"], silu["high"]) == pytest.approx(paired_interval([0.01, -0.01, 0.02, -0.01], 2)[1:])
    assert not silu["is_beyond_chance"]
    text = techniques.table_text(study, techniques.compute_rows(study, {}), {})
    assert "| .96500 | **+.05000 [+.05000, +.05000]** | 2.0 |" in text
    assert "`model.head_activation=silu`, against hidden layer" in text


def test_only_the_part_between_the_marks_is_written(tmp_path):
    document = tmp_path / "techniques.md"
    study = read_words(["seeds=1", f"output={tmp_path}/runs", "only=Adam", "num_folds=2", f"write={document}"])
    _finish(study, BASE, {1: [0.90, 0.92]})
    save_text(document, "before\n<!-- techniques:demo -->\nlast week\n<!-- /techniques:demo -->\nafter\n")
    techniques._write(study, {"Adam": "already in the base"})
    text = document.read_text()
    assert text.startswith("before\n<!-- techniques:demo -->\n`python -m benchmarks.techniques num_folds=2 seeds=1`")
    assert text.endswith("- Adam: already in the base.\n<!-- /techniques:demo -->\nafter\n")
    assert "last week" not in text
    assert str(tmp_path) not in text


def test_runs_of_other_settings_are_not_taken_for_this_study(tmp_path):
    study = read_words(["seeds=1", f"output={tmp_path}", "only=Adam", "num_folds=2"])
    _finish(study, BASE, {1: [0.90, 0.92]})
    other = read_words(["seeds=1", f"output={tmp_path}", "only=Adam", "num_folds=2", "train.epochs=9"])
    assert techniques.is_finished(study.config_of(BASE, 1))
    with pytest.raises(UserError, match=r"train\.epochs=9 \(was 6\); choose another output=DIR"):
        techniques.is_finished(other.config_of(BASE, 1))


@pytest.mark.slow
def test_what_the_base_has_already_is_not_trained(tmp_path):
    study = read_words([f"output={tmp_path}", "augment.preset=none"])
    for name in ("Adam", "cosine", "cross-entropy", "BatchNorm that keeps learning", "no augmentation", "from scratch"):
        assert not techniques.differs(study.config_of(find(name), 1), study.config_of(BASE, 1)), name
    assert study.reference_of(find("rotate")) is BASE
    assert study.reference_of(find("AugMix with consistency")).name == "AugMix"


@pytest.mark.slow
def test_a_study_trains_and_the_second_time_skips(tmp_path):
    words = ["only=constant rate,head only", "seeds=5,6", "output=runs", "num_folds=2", "train.epochs=1"]
    words += ["train.max_images=32", "image_size=16", "write=techniques.md"]

    def study():
        command = [sys.executable, "-m", "benchmarks.techniques", *words]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    first = study()
    assert first.returncode == 0, first.stderr
    told = re.findall(r"^(\d+/6) (.+?)(?: seed (\d))?: ", first.stderr, re.MULTILINE)
    assert told == [
        ("1/6", "base", "5"),
        ("2/6", "base", "6"),
        ("3/6", "constant rate", "5"),
        ("4/6", "constant rate", "6"),
        ("6/6", "head only", ""),
    ]
    assert "- head only: not on this competition: model.freeze=head_only: random weights" in first.stdout
    table = pd.read_csv(tmp_path / "runs" / "techniques.csv").set_index("technique")
    scores = {
        name: [
            score
            for seed in (5, 6)
            for score in load_json(tmp_path / "runs" / f"{name}_seed{seed}" / "scores.json")["folds"].values()
        ]
        for name in ("base", "constant_rate")
    }
    differences = np.subtract(scores["constant_rate"], scores["base"])
    assert len(differences) == 4
    row = table.loc["constant rate"]
    assert row["score"] == pytest.approx(np.mean(scores["constant_rate"]))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(paired_interval(differences, 2))

    before = (tmp_path / "techniques.md").read_text()
    second = study()
    assert second.returncode == 0, second.stderr
    assert "seed" not in second.stderr
    assert (tmp_path / "techniques.md").read_text() == before


def test_the_schedules_picture_shows_all(tmp_path):
    rates = learning_rates(Schedule(name="plateau", warmup_epochs=2))
    assert len(rates) == EPOCHS * STEPS_PER_EPOCH
    assert sorted(set(rates[2 * STEPS_PER_EPOCH :].round(6)), reverse=True) == [1, 0.1, 0.01]  # two stalls, two falls
    draw_schedules(tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").stat().st_size > 10_000
