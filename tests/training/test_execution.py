"""The timed choices: fp32 stands unless bf16 is clearly faster, the loader unless the device is."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.device import autocast
from src.errors import UserError
from src.model.network import build_network
from src.training import execution
from src.training.execution import (
    choose_precision,
    pick_place,
    pick_precision,
    recall_precision,
    save_precision,
    settle_place,
    time_place,
    time_steps,
)

CPU = torch.device("cpu")


@pytest.fixture
def table(make_table):
    return make_table(np.zeros((6, 16, 16), np.uint8), np.eye(10)[:6], np.array([0, 1, 0, 1, -1, 1]))


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
    assert pick_precision(fp32, bf16)[0] == expected


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
    assert pick_precision(**seconds)[0] == "fp32"


def test_only_a_cpu_with_bf16_instructions_is_timed_and_what_the_config_names_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "has_bf16_units", lambda: False)
    assert choose() == "fp32"
    monkeypatch.setattr(execution, "has_bf16_units", lambda: True)
    assert choose("precision=bf16") == "bf16"
    assert choose("precision=fp32") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert choose_precision(load_config([]), torch.device("cuda")) == "bf16"
    assert (capsys.readouterr().out, list(tmp_path.iterdir())) == ("", [])


def test_the_choice_is_printed_in_words_to_paste():
    assert pick_precision([2.0, 1.0], [2.0])[1] == "precision=fp32: timed, bf16 is 0.5 times as fast"
    assert pick_precision([2.0], [1.0])[1] == "precision=bf16: timed, fp32 is 0.5 times as fast"
    assert pick_precision([2.0], [])[1] == "precision=fp32: timed, no other gives finite numbers"


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
    monkeypatch.setattr(execution, "has_bf16_units", lambda: True)
    monkeypatch.setattr(execution, "_build_step", lambda config, device: (None, 2.0))
    monkeypatch.setattr(execution, "time_steps", fake)
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
    monkeypatch.setattr(execution, "has_bf16_units", lambda: True)
    before = torch.get_rng_state()
    config = load_config(["image_size=32", "model.drop_rate=0.5", *words])
    assert choose_precision(config, CPU) in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("missing", [TypeError("extract() missing 1 argument: 'right'"), KeyError("right")])
def test_a_forks_network_of_more_inputs_is_not_timed_and_trains(missing, tmp_path, monkeypatch, capsys):
    def forward(*args, **inputs):
        raise missing

    monkeypatch.setattr(execution, "has_bf16_units", lambda: True)
    monkeypatch.setattr("src.model.network.Network.forward", forward)
    config = load_config(["image_size=32", f"output_dir={tmp_path}"])
    assert choose_precision(config, CPU) == "fp32"
    assert capsys.readouterr().out.endswith(
        "precision=fp32: not timed, as the network takes more inputs than an image\n"
    )
    assert not (tmp_path / "execution.json").exists()


def test_a_step_that_cannot_be_computed_is_nan_but_not_the_rules(monkeypatch):
    step, _ = execution._build_step(load_config(["image_size=32"]), CPU)
    assert math.isfinite(step("fp32"))

    def refuse(*args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(execution, "autocast", refuse)
    assert math.isnan(step("bf16"))
    with pytest.raises(RuntimeError, match="no kernel"):
        step("fp32")


@pytest.mark.parametrize(("factor", "is_taken"), [(1.5, True), (0.0, False), (1e30, False)])
def test_a_precision_with_other_gradients_is_not_taken_and_warned_of_where_it_is_named(
    monkeypatch, factor, is_taken, capsys
):
    """As torch's bf16 convolution of 3x3 and stride 2 on 1x1 maps, which leaves its gradient unset."""
    in_bf16 = []

    def cast(device, precision):
        in_bf16[:] = [precision == "bf16"]
        return autocast(device, precision)

    def build(*args, **kwargs):
        network = build_network(*args, **kwargs)
        network.head.last.weight.register_hook(lambda gradient: gradient * (factor if in_bf16[0] else 1))
        return network

    monkeypatch.setattr(execution, "build_network", build)
    monkeypatch.setattr(execution, "autocast", cast)
    step, _ = execution._build_step(load_config(["image_size=32"]), CPU)
    assert math.isfinite(step("fp32"))
    assert math.isfinite(step("bf16")) == is_taken
    assert choose("precision=bf16", "image_size=32") == "bf16"
    told = "precision=bf16: a first step of test_resnet has other gradients than in fp32, on this CPU with torch "
    assert capsys.readouterr().err == ("" if is_taken else f"{told}{torch.__version__}; set precision=fp32\n")


def test_the_place_of_augmentation_is_the_device_where_a_step_is_a_tenth_faster():
    assert pick_place(loader=0.012, device=0.0101) == (
        "device", "augment.place=device: timed, 12.0 ms a step in the loader, 10.1 on the device"
    )  # fmt: skip
    assert pick_place(loader=0.011, device=0.0101)[0] == "loader"
    too_few = "augment.place=loader: not timed, an epoch has 48 steps or fewer"
    assert pick_place(loader=0.5, device=np.nan) == pick_place(loader=np.nan, device=0.1) == ("loader", too_few)


def test_a_run_keeps_the_place_that_was_timed_on_a_gpu(make_run, table, monkeypatch, capsys):
    timed = []

    def fake(run, place):
        timed.append(place)
        return {"loader": 0.02, "device": 0.01}[place]

    monkeypatch.setattr(execution, "time_place", fake)
    run = make_run(table, "augment.place=auto")
    run.folder.path.mkdir(parents=True)
    save_precision(run.folder, "fp32", torch.device("cpu"))
    settle_place(run)  # on the CPU
    assert (run.config.augment.place, timed) == ("loader", [])
    found = "augment.place=device: timed, 20.0 ms a step in the loader, 10.0 on the device"
    printed = f"timing training steps (augment.place=loader, device)\n{found}\n"
    for expected in (printed, ""):  # the second command takes what the first has kept
        run = make_run(table, "augment.place=auto")
        run.accelerator = SimpleNamespace(device=torch.device("cuda"), print=lambda text, **_: print(text))
        settle_place(run)
        assert (run.config.augment.place, capsys.readouterr().out) == ("device", expected)
        assert sorted(timed) == ["device", "loader"]
        save_precision(run.folder, "bf16", torch.device("cuda"))
    kept = json.loads(run.folder.execution.read_text())
    assert kept == {"cpu": {"precision": "fp32"}, "cuda": {"precision": "bf16", "place": "device"}}


def test_the_steps_that_are_timed_are_those_of_training(make_run, table, monkeypatch):
    run = make_run(table, "train.batch_size=2", "image_size=16", "model.kwargs={}", "normalize=none")
    monkeypatch.setattr(execution, "_WARM_STEPS", 1)
    monkeypatch.setattr(execution, "_TIMED_STEPS", 2)
    assert np.isnan(time_place(run, "device"))  # four images are two steps
    run = make_run(table, "train.batch_size=2", "image_size=16", "model.kwargs={}", "train.batches_per_epoch=5")
    assert 0 < time_place(run, "device") < 10
    assert run.config.augment.place == "loader"
