"""The timed choice of precision and memory format: the rule stands unless something else is clearly faster."""

import json
import math

import pytest
import torch

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.device import Execution
from src.errors import UserError
from src.training import precision
from src.training.precision import (
    choose_execution,
    describe_choice,
    list_candidates,
    pick_fastest,
    recall_execution,
    save_execution,
    time_steps,
)

CPU = torch.device("cpu")
RULE, BF16, OTHER_FORMAT = Execution("fp32", True), Execution("bf16", True), Execution("fp32", False)


class Machine:
    """A clock that only steps move: each candidate's steps take the given seconds, one after the other."""

    def __init__(self, **steps):
        self.now = 0.0
        self._steps = {name: iter(times) for name, times in steps.items()}
        self.norms = {}

    def clock(self):
        return self.now

    def step(self, name):
        self.now += next(self._steps[name])
        return self.norms.get(name, 1.0)


@pytest.mark.parametrize(
    ("rule", "bf16", "expected"),
    [
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], BF16),
        ([1.0, 1.0, 1.0], [0.9, 0.9, 0.9], RULE),  # faster, but not clearly
        ([9.0, 1.0, 9.0], [0.9, 0.9, 0.9], RULE),  # another program slowed the rule's steps down
        ([1.0, 1.0, 1.0], [0.1, 2.0, 2.0], RULE),  # one lucky step
        ([1.0, 1.0, 1.0], [0.5, 9.0, 0.5], BF16),  # one unlucky step
        ([1.0, 1.0, 1.0], [], RULE),  # not a number
        ([], [5.0, 5.0, 5.0], BF16),
        ([], [], RULE),
    ],
)
def test_the_rule_stands_unless_another_is_clearly_faster(rule, bf16, expected):
    assert pick_fastest({RULE: rule, BF16: bf16}) == expected


def test_of_two_that_are_as_fast_the_earlier_is_taken():
    both = Execution("bf16", False)
    assert pick_fastest({RULE: [1.0], BF16: [0.5], both: [0.45]}) == BF16
    assert pick_fastest({RULE: [1.0], BF16: [0.5], both: [0.3]}) == both


def test_the_first_round_warms_up_and_the_steps_take_turns():
    machine = Machine(a=[50, 1, 2, 3], b=[90, 0.1, 0.2, 0.3])  # the warm-up uses up the seconds
    seconds = time_steps(machine.step, ["a", "b"], 6, clock=machine.clock)
    assert seconds == {"a": pytest.approx([1, 2]), "b": pytest.approx([0.1, 0.2])}
    machine = Machine(a=[0.9] + [0.1] * 19, b=[0.9] + [0.01] * 19)
    seconds = time_steps(machine.step, ["a", "b"], 6, clock=machine.clock)
    assert seconds == {"a": pytest.approx([0.1] * 19), "b": pytest.approx([0.01] * 19)}


def test_on_a_cpu_nothing_ends_after_the_budget():
    machine = Machine(a=[0.5, 0.5], b=[0.3, 0.2])
    seconds = time_steps(machine.step, ["a", "b"], 2, fewest=1, clock=machine.clock)
    assert seconds == {"a": pytest.approx([0.5]), "b": pytest.approx([0.2])}  # a third round would end at 2.2
    machine = Machine(a=[1.0], b=[0.6])
    seconds = time_steps(machine.step, ["a", "b"], 2, fewest=1, clock=machine.clock)
    assert seconds == {"a": pytest.approx([1.0]), "b": pytest.approx([0.6])}  # the first steps are all there is


def test_what_gives_no_finite_numbers_is_never_chosen():
    machine = Machine(a=[0.1] * 20, b=[0.01] * 20)
    machine.norms["b"] = math.nan
    seconds = time_steps(machine.step, ["a", "b"], 6, clock=machine.clock)
    assert seconds["b"] == []
    assert pick_fastest(seconds) == "a"
    machine = Machine(a=[0.1] * 20, b=[0.3] * 20)
    machine.norms["a"] = math.inf
    assert pick_fastest(time_steps(machine.step, ["a", "b"], 6, clock=machine.clock)) == "b"


def list_words(words, device):
    return [(one.precision, one.channels_last) for one in list_candidates(load_config(words), device)]


def test_what_the_config_names_is_kept(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    assert list_words([], CPU) == [("fp32", True), ("bf16", True)]
    assert list_words(["precision=bf16"], CPU) == [("bf16", True)]
    assert list_words(["train.channels_last=false"], CPU) == [("fp32", False), ("bf16", False)]
    gpu = torch.device("cuda")
    assert list_words(["precision=bf16"], gpu) == [("bf16", True), ("bf16", False)]
    assert list_words(["precision=fp32", "train.channels_last=true"], gpu) == [("fp32", True)]


def test_without_instructions_for_bf16_nothing_is_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: False)
    assert choose() == RULE
    assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ("", [])


