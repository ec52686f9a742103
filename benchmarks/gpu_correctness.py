"""The GPU benchmark's checks: a CPU's numbers, within stated limits; each list_* returns [(name, () -> row)].

Limits are relative: the 2-norm of the difference over that of the CPU's numbers in fp32, unless a row says otherwise.
"""

import os
import signal
import sys
import time
import traceback
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.gpu_case import LeftOut
from benchmarks.gpu_speed import random_batch, with_flag
from src.checkpointing.run_folder import RunFolder, load_run
from src.config.load import load_config
from src.device import autocast
from src.errors import first_line
from src.files import load_json
from src.inference.predict import infer_run
from src.model.losses import build_loss
from src.model.network import build_network
from src.training.averaging import build_average
from src.training.engine import train_one_epoch
from src.training.learner import build_learner
from src.training.optimizer import build_optimizer
from src.training.run import train_run

# of logits, the stages' gradient norms and the losses of five steps; a number of bf16 has 8 bits, of fp16 and TF32 11
LIMITS = {
    "fp32": {"logits": 1e-4, "gradients": 2e-3, "losses": 1e-3},
    "TF32": {"logits": 5e-3, "gradients": 3e-2, "losses": 1e-2},
    "fp16": {"logits": 5e-3, "gradients": 3e-2, "losses": 1e-2},
    "bf16": {"logits": 4e-2, "gradients": 1e-1, "losses": 3e-2},
}
_STEPS = 5
SCORE_LIMITS = {"fp32": 0.005, "auto": 0.02}  # of the out-of-fold ROC AUC, absolute
PROB_LIMITS = {"fp32": 1e-3, "auto": 0.03}  # of a predicted probability, absolute


def list_correctness(case):
    names = ["fp32", "TF32", "bf16", "fp16"] if case.is_cuda else ["fp32", "bf16", "fp16"]
    figures = [
        (f"{precision}, {model}", partial(compare_steps, case, model, precision))
        for precision in names
        for model in case.sizes.small
    ]
    scaler = ("GradScaler, injected inf", partial(check_scaler, case))
    first = case.sizes.small[-1]
    return [*figures, scaler, (f"compiled, {first}", partial(check_compiled, case, first))]


_references = {}  # {model: what take_steps returned on the CPU in fp32}


def compare_steps(case, model, precision):
    """A few steps from the same weights on the same batch: logits, gradients, losses, and what EMA makes of them."""
    if precision == "fp16" and not case.is_cuda:
        raise LeftOut("a CPU does not train in fp16")
    if model not in _references:
        _references[model] = take_steps(case, model, torch.device("cpu"), "fp32")
    kind = "fp32" if precision == "TF32" else precision
    flag = "tf32" if case.is_cuda and kind == "fp32" else None
    found = with_flag(flag, precision == "TF32", partial(take_steps, case, model, case.device, kind))
    limits = LIMITS[precision] | {"ema": LIMITS[precision]["losses"]}
    return judge({name: relative(found[name], _references[model][name]) for name in limits}, limits)


