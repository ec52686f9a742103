"""Trials in Optuna's storage: none is lost or doubled, whoever asks; a search that is resumed goes the same way."""

import time

import pytest
from optuna.trial import TrialState

from src.errors import UserError
from tools.tune.__main__ import read_options
from tools.tune.study import Search, hide_password

SPACE = "optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\naugment.preset: [none, light, medium]\n"
FIRST = {"optimizer.lr": 4e-3, "augment.preset": "light"}


@pytest.fixture
def open_search(tmp_path, monkeypatch):
    """open_search(*words, terms={}): a Search of the space above in outputs/NAME, by default of 14 trials."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)

    def open_one(*words, terms=None):
        given = ["competition=demo", "space=space.yaml", "trials=14", "name=search", *words]
        return Search(read_options(given), terms or {"a": "1"}, FIRST, True, num_steps=3)

    return open_one


def step(search):
    """Run the next trial, whose score is its learning rate but for a thousandth; return (number, settings, state)."""
    trial, _ = search.ask()
    if trial is None:
        return None
    values = [one.suggest(trial) for one in search.options.parameters.values()]
    score = values[0] - (values[1] == "none") / 1000
    for epoch in (1, 2, 3):
        if search.report(trial, score * epoch, epoch):
            search.tell(trial, TrialState.PRUNED)
            return trial.number, values, "pruned"
    search.tell(trial, TrialState.COMPLETE, score)
    return trial.number, values, "complete"


def run(search):
    found = []
    while (one := step(search)) is not None:
        found.append(one)
    return found


@pytest.mark.nightly
def test_the_same_trials_come_again_also_where_each_command_runs_one(open_search):
    whole = run(open_search("name=whole"))
    assert [number for number, _, _ in whole] == list(range(14))
    assert whole[0][1] == [4e-3, "light"]  # the recipe itself
    assert {state for _, _, state in whole} == {"complete", "pruned"}
    assert all(state == "complete" for _, _, state in whole[:5])
    assert len({values[0] for _, values, _ in whole}) == 14
    split = []
    while (one := step(open_search("name=split"))) is not None:
        split.append(one)
    assert split == whole
    assert run(open_search("name=other", "seed=1"))[1:] != whole[1:]


def test_a_space_of_few_points_is_tried_whole_and_each_once(open_search, tmp_path):
    space = "optimizer.lr: {low: 0.001, high: 0.005, step: 0.001}\naugment.preset: [none, light]\n"
    open_search()
    (tmp_path / "space.yaml").write_text(space)
    found = run(open_search("name=few", "trials=50", "pruner=none"))
    assert found[0][1] == [4e-3, "light"]
    points = {(round(lr, 9), preset) for _, (lr, preset), _ in found}
    assert (len(found), len(points)) == (10, 10)
    assert len(run(open_search("name=first", "trials=4", "pruner=none"))) == 4


def test_two_commands_share_the_trials_and_one_that_dies_loses_none(open_search):
    one, other = open_search("trials=3"), open_search("trials=3")
    first, second = one.ask()[0], other.ask()[0]
    assert (first.number, second.number) == (0, 1)
    values = [parameter.suggest(first) for parameter in one.options.parameters.values()]
    assert other.ask()[0].number == 2
    assert other.ask() == (None, False)
    one.close()  # as the kernel does with what a killed process holds
    again, is_resumed = other.ask()
    assert (again.number, is_resumed) == (0, True)
    assert [parameter.suggest(again) for parameter in other.options.parameters.values()] == values
    other.tell(again, TrialState.COMPLETE, 1.0)
    assert other.best().number == 0
    assert open_search("trials=4").ask()[0].number == 3  # the same command with more trials


def test_a_trial_of_another_machine_is_repeated_once_its_signs_of_life_have_ended(open_search, tmp_path):
    away = open_search("trials=2")
    lost, _ = away.ask()
    values = [parameter.suggest(lost) for parameter in away.options.parameters.values()]
    (tmp_path / "outputs/search/.locks/trial_0000.lock").unlink()  # its locks are in a folder of its own
    here = open_search("trials=2")
    assert here.ask()[0].number == 1  # it was begun just now
    assert here.ask() == (None, False)
    lost.set_user_attr("beat", time.time() - 3600)
    again, _ = here.ask()
    assert [parameter.suggest(again) for parameter in here.options.parameters.values()] == values
    assert here.ask() == (None, False)
    away.tell(lost, TrialState.COMPLETE, 1.0)  # the machine was asleep
    here.tell(again, TrialState.COMPLETE, 2.0)
    assert [trial.number for trial in here.trials()] == [1, 2]


def test_what_cannot_be_continued_is_refused(open_search, tmp_path):
    search = open_search(terms={"a": "1"})
    open_search(terms={"a": "2"})  # no trial has begun
    step(search)
    with pytest.raises(UserError) as error:
        open_search(terms={"a": "1"})
    found = "was begun with other settings: a=1 (was 2); choose name=ANOTHER or overwrite=true"
    assert str(error.value) == f"outputs/search: {found}"
    search.ask()
    with pytest.raises(UserError, match="another command runs trial 1; wait until it ends or choose name=ANOTHER"):
        open_search("overwrite=true")
    assert hide_password("mysql://me:a@host/db") == "mysql://me:...@host/db"


@pytest.mark.nightly
def test_a_journal_that_a_kill_has_cut_off_is_mended_and_a_database_works_alike(open_search, tmp_path):
    run(open_search("trials=2"))
    with (tmp_path / "outputs/search/journal.log").open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert [number for number, _, _ in run(open_search("trials=4"))] == [2, 3]
    assert len(open_search("trials=4").trials("COMPLETE")) == 4
    database = f"storage=sqlite:///{tmp_path}/search.db"
    assert [number for number, _, _ in run(open_search(database, "trials=2"))] == [0, 1]
    assert len(open_search(database).trials()) == 2
    search = open_search(database, "overwrite=true")
    assert search.trials() == []
    with pytest.raises(UserError, match=r"storage=nosql://\*\*\*@b/c: cannot be opened"):
        open_search("storage=nosql://a:secret@b/c")
