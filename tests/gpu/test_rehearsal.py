"""Every path that a GPU takes, on a CPU: no tensor on the wrong device, and no waiting for the device inside a step."""

import copy
import inspect
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from src.config.load import load_config
from src.config.settings import Optimizer
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_resize
from src.inference.tta import VIEWS
from src.model.losses import LOSSES, VALUE_LOSSES, add_auxiliary_loss, build_loss, probabilities
from src.model.network import build_network
from src.training import engine
from src.training.engine import predict, train_one_epoch
from src.training.features import load_features
from src.training.fold import predict_validation
from src.training.learner import build_learner, build_transforms
from src.training.optimizer import OPTIMIZERS, build_optimizer
from tests.gpu.rehearsal import CUDA, Refused, rehearse
from tests.runs import make_run

NUM_ROWS = 22
WORDS = [
    "image_size=8", "model.backbone=simple_cnn", "model.kwargs={}", "model.kwargs.widths=[4,8]", "train.batch_size=4",
    "optimizer.accumulate_steps=2", "optimizer.clip_norm=1", "optimizer.lr=0.01", "schedule.warmup_epochs=1",
    "train.epochs=2", "tracking=none", "loss.balance=true", "normalize=dataset",
]  # fmt: skip
MIXED = ["mix.prob=1", "train.average=ema"]
VIEWED = ["augment.kwargs.augmix=2", "augment.augmix_consistency=12", "train.average=swa", "train.channels_last=false"]
PLACED = ["augment.place=device", "augment.preset=medium", "augment.flips=d4"]
ENDS = {"_check_finite": 2, "_compute_gradient_norms": 1, "train_one_epoch": 1}  # of three batches


@pytest.fixture
def begin(tmp_path, make_table, monkeypatch):
    """A context (device, precision, words) -> (Run of the device, Rehearsal or None)."""
    monkeypatch.setattr(engine, "_CHECK_EVERY", 2)
    rng = np.random.default_rng(0)
    images, targets = rng.integers(0, 256, (NUM_ROWS, 8, 8), dtype=np.uint8), np.eye(10)[rng.integers(0, 10, NUM_ROWS)]
    table = make_table(images, targets, np.arange(NUM_ROWS) % 2)

    @contextmanager
    def begin_(device, precision, *words):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device)
        with rehearse() if device == "cuda" else nullcontext() as rehearsal:
            accelerator = Accelerator(mixed_precision=precision.replace("fp32", "no"), cpu=device == "cpu")
            run = make_run(tmp_path, accelerator, table, *WORDS, *words, f"precision={precision}")
            run.pixel_stats = ([100.0], [50.0])
            torch.manual_seed(0)
            yield run, rehearsal

    yield begin_
    AcceleratorState._reset_state(reset_partial_state=True)


def build(run):
    learner = build_learner(run, 0)
    learner.start_epoch(0, 7)
    return learner


def count_waits(rehearsal):
    """Return {function: how often it has waited for the device}, and begin anew."""
    counts = Counter(function for _, function in rehearsal.waits)
    rehearsal.waits.clear()
    return dict(counts)


def copy_weights(network):
    return {name: one.detach().cpu().clone() for name, one in network.state_dict().items()}


