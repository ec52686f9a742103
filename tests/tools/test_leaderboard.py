"""The table of all runs, from folders that the test makes: what is in a row, in which order, and what is damaged."""

import csv
import json
import time

import pytest

from src.config.load import config_yaml, load_config
from tools.leaderboard import main


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(name, *words, score=, interval=, done=): a run's folder in outputs, with what train.py leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def make_(name, *words, score=0.5, done=5, **more):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config_yaml(load_config([f"name={name}", *words])))
        for fold in range(done):
            (folder / f"fold{fold}").mkdir()
            (folder / f"fold{fold}/meta.json").write_text("{}")
        if score is not None:
            scores = {"pooled": score, "interval": [score - 0.01, score + 0.01], "mean": score, "seconds": 30.4} | more
            (folder / "scores.json").write_text(json.dumps(scores))
        return folder

    return make_


def show(capsys, *words):
    main(list(words))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    return printed


def test_a_row_holds_score_interval_folds_seconds_and_what_differs_from_the_recipe(make, capsys):
    make("plain", score=0.9)
    make("better", "recipe=strong_augmentation", "train.epochs=7", "image_size=[16,32]", score=0.95, done=2)
    (make("worst", score=0.8) / "foldall").mkdir()
    printed = show(capsys).splitlines()
    assert printed == [
        "demo: roc_auc, 3 runs",
        "    score                95 %  folds  seconds  run",
        "  0.95000  0.94000 to 0.96000    2/5       30  better",
        "      strong_augmentation: image_size=[16,32] train.epochs=7",
        "  0.90000  0.89000 to 0.91000    5/5       30  plain",
        "      default: as the recipe is",
        "  0.80000  0.79000 to 0.81000    5/5       30  worst",
        "      default: as the recipe is",
    ]


def test_of_a_loss_the_lowest_is_best_and_metrics_and_competitions_have_tables_of_their_own(make, capsys):
    make("high", "competition.metric=log_loss", score=0.9)
    make("low", "competition.metric=log_loss", score=0.1)
    make("auc", score=0.7)
    printed = show(capsys)
    assert printed.index("demo: log_loss, 2 runs") < printed.index("low") < printed.index("high")
    assert printed.index("high") < printed.index("demo: roc_auc, 1 run\n") < printed.index("auc\n")
    printed = show(capsys, "sort=name", "competition=demo")
    assert printed.index("  high") < printed.index("  low")


