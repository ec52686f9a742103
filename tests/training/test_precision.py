"""The timed choice of precision: fp32 stands unless bf16 is clearly faster."""

import json
import math

import pytest
import torch

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.errors import UserError
from src.model.network import build_network
from src.training import precision
from src.training.precision import (
    choose_precision,
    describe_choice,
    pick_faster,
    recall_precision,
    save_precision,
    time_steps,
)

CPU = torch.device("cpu")


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
    ("fp32", "bf16", "expected"),
    [
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], "bf16"),
        ([1.0, 1.0, 1.0], [0.9, 0.9, 0.9], "fp32"),  # faster, but not clearly
        ([9.0, 1.0, 9.0], [0.9, 0.9, 0.9], "fp32"),  # another program slowed the steps in fp32 down
        ([1.0, 1.0, 1.0], [0.1, 2.0, 2.0], "fp32"),  # one lucky step
        ([1.0, 1.0, 1.0], [0.5, 9.0, 0.5], "bf16"),  # one unlucky step
        ([1.0, 1.0, 1.0], [], "fp32"),  # not a number
        ([], [], "fp32"),
    ],
)
def test_fp32_stays_unless_bf16_is_clearly_faster(fp32, bf16, expected):
    assert pick_faster(fp32, bf16) == expected


def test_the_first_round_warms_up_and_the_steps_take_turns():
    machine = Machine(fp32=[2, 1, 2, 3], bf16=[3, 0.1, 0.2, 0.3])
    seconds = time_steps(machine.step, 10, machine.clock)
    assert seconds == {"fp32": pytest.approx([1, 2]), "bf16": pytest.approx([0.1, 0.2])}  # a fourth ends too late
    machine = Machine(fp32=[0.9] + [0.1] * 19, bf16=[0.9] + [0.01] * 19)
    seconds = time_steps(machine.step, 6, machine.clock)
    assert seconds == {"fp32": pytest.approx([0.1] * 19), "bf16": pytest.approx([0.01] * 19)}


def test_nothing_ends_after_the_budget():
    machine = Machine(fp32=[0.5, 0.5], bf16=[0.3, 0.2])
    seconds = time_steps(machine.step, 2, machine.clock)
    assert seconds == {"fp32": pytest.approx([0.5]), "bf16": pytest.approx([0.2])}  # a third round would end at 2.2
    machine = Machine(fp32=[1.0], bf16=[0.6])
    seconds = time_steps(machine.step, 2, machine.clock)
    assert seconds == {"fp32": pytest.approx([1.0]), "bf16": pytest.approx([0.6])}  # the first steps are all there is


def test_what_gives_no_finite_numbers_is_never_chosen():
    machine = Machine(fp32=[0.1], bf16=[0.01])
    machine.norms["bf16"] = math.nan
    seconds = time_steps(machine.step, 6, machine.clock)
    assert seconds == {"fp32": pytest.approx([0.1]), "bf16": []}
    assert pick_faster(**seconds) == "fp32"


def test_only_a_cpu_with_bf16_instructions_is_timed_and_what_the_config_names_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: False)
    assert choose() == "fp32"
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    assert choose("precision=bf16") == "bf16"
    assert choose("precision=fp32") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert choose_precision(load_config([]), torch.device("cuda")) == "bf16"
    assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ("", [])


def test_the_choice_is_printed_in_words_to_paste():
    assert describe_choice("fp32", [2.0, 1.0], [2.0]) == "precision=fp32: timed, bf16 is 0.5 times as fast"
    assert describe_choice("bf16", [2.0], [1.0]) == "precision=bf16: timed, fp32 is 0.5 times as fast"
    assert describe_choice("fp32", [2.0], []) == "precision=fp32: timed, no other gives finite numbers"


def test_a_run_keeps_what_it_is_computed_with_for_each_kind_of_device(tmp_path):
    config, gpu, folder = load_config([]), torch.device("cuda:1"), RunFolder(tmp_path)
    assert recall_precision(folder, config, CPU) == "fp32"  # the rule's
    save_precision(folder, "bf16", CPU)
    save_precision(folder, "fp16", gpu)
    assert recall_precision(folder, config, CPU) == "bf16"
    assert recall_precision(folder, config, torch.device("cuda")) == "fp16"
    assert recall_precision(folder, load_config(["precision=fp32"]), CPU) == "fp32"
    folder.execution.write_text('{"cpu": {"precision": "bf16", "channels_last": true}}')  # of a run from before
    assert recall_precision(folder, config, CPU) == "bf16"
    for content in ("[1]", "{}x", '{"cpu": null}', '{"cpu": {}}'):
        folder.execution.write_text(content)
        with pytest.raises(UserError, match=r"execution.json: damaged.*; delete it and run the same command again"):
            recall_precision(folder, config, CPU)


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """The path of execution.json in a folder of its own, and the list of what was timed; bf16 is twice as fast."""
    calls = []

    def fake(step, budget):
        calls.append(budget)
        return {"fp32": [1.0], "bf16": [0.5]}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    monkeypatch.setattr(precision, "_build_step", lambda config, device: (None, 2.0))
    monkeypatch.setattr(precision, "time_steps", fake)
    return tmp_path / "outputs/execution.json", calls