def train_and_validate(begin, device, precision, words, expected=None):
    """Return (weights, validation probs) after an epoch; on cuda what it has waited for is as expected."""
    with begin(device, precision, *words) as (run, rehearsal):
        learner = build(run)
        on_cuda = device == "cuda"
        logits = []
        learner.network.head.register_forward_hook(lambda *_: logits.append(_[2].dtype))
        assert next(learner.network.parameters()).device.type == device
        if on_cuda:
            count_waits(rehearsal)
        train_one_epoch(learner, 0)
        assert {*logits} == {{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
        if on_cuda:
            assert count_waits(rehearsal) == expected
        learner.average.after_epoch(learner, 0)
        probs = predict_validation(learner, learner.scored_network)
        if on_cuda:
            assert count_waits(rehearsal) == {}
        return copy_weights(learner.scored_network), probs


@pytest.mark.parametrize(("precision", "words"), [("fp32", MIXED), ("fp32", PLACED), ("bf16", VIEWED), ("fp16", MIXED)])
def test_a_step_waits_for_nothing_and_trains_as_on_a_cpu(begin, precision, words):
    """In fp16 GradScaler waits once a step, of which there are two, and its scale is read for the gradient's norm."""
    expected = ENDS | ({"_take_step": 2, "_compute_gradient_norms": 2} if precision == "fp16" else {})
    weights, probs = train_and_validate(begin, "cuda", precision, words, expected)
    others, plain = train_and_validate(begin, "cpu", "bf16" if precision == "bf16" else "fp32", words)
    tolerance = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}[precision]
    np.testing.assert_allclose(probs, plain, atol=tolerance)
    for name, one in others.items():
        torch.testing.assert_close(weights[name], one, atol=tolerance, rtol=tolerance, msg=name)


def test_views_of_several_networks_and_features_wait_once_a_pass(begin):
    """To group networks that normalise alike, two numbers of each are read; images and probs come and go beside."""
    found = {}
    for device in ("cuda", "cpu"):
        with begin(device, "fp32") as (run, rehearsal):
            networks = [build_network(run.config, 10, stats) for stats in (run.pixel_stats, ([1.0], [2.0]))]
            networks = [one.place(torch.device(device), None).eval() for one in (*networks, copy.deepcopy(networks[0]))]
            data = ImageDataset(run.table, run.config.competition, build_resize(run.config), seed=0)
            views = tuple(view for views in VIEWS.values() for view in views)
            passed = list(rehearsal.waits) if rehearsal else []
            to_probs = partial(probabilities, task="multiclass")
            _, probs = predict(networks, build_loader(data, 8, num_workers=0), to_probs, "fp32", views=views)
            if rehearsal:
                del rehearsal.waits[: len(passed)]
                assert count_waits(rehearsal) == {"pixel_stats": 6}
            features = load_features(run, build_transforms(run.config, run.table), run.table.paths, networks[0])
            found[device] = probs, np.array(features)
            if rehearsal:
                assert count_waits(rehearsal).keys() == {"pixel_stats", "locate_features"}
                next(run.folder.path.parent.rglob("features_*.npy")).unlink()
    for one, other in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def compute_loss(words, targets, logits, device, **kwargs):
    """Return the loss on a device, with the gradient of its logits on the CPU; targets lie on the CPU."""
    loss = build_loss(load_config(["competition.classes=[]", *words]), **kwargs)
    leaf = logits.to(device, copy=True).requires_grad_()
    value = loss(leaf, targets.clone())
    value.backward()
    return value, leaf.grad


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_but_hinge_of_classes(name):
    """It asks which classes have a share. Weights and missing labels wait neither."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator)
    hard = nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    for task, missing in (("multiclass", "error"), ("multilabel", "drop"), ("regression", "drop")):
        is_refused = (task == "regression") != (name == "mae") if name == "mae" else False
        is_refused |= task == "regression" and name not in VALUE_LOSSES
        is_refused |= (task == "multiclass" and name in ("bce", "asymmetric")) or (
            task != "multiclass" and name == "cross_entropy"
        )
        if is_refused:
            continue
        targets = hard.clone()
        if missing == "drop":
            targets[1, 2] = targets[3] = torch.nan
        has_weights = task != "regression" and name not in ("auc", "mse", "huber")
        has_weights &= "weights" in inspect.signature(LOSSES[name]).parameters
        how = {"class_weights": np.array([1.0, 2.0, 3.0])} if has_weights else {}
        how |= {"target_scale": ([1.0] * 3, [2.0] * 3)} if task == "regression" else {}
        words = [f"competition.task={task}", f"competition.missing={missing}", f"loss.name={name}"]
        expected, gradient = compute_loss(words, targets, logits, "cpu", **how)
        with rehearse() as rehearsal:
            value, found = compute_loss(words, targets, logits, "cuda", **how)
            waits = [operation for operation, function in rehearsal.waits if function != "?"]
            assert len(waits) == (name == "hinge" and task == "multiclass"), (task, waits)
            value, found = value.detach().cpu(), found.cpu()
        torch.testing.assert_close((value, found), (expected.detach(), gradient), msg=f"{name} of {task}")


def test_auxiliary_columns_wait_for_nothing():
    targets = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 1.0, torch.nan, 0.0]])
    columns = ["a", "b"], np.zeros(2), np.ones(2), np.array([False, True])
    with rehearse() as rehearsal:
        loss = add_auxiliary_loss(build_loss(load_config(["competition.task=multilabel"])), 0.3, 2, *columns)
        logits = torch.zeros(2, 4, device="cuda", requires_grad=True)
        for one in (targets, targets.pin_memory()):
            loss(logits, one).backward()
        assert rehearsal.waits == []


@pytest.mark.parametrize("name", [*OPTIMIZERS, "lion", "nadamw", "muon"])
def test_no_optimizer_waits(name):
    with rehearse() as rehearsal:
        network = build_network(load_config(WORDS), 2).place(torch.device("cuda"), None)
        optimizer = build_optimizer(Optimizer(name=name, l1_penalty=0.1), network)
        rehearsal.waits.clear()
        for _ in range(2):
            network(image=torch.ones(2, 1, 8, 8, device="cuda")).sum().backward()
            optimizer.step()
        assert rehearsal.waits == []
        is_fused = name in ("sgd", "momentum", "nesterov", "adam", "adamw")
        assert bool(optimizer.param_groups[0].get("fused")) == is_fused


@pytest.mark.parametrize("optimizer", ["adam", "adam,fused", "sgd,fused", "lamb"])
def test_a_step_that_gradscaler_skips_moves_nothing(begin, optimizer, monkeypatch):
    """The first of two: neither weights, schedule nor average; the scale is halved, is each fold's own and resumes."""
    name, _, is_fused = optimizer.partition(",")
    words = [f"optimizer.name={name}", "train.average=ema", *(["optimizer.kwargs={fused: true}"] if is_fused else ())]
    with begin("cuda", "fp16", *words) as (run, _):
        learner = build(run)
        before, steps = [one.clone() for one in learner.network.parameters()], []
        backward = type(run.accelerator).backward

        def overflow(accelerator, loss):
            backward(accelerator, loss * (torch.inf if not steps else 1))

        def after_step(progress):
            both = learner.network, learner.average.module
            pairs = [zip(network.parameters(), before, strict=True) for network in both]
            has_moved = [any((one != old).any() for one, old in each) for each in pairs]
            rate = learner.optimizer.param_groups[0]["lr"]
            steps.append((*has_moved, learner.average.state_dict()["num_steps"], round(rate, 6)))

        monkeypatch.setattr(type(run.accelerator), "backward", overflow)
        train_one_epoch(learner, 0, after_step=after_step)
        assert steps == [(False, False, 0, 1e-4), (True, True, 1, 0.00505)]
        assert run.accelerator.scaler.get_scale() == 2**15
        state = learner.state_dict()
        run.accelerator.scaler = torch.amp.GradScaler("cuda")  # as train_fold does for each fold
        resumed = build_learner(run, 0)
        resumed.load_state_dict(state)
        resumed.start_epoch(0, 7)
        run.accelerator.scaler.scale(torch.ones((), device="cuda"))
        assert run.accelerator.scaler.get_scale() == 2**15


class Reading(nn.Module):
    """What a fork might add to a network: `read` of its features."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, features):
        self.read(features)
        return features


FAULTS = {
    "item": lambda one: one.sum().item(),
    "a branch": lambda one: 1 if one.sum() > 0 else 0,
    "float": lambda one: float(one.mean()),
    "a mask": lambda one: one[one > 0],
    "nonzero": lambda one: one.nonzero(),
    "cpu": lambda one: one.cpu(),
    "to": lambda one: one.to("cpu"),
    "tolist": lambda one: one.tolist(),
    "a list": lambda one: one + torch.tensor([1.0], device=one.device),
    "an index": lambda one: one[torch.tensor([0, 1])],
    "pageable memory": lambda one: one + torch.ones(1).to(one.device, non_blocking=True),
    "synchronize": lambda one: torch.cuda.synchronize(),
    "equal": lambda one: torch.equal(one, one),
    "unique": lambda one: one.unique(),
}
WRONG = {
    "a tensor of the CPU": lambda one: one + torch.ones(one.shape[1]),
    "joined": lambda one: torch.stack([one.sum(), torch.tensor(1.0)]),
    "a layer of the CPU": lambda one: nn.Linear(one.shape[1], 2)(one),
    "numpy": lambda one: one.detach().numpy(),
    "an array": lambda one: np.asarray(one.detach()),
    "a generator": lambda one: one.detach().clone().normal_(generator=torch.Generator()),
    "too early": lambda one: one.detach().to("cpu", non_blocking=True).numpy(),
}


@pytest.mark.parametrize("fault", [*FAULTS, *WRONG])
def test_the_rehearsal_sees_a_network_that_waits_or_mixes_devices(fault):
    with rehearse() as rehearsal:
        features = torch.ones(2, 3, device="cuda", requires_grad=True) * 1
        with pytest.raises(Refused) if fault in WRONG else nullcontext():
            Reading((FAULTS | WRONG)[fault])(features).sum().backward()
        assert len(rehearsal.waits) == (fault in FAULTS)
        assert features.device == CUDA


@pytest.mark.parametrize("where", ["images", "mixer", "loss", "average"])
def test_the_rehearsal_sees_code_of_ours_that_forgets_the_device(begin, where, monkeypatch):
    def leave(values, device):
        return values

    if where == "average":
        monkeypatch.setattr("timm.utils.ModelEmaV3.update", lambda self, model, step: model.last.bias.sum().item())
    else:
        module = {"images": "training.engine", "mixer": "data.mixup_cutmix", "loss": "model.losses"}[where]
        monkeypatch.setattr(f"src.{module}.to_device", leave)
    with begin("cuda", "fp32", *MIXED) as (run, rehearsal):
        learner = build(run)
        if where == "average":
            learner.network.last = learner.network.head.last
        count_waits(rehearsal)
        with pytest.raises(Refused) if where in ("images", "loss") else nullcontext():
            train_one_epoch(learner, 0)
        assert bool(count_waits(rehearsal).keys() - ENDS.keys()) == (where in ("mixer", "average"))