def take_steps(case, model, device, precision):
    """Return {"logits" in evaluation, "gradients": norm of each stage's at the first step, "losses", "ema" weights}."""
    config = case.config(model, "train.average=ema", "optimizer.name=sgd", "optimizer.lr=0.01")
    torch.manual_seed(0)
    network = build_network(config, 10)
    generator = torch.Generator().manual_seed(0)
    shape = (case.sizes.small_batch, case.sizes.image_size, case.sizes.image_size, 3)
    raw = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    targets = random_batch(case, (shape[0], 1, 1, 1))["target"].to(device)
    network.place(device, config.train.channels_last)
    average, loss_function = build_average(config.train, network), build_loss(config)
    optimizer = build_optimizer(config.optimizer, network)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=precision == "fp16")  # or it skips the first
    with torch.inference_mode(), autocast(device, precision):
        logits = network.eval()(**network.normalize({"image": raw})).float().cpu()
    network.train()
    losses, norms = [], None
    for _ in range(_STEPS):
        with autocast(device, precision):
            output = network(**network.normalize({"image": raw}))
        loss = loss_function(output, targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if norms is None:
            norms = torch.stack([one.grad.norm() for one in network.parameters() if one.grad is not None]).cpu()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average.after_step(network)
        losses.append(loss.detach().float().cpu())
    ema = torch.cat([one.detach().flatten().cpu() for one in average.module.parameters()])
    return {"logits": logits, "gradients": norms, "losses": torch.stack(losses), "ema": ema}


def relative(found, expected):
    """Return the norm of the difference over that of what is expected; nan where a number is not finite."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def judge(found, limits):
    """Return the row of some differences and their limits; nan is beyond any."""
    ok = {name: bool(found[name] <= limit) for name, limit in limits.items()}
    parts = [f"{name} {found[name]:.0e}{'' if ok[name] else f', NOT <= {limit:g}'}" for name, limit in limits.items()]
    return {"found": found, "limits": limits, "ok": all(ok.values()), "shown": ", ".join(parts)}


def check_scaler(case):
    """A gradient that is inf in one step: the weights stay, the scale is halved, and training goes on."""
    words = ("train.batches_per_epoch=6", f"train.batch_size={case.sizes.small_batch}", "train.num_workers=0")
    run = case.run(case.sizes.small[0], *words, *(("precision=fp16",) if case.is_cuda else ()))
    if not case.is_cuda:
        run.accelerator.scaler = torch.amp.GradScaler("cpu")  # which accelerate gives fp16 alone
    learner = build_learner(run, 0)
    learner.start_epoch(0, 0, 0, 0, 0)
    parameters, calls, weights, scales = list(learner.network.parameters()), [], [], []

    def inject(gradient):
        calls.append(1)
        return gradient * torch.inf if len(calls) == 4 else gradient  # by then the scale has settled

    def after_step(_):
        weights.append(torch.cat([one.detach().flatten() for one in parameters]).cpu())
        scales.append(run.accelerator.scaler.get_scale())

    parameters[0].register_hook(inject)
    train_one_epoch(learner, 0, after_step=after_step)
    checks = {
        "weights stay": torch.equal(weights[2], weights[3]),
        "the scale is halved": scales[3] == scales[2] / 2,
        "the next step learns": not torch.equal(weights[3], weights[4]),
        "weights are finite": bool(torch.isfinite(weights[5]).all()),
    }
    failed = [name for name, is_true in checks.items() if not is_true]
    text = f"not true: {', '.join(failed)}" if failed else ", ".join(checks)
    return {"checks": checks, "scales": scales, "ok": not failed, "shown": text}


def check_compiled(case, model):
    """Logits and the gradient of a compiled network against the same one's, in fp32."""
    if case.is_cuda:
        case.check_can_compile(20)
    config, found = case.config(model), {}
    batch = random_batch(case, (case.sizes.small_batch, case.sizes.image_size, case.sizes.image_size, 3))
    torch.manual_seed(0)
    network, loss_function = build_network(config, 10).place(case.device, None), build_loss(config)
    for name in ("eager", "compiled"):
        if name == "compiled":  # a CPU traces as it would, without the minute that its compiler takes
            network.compile(**({} if case.is_cuda else {"backend": "aot_eager"}))
        network.zero_grad()
        logits = network(**network.normalize(batch["inputs"]))
        loss_function(logits, batch["target"]).backward()
        gradient = torch.cat([one.grad.flatten() for one in network.parameters() if one.grad is not None])
        found[name] = {"logits": logits.detach().cpu(), "gradient": gradient.cpu()}
    differences = {key: relative(found["compiled"][key], found["eager"][key]) for key in ("logits", "gradient")}
    return judge(differences, {"logits": 2e-3, "gradient": 2e-2})  # TF32 where it is on


# whole runs ----------------------------------------------------------------------------------------------------------
_RUN = (
    "competition=demo", "competition.root=demo", "output_dir=runs", "num_folds=2", "fold=0", "train.max_images=512",
    "train.epochs=2", "tracking=none", "report=false", "train.num_workers=0", "seed=0",
)  # fmt: skip


_ERROR = Path("error")  # of a process that has failed, in the folder of the runs


def list_runs(case):
    """Whole runs of the embedded competition, each in a process of its own; this one does not touch the device."""
    device = case.device.type
    return [
        ("CPU, fp32", partial(train_as, "on_cpu", "device=cpu", "threads=1", "precision=fp32")),
        ("fp32: its score", partial(compare_runs, "fp32", "on_device", device)),
        ("automatic: its score", partial(compare_runs, "auto", "auto", device)),
        ("resumed after a kill", partial(check_resuming, case)),
        ("the CPU's run, inferred", partial(compare_inference, "fp32", "on_cpu", device)),
        ("automatic, inferred on the CPU", partial(compare_inference, "auto", "auto", device)),
    ]


def fork(function, *arguments):
    """Start a function in a process that this one, which has imported all, forks."""
    process = get_context("fork").Process(target=_in_process, args=(function, *arguments))
    process.start()
    return process


def _in_process(function, *arguments):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except Exception as error:
        traceback.print_exc()
        _ERROR.write_text(first_line(error))
        sys.exit(1)


def finish(process):
    """Wait for a process that `fork` has started; its error is raised here."""
    process.join()
    if process.exitcode:
        found = _ERROR.read_text() if _ERROR.is_file() else f"its process ended with status {process.exitcode}"
        _ERROR.unlink(missing_ok=True)
        raise RuntimeError(found)


def train_words(name, *words):
    return [*_RUN, f"name={name}", *words]


def _train(words):
    train_run(load_config(words), words)


def train_as(name, *words):
    """Train fold 0 in a process of its own."""
    began = time.perf_counter()
    finish(fork(_train, train_words(name, *words)))
    seconds = time.perf_counter() - began
    return {"score": read_score(name), "shown": f"ROC AUC {read_score(name):.5f} in {seconds:.1f} s"}


def read_score(name):
    return float(load_json(RunFolder(f"runs/{name}").fold(0).meta)["best_score"])


def compare_runs(precision, name, device):
    """The out-of-fold score of a run on the device against the CPU's in fp32."""
    words = () if device == "cuda" else ("threads=1",)
    train_as(name, f"device={device}", f"precision={precision}", *words)
    found = {"score": abs(read_score(name) - read_score("on_cpu"))}
    row = judge(found, {"score": SCORE_LIMITS[precision]})
    return row | {"shown": f"ROC AUC {read_score(name):.5f}, on the CPU {read_score('on_cpu'):.5f}, {row['shown']}"}


def check_resuming(case):
    """Killed in the middle of an epoch and resumed, against undisturbed; bit for bit where two undisturbed agree so."""
    words = (f"device={case.device.type}", "precision=auto", *(() if case.is_cuda else ("threads=1",)))
    train_as("again", *words)
    killed = train_words("killed", *words, "checkpoint_minutes=0")
    process, fold = fork(_train, killed), RunFolder("runs/killed").fold(0)
    while process.is_alive() and not _in_mid_epoch(fold):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    states = [path.name for path in fold.states()]
    if not states or fold.is_finished():
        raise LeftOut("it had ended before it could be killed")
    finish(fork(_train, killed))
    probs = {name: pd.read_csv(RunFolder(f"runs/{name}").fold(0).val) for name in ("auto", "again", "killed")}
    numbers = {name: table.select_dtypes("number").to_numpy() for name, table in probs.items()}
    is_deterministic = np.array_equal(numbers["auto"], numbers["again"])
    found = {"probs": float(np.abs(numbers["killed"] - numbers["auto"]).max())}
    found["undisturbed twice"] = float(np.abs(numbers["again"] - numbers["auto"]).max())
    row = judge(found, {"probs": 0.0 if is_deterministic else PROB_LIMITS["auto"]})
    kind = "two undisturbed agree bit for bit" if is_deterministic else "two undisturbed differ, too"
    return row | {"killed_at": states[-1], "is_deterministic": is_deterministic, "shown": f"{row['shown']}; {kind}"}


def _in_mid_epoch(fold):
    """Return the states that a fold has saved within its second epoch or a later one."""
    numbers = {path: [int(part) for part in path.stem.split("_")[1:]] for path in fold.states()}
    return [path for path, (epoch, num_batches) in numbers.items() if epoch >= 1 and num_batches >= 1]


def _infer(name, device, output):
    words = [f"run=runs/{name}", f"device={device}", f"infer.output={output}"]
    folder, config = load_run([*words, *(("threads=1",) if device == "cpu" else ())])
    infer_run(config, folder)


def compare_inference(precision, name, device):
    """What one run predicts on the CPU and on the device: probabilities of each test image, and the submission."""
    for one in ("cpu", device):
        finish(fork(_infer, name, one, f"inferred/{name}_{one}"))
    tables = [RunFolder(f"inferred/{name}_{one}") for one in ("cpu", device)]
    found = {}
    for kind, paths in {
        "probs": [one.fold(0).test for one in tables],
        "submission": [one.submission for one in tables],
    }.items():
        ours, theirs = (pd.read_csv(path) for path in paths)
        assert list(ours.columns) == list(theirs.columns)
        assert ours.iloc[:, 0].equals(theirs.iloc[:, 0]), "the rows are in one order"
        found[kind] = float(np.abs(ours.iloc[:, 1:].to_numpy() - theirs.iloc[:, 1:].to_numpy()).max())
    return judge(found, dict.fromkeys(found, PROB_LIMITS[precision]))