def test_seeds_are_one_row_with_their_mean_and_spread(make, capsys):
    for seed, score in ((1, 0.8), (2, 0.9), (3, 0.85)):
        make(f"s_seed{seed}", f"seed={seed}", "optimizer.lr=0.01", score=score)
    make("again", "seed=2", "optimizer.lr=0.01", score=0.7)
    make("other", "seed=4", "optimizer.lr=0.02", score=0.6)
    printed = show(capsys, "output=all.csv").splitlines()
    assert printed[2:4] == [
        "  0.85000  sd 0.05000, 3 seeds    5/5       30  s_seed[1,2,3]",
        "      default: optimizer.lr=0.01",
    ]
    assert printed[4].endswith("again")
    assert printed[5] == "      default: seed=2 optimizer.lr=0.01"
    assert printed[6].endswith("other")
    with open("all.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert len(rows) == 5
    assert rows["outputs/s_seed2"]["row"] == "s_seed[1,2,3]"
    assert (rows["outputs/s_seed2"]["score"], rows["outputs/s_seed2"]["low"]) == ("0.9", "0.89")
    assert (rows["outputs/again"]["row"], rows["outputs/again"]["differs"]) == ("again", "seed=2 optimizer.lr=0.01")


def test_the_hosts_scores_are_kept_and_their_correlation_is_said(make, tmp_path, capsys):
    for name, score in (("a", 0.7), ("b", 0.8), ("c", 0.9), ("d", 0.95)):
        make(name, f"train.epochs={ord(name)}", score=score)
    for name, public in (("a", "0.71"), ("b", "0.70"), ("c", "0.9")):
        printed = show(capsys, f"outputs/{name}", f"public={public}")
    kept = tmp_path / "outputs/c/submitted.json"
    assert json.loads(kept.read_text()) == {"public": 0.9}
    sentence = "out-of-fold and public score of 3 runs: correlation 0.84, rank correlation 0.50"
    assert printed.splitlines()[-1] == sentence
    rows = [line for line in printed.splitlines() if line.endswith(("  a", "  b", "  c", "  d"))]
    assert [line[-1] for line in rows] == ["d", "c", "b", "a"]
    assert rows[1].split()[-2] == "0.90000"
    printed = show(capsys, "outputs/c", "private=0.5", "public=null")
    assert json.loads(kept.read_text()) == {"private": 0.5}
    assert "correlation" not in printed
    shown = show(capsys, "sort=public").splitlines()
    assert [line[-1] for line in shown if line.endswith(("  a", "  b", "  c", "  d"))][:2] == ["a", "b"]


def test_test_scores_blends_and_fold_all_are_shown(make, capsys):
    run = make("one", score=0.9)
    (run / "test_score.json").write_text('{"score": 0.91234, "networks": 5}')
    (run / "foldall").mkdir()
    (run / "foldall/meta.json").write_text("{}")
    blend = make("both", score=0.92, done=0)
    (blend / "blend.json").write_text('{"method": "hill", "weights": {"one": 0.75, "two": 0.25, "three": 0}}')
    printed = show(capsys).splitlines()
    assert printed[1:] == [
        "    score                95 %    folds  seconds     test  run",
        "  0.92000  0.91000 to 0.93000                30           both",
        "      blend (hill) of one 0.75, two 0.25",
        "  0.90000  0.89000 to 0.91000  5/5+all       30  0.91234  one",
        "      default: as the recipe is",
    ]


def test_a_soup_is_no_seed_of_its_members(make, capsys):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(name, f"seed={seed}", score=0.9)
    soup = json.dumps({"members": ["outputs/b", "outputs/c"]})
    (make("a_soup", "seed=1", score=0.95) / "soup.json").write_text(soup)
    printed = show(capsys)
    assert "0.94000 to 0.96000    5/5       30  a_soup\n      soup of b, c\n" in printed
    assert "a_soup," not in printed


def test_what_is_unfinished_or_damaged_is_listed_with_what_is_known(make, capsys):
    make("begun", score=None, done=0)
    (make("scores", score=0.9) / "scores.json").write_text("{")
    (make("list", score=0.9) / "scores.json").write_text("[1]")
    make("words", score=0.9, interval=["x"], seconds="long")
    (make("config") / "config.yaml").write_text("a: [")
    (make("other") / "config.yaml").write_text("just text")
    (make("gone") / "config.yaml").unlink()
    (make("kwargs") / "config.yaml").write_text("name: kwargs\nmodel: 3\n")
    printed = show(capsys)
    assert "      default: as the recipe is; no fold is finished\n" in printed
    assert printed.count("as the recipe is; scores.json is damaged\n") == 2
    assert "  0.90000          5/5           words\n" in printed
    for name, problem in {
        "config": "config.yaml cannot be read (",
        "other": "config.yaml cannot be read (holds no settings of a run)\n",
        "gone": "has no config.yaml",
        "kwargs": "config.yaml cannot be read (holds no settings of a run)\n",
    }.items():
        assert f"outputs/{name}: {problem}" in printed


def test_a_recipe_that_is_gone_gives_way_to_its_oldest_run(make, tmp_path, capsys):
    (tmp_path / "configs/recipe").mkdir(parents=True)
    recipe = tmp_path / "configs/recipe/mine.yaml"
    recipe.write_text("train: {epochs: 3}\n")
    make("first", "recipe=mine", score=0.9)
    time.sleep(0.01)
    make("second", "recipe=mine", "train.epochs=4", score=0.8)
    recipe.unlink()
    printed = show(capsys)
    assert "mine: as the recipe is" in printed
    assert "mine: train.epochs=4" in printed


def test_long_names_and_many_numbers_fit(make, capsys):
    run = make("x" * 70, "optimizer.lr=0.01", score=0.9)
    (run / "submitted.json").write_text('{"public": 0.9, "private": 0.8}')
    (run / "test_score.json").write_text('{"score": 0.9}')
    assert f"\n      {'x' * 70}\n      default: optimizer.lr=0.01\n" in show(capsys)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sort=scor"], "command line: sort=scor: not one of score, test, public, private, seconds, time, name; did "
                        "you mean score?"),
        (["compettion=demo"], "command line: compettion is not known; it takes output_dir, competition, sort, output, "
                              "public, private; did you mean competition?"),
        (["competition=cactus"], "competition=cactus: no run in outputs (there are demo)"),
        (["output_dir=none"], "none: no such folder; train a run, or set output_dir=FOLDER"),
        (["output_dir=empty"], "empty: holds no run; train one with python train.py"),
        (["public=0.9"], "command line: 0 runs and 1 scores; write one run and its score: outputs/NAME public=0.9731"),
        (["outputs/a"], "command line: 1 runs and 0 scores; write one run and its score: outputs/NAME public=0.9731"),
        (["outputs/b", "public=1"], "outputs/b: not a run (no config.yaml); write the folder of one, outputs/NAME"),
        (["outputs/a", "public=1,5"], "command line: public=1,5 is no number; write what the host shows: "
                                      "public=0.9731"),
        (["outputs/a", "private=nan"], "command line: private=nan is no number; write what the host shows: "
                                       "private=0.9731"),
    ],
)  # fmt: skip
def test_refusals(words, line, make, tmp_path, capsys):
    make("a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not (tmp_path / "outputs/a/submitted.json").exists()


@pytest.mark.slow
def test_three_hundred_runs_take_seconds(make, capsys):
    first = make("r0", "optimizer.lr=0.01")
    text, scores = (first / "config.yaml").read_text(), (first / "scores.json").read_text()
    for number in range(1, 300):
        folder = first.parent / f"r{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(text.replace("lr: 0.01", f"lr: {number / 1000}"))
        (folder / "scores.json").write_text(scores)
    began = time.process_time()
    assert "demo: roc_auc, 300 runs" in show(capsys)
    seconds = time.process_time() - began
    assert seconds < 10  # 1 on a free core