def choose(*words):
    return choose_precision(load_config(["image_size=16", *words]), CPU)


def test_a_choice_is_remembered_for_its_case_only(timed, capsys):
    _, calls = timed
    assert choose() == "bf16"
    assert capsys.readouterr().out == (
        "timing a few training steps (fp32, bf16) of test_resnet\nprecision=bf16: timed, fp32 is 0.5 times as fast\n"
    )
    assert choose("optimizer.lr=0.5", "model.weights=elsewhere") == "bf16"
    assert (len(calls), capsys.readouterr().out) == (1, "")
    for number, word in enumerate(("image_size=24", "train.batch_size=4", "model.kwargs={}"), 2):
        choose(word)
        assert len(calls) == number, word
    assert choose() == choose("precision=bf16") == "bf16"
    assert choose("precision=fp32") == "fp32"
    assert len(calls) == 4


@pytest.mark.parametrize("content", ["", "{}", "[1, {}]", "\xff\xfe", '[{"case": {}, "chosen": 3}]'])
def test_a_damaged_file_is_written_anew(timed, content):
    path, calls = timed
    path.parent.mkdir()
    path.write_text(content, encoding="latin-1")
    assert choose() == choose() == "bf16"
    assert len(calls) == 1


def test_an_entry_that_is_no_candidate_is_not_taken(timed):
    path, calls = timed
    choose()
    entries = json.loads(path.read_text())
    entries[0]["chosen"] = "fp8"
    path.write_text(json.dumps(entries))
    assert choose() == "bf16"
    assert len(calls) == 2
    assert len(json.loads(path.read_text())) == 1


@pytest.mark.parametrize("words", [[], ["model.pretrained=true", "model.freeze=head_only", "model.kwargs={}"]])
def test_a_real_network_is_timed_and_nothing_random_moves(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    before = torch.get_rng_state()
    config = load_config(["image_size=32", "model.drop_rate=0.5", *words])
    assert choose_precision(config, CPU) in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("missing", [TypeError("extract() missing 1 argument: 'right'"), KeyError("right")])
def test_a_forks_network_of_more_inputs_is_not_timed_and_trains(missing, tmp_path, monkeypatch, capsys):
    def forward(*args, **inputs):
        raise missing

    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    monkeypatch.setattr("src.model.network.Network.forward", forward)
    config = load_config(["image_size=32", f"output_dir={tmp_path}"])
    assert choose_precision(config, CPU) == "fp32"
    assert capsys.readouterr().out.endswith(
        "precision=fp32: not timed, as the network takes more inputs than an image\n"
    )
    assert not (tmp_path / "execution.json").exists()


def test_a_step_that_cannot_be_computed_is_nan_but_not_the_rules(monkeypatch):
    step, _ = precision._build_step(load_config(["image_size=32"]), CPU)
    assert math.isfinite(step("fp32"))

    def refuse(*args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(precision, "autocast", refuse)
    assert math.isnan(step("bf16"))
    with pytest.raises(RuntimeError, match="no kernel"):
        step("fp32")


@pytest.mark.parametrize(("factor", "is_taken"), [(1.5, True), (0.0, False), (1e30, False)])
def test_a_precision_with_other_gradients_is_not_taken(monkeypatch, factor, is_taken):
    """As torch's bf16 convolution of 3x3 and stride 2 on 1x1 maps, which leaves its gradient unset."""
    in_bf16 = []

    def build(*args, **kwargs):
        network = build_network(*args, **kwargs)
        network.head.last.weight.register_hook(lambda gradient: gradient * (factor if in_bf16 else 1))
        return network

    monkeypatch.setattr(precision, "build_network", build)
    step, _ = precision._build_step(load_config(["image_size=32"]), CPU)
    assert math.isfinite(step("fp32"))
    in_bf16.append(True)
    assert math.isfinite(step("bf16")) == is_taken