def test_the_choice_is_printed_in_words_to_paste():
    assert describe_choice({RULE: [2.0, 1.0], BF16: [2.0]}, RULE) == (
        "precision=fp32 train.channels_last=true: timed, bf16 is 0.5 times as fast"
    )
    assert describe_choice({RULE: [2.0], OTHER_FORMAT: [1.0]}, OTHER_FORMAT) == (
        "precision=fp32 train.channels_last=false: timed, train.channels_last=true is 0.5 times as fast"
    )


def test_a_run_keeps_what_it_is_computed_with_for_each_kind_of_device(tmp_path):
    config, gpu, folder = load_config([]), torch.device("cuda:1"), RunFolder(tmp_path)
    assert recall_execution(folder, config, CPU) is None
    save_execution(folder, Execution("bf16", False), CPU)
    assert recall_execution(folder, config, gpu) is None
    save_execution(folder, Execution("fp16", True), gpu)
    assert recall_execution(folder, config, CPU) == Execution("bf16", False)
    assert recall_execution(folder, config, torch.device("cuda")) == Execution("fp16", True)
    assert recall_execution(folder, load_config(["precision=fp32"]), CPU) == Execution("fp32", False)
    for content in ("[1]", "{}x", '{"cpu": null}', '{"cpu": {"precision": "fp32"}}'):
        folder.execution.write_text(content)
        with pytest.raises(UserError, match=r"execution.json: damaged.*; delete it and run the same command again"):
            recall_execution(folder, config, CPU)


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """The path of execution.json in a folder of its own, and the list of what was timed; bf16 is twice as fast."""
    calls = []

    def fake(step, candidates, budget, fewest):
        calls.append(candidates)
        return {one: [1.0 if one.precision == "fp32" else 0.5] for one in candidates}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    monkeypatch.setattr(precision, "_build_step", lambda config, device, formats: (None, 2.0))
    monkeypatch.setattr(precision, "time_steps", fake)
    return tmp_path / "outputs/execution.json", calls


def choose(*words):
    return choose_execution(load_config(["image_size=16", *words]), CPU)


def test_a_choice_is_remembered_for_its_case_only(timed, capsys):
    _, calls = timed
    assert choose() == BF16
    assert capsys.readouterr().out == (
        "timing a few training steps (fp32, bf16) of test_resnet\n"
        "precision=bf16 train.channels_last=true: timed, fp32 is 0.5 times as fast\n"
    )
    assert choose("optimizer.lr=0.5", "model.weights=elsewhere") == BF16
    assert (len(calls), capsys.readouterr().out) == (1, "")
    for number, word in enumerate(("image_size=24", "train.batch_size=4", "model.kwargs={}"), 2):
        choose(word)
        assert len(calls) == number, word
    assert choose() == choose("precision=bf16") == BF16
    assert choose("precision=fp32") == RULE
    assert len(calls) == 4


@pytest.mark.parametrize("content", ["", "{}", "[1, {}]", "\xff\xfe", '[{"case": {}, "chosen": 3}]'])
def test_a_damaged_file_is_written_anew(timed, content):
    path, calls = timed
    path.parent.mkdir()
    path.write_text(content, encoding="latin-1")
    assert choose() == choose() == BF16
    assert len(calls) == 1


def test_an_entry_that_is_no_candidate_is_not_taken(timed):
    path, calls = timed
    choose()
    entries = json.loads(path.read_text())
    entries[0]["chosen"]["precision"] = "fp8"
    path.write_text(json.dumps(entries))
    assert choose() == BF16
    assert len(calls) == 2
    assert len(json.loads(path.read_text())) == 1


@pytest.mark.parametrize("words", [[], ["model.pretrained=true", "model.freeze=head_only", "model.kwargs={}"]])
def test_a_real_network_is_timed_and_nothing_random_moves(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    before = torch.get_rng_state()
    config = load_config(["image_size=32", "model.drop_rate=0.5", *words])
    assert choose_execution(config, CPU) in list_candidates(config, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_cannot_be_computed_is_nan_but_not_the_rules(monkeypatch):
    step, _ = precision._build_step(load_config(["image_size=32"]), CPU, {True})
    assert math.isfinite(step(RULE))

    def refuse(*args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(precision, "autocast", refuse)
    assert math.isnan(step(BF16))
    with pytest.raises(RuntimeError, match="no kernel"):
        step(RULE)
