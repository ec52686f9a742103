"""The search: trials are asked for, trained by train.py as programs, pruned by their log.csv, and scored."""

import csv
import re
import signal
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import optuna
from optuna.trial import TrialState

from src.checkpointing.interrupts import Interrupts
from src.checkpointing.run_folder import RunFolder, training_settings
from src.config.help import as_word
from src.config.load import load_config
from src.config.settings import Model, seconds_of, value_of
from src.data.transforms import build_augmentation
from src.device import resolve_device, share_cores
from src.errors import Stopped, UserError, first_line, listing
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import load_out_of_fold
from src.files import save_text
from src.launchers import Job
from src.model.losses import check_loss
from src.model.network import build_network
from src.training.averaging import build_average
from src.training.execution import choose_precision
from src.training.optimizer import build_optimizer
from src.training.run_data import list_folds, load_run_data
from src.training.schedule import build_schedule
from src.training.seeds import build_launcher
from tools.tune.results import save_results, save_trials
from tools.tune.study import Search

_NUM_ALIKE = 3  # trials that fail alike, and no other, end the search


@dataclass(eq=False)
class Running:
    """A trial that runs here."""

    trial: object  # optuna's
    words: list  # of train.py
    folder: RunFolder
    num_epochs: int
    waiting: list  # folds that are to be trained, each a tuple
    jobs: dict = field(default_factory=dict)  # {Job that runs: its folds}
    is_judged: bool = False  # its first fold has ended, or need not be looked at
    epoch: int = 0  # of the first fold, the last that was reported
    ends_as: TrialState | None = None  # once it is decided; it ends when its jobs have
    score: float | None = None
    reason: str = ""


def run_search(options):
    """Run trials until there are enough, then write the results; see tools.tune.__main__."""
    config, folder = options.config, options.folder
    interrupts = Interrupts(config.checkpoint_minutes, seconds_of(config.time_budget), config.overwrite)
    if folder.exists() and any(folder.iterdir()) and not (folder / "space.yaml").is_file():
        raise UserError(f"{folder}: exists and is none of tools.tune's; choose name=ANOTHER")
    competition = config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    table = load_run_data(config, metric)
    folds = list_folds(config, table)
    if options.folds and options.folds > len(folds):
        raise UserError(f"command line: folds={options.folds}: there are {listing(folds)}; leave it out to train all")
    folds = folds[: options.folds]
    check_space(options, len(table.target_names))
    first = {key: one.find(config) for key, one in options.parameters.items()}
    outside = [key for key, value in first.items() if value is None]
    num_steps = max(count_epochs(options.parameters.get("train.epochs"), config))
    terms, first = describe_terms(options, folds), {} if outside else first
    search = Search(options, terms, first, metric.greater_is_better, num_steps)
    save_text(folder / "space.yaml", options.space.read_text(encoding="utf-8"))
    with interrupts.handle_signals(), closing(search):
        stopped = None
        try:
            with build_launcher(config) as launcher:
                whole = ", all of its space" if search.num_trials < options.trials else ""
                print(f"{folder}: {search.num_trials} trials of {listing(options.parameters, 4)}{whole}")
                slots = f"{launcher.num_slots} at a time"
                print(f"{metric.name} of {len(table)} rows, folds {listing(folds)}; {slots}")
                why = f"outside of the space: {listing(outside, 3)}" if outside else "trial 0"
                print(f"the recipe's own settings: {why}")
                words = [*options.words, *settle_words(options, launcher)]
                Loop(options, search, launcher, metric, folds, words, num_steps).run(interrupts)
        except Stopped as stop:
            if stop.status or search.best() is None:  # of a signal, whose sender may not wait
                raise
            stopped = stop
        except optuna.exceptions.StorageInternalError as error:
            advice = "the same command resumes once it answers"
            raise UserError(f"storage={search.url}: {first_line(error)[:200]}; {advice}") from None
        save_results(options, search, metric, folds, bool(first))
        if stopped:
            raise stopped


def count_epochs(parameter, config):
    """Return the numbers of epochs that trials may have."""
    if parameter is None:
        return [config.train.epochs]
    return [int(one) for one in parameter.choices] or [parameter.high]


def describe_terms(options, folds):
    """Return what all commands of one search share, as {name: text}."""
    keys = [key for key in training_settings() if key not in ("recipe", "competition.name")]
    terms = {key: str(as_word(value_of(options.config, key))) for key in keys}
    terms |= {f"space of {key}": one.describe() for key, one in options.parameters.items()}
    return terms | {"trained folds": listing(folds, 100), "pruner": options.pruner}


def check_space(options, num_targets):
    """Raise a UserError for what only those who build loss, augmentation, optimizer ... can refuse."""
    for key, one in options.parameters.items():
        for value in one.choices or (one.low, one.high):
            config = load_config([*options.words, one.word(value)])
            model = {name: value_of(config, f"model.{name}") for name in ("head", "head_kwargs", "pool", "drop_rate")}
            small = replace(config, model=Model(backbone="simple_cnn", pretrained=False, **model))
            try:
                check_loss(config)
                if key.startswith("augment."):
                    build_augmentation(config, is_uint8=True)
                network = build_network(small, num_targets, load_pretrained=False)
                optimizer = build_optimizer(config.optimizer, network)
                build_average(config.train, network)
                build_schedule(config.schedule, optimizer, config.train.epochs, steps_per_epoch=100)
            except UserError as error:
                raise UserError(f"{options.space}: {one.word(value)}: {error}") from None


def settle_words(options, launcher):
    """Return the words that all trials share beside the command's own: folders, and on a CPU the precision."""
    config = options.config
    words = [f"output_dir={options.folder / 'trials'}"]
    words += [] if config.cache_dir else [f"cache_dir={config.output_dir}/cache"]
    if config.precision == "auto" and launcher.device == "cpu":
        device = resolve_device("cpu")
        share_cores(device, config.train.num_workers, config.threads)
        words.append(f"precision={choose_precision(config, device)}")
    return words


class Loop:
    """Keeps the launcher's slots busy: folds of trials that have begun first, then new trials."""

    def __init__(self, options, search, launcher, metric, folds, words, num_steps):
        self.options, self.search, self.launcher, self.metric = options, search, launcher, metric
        self.folds, self.words, self.num_steps = folds, words, num_steps
        self.running, self.failed, self.has_all = [], [], False  # Running; [(number, reason)]

    def run(self, interrupts):
        """Run until no trial is left; Stopped at the end of the time budget."""

        def look():
            if interrupts.seconds_left() <= 0:
                raise Stopped(f"stopped by time_budget, all trials are saved; {interrupts.again} resumes", 0)
            self.search.give_signs([one.trial for one in self.running])
            for one in self.running:
                self._judge(one)

        print(f"{'trial':>5} {'state':<8} {self.metric.name[:12]:>12} {'best':>10} {'seconds':>8}", flush=True)
        for job, status, line in self.launcher.run(self._list_jobs(), look):
            self._end_job(job, status, line)

    def _list_jobs(self):
        """Yield the next job, None while none can start: of trials that have begun, then of new ones."""
        while True:
            one = next((one for one in self.running if one.waiting and (one.is_judged or not one.jobs)), None)
            if one is None and (one := self._begin()) is None:
                yield None
            elif one.waiting:  # else it has failed
                folds, name = one.waiting.pop(0), f"trial_{one.trial.number:04d}"
                fold = [f"fold={folds[0]}"] if len(folds) == 1 else []
                log = self.options.folder / "trials" / "logs" / f"{name}_fold{folds[0]}.log"
                job = Job(f"{name} fold {folds[0]}", (*one.words, *fold), log)
                one.jobs[job] = folds
                yield job

    def _begin(self):
        """Return the next trial as a Running, None where there is none."""
        trial, is_resumed = (None, False) if self.has_all else self.search.ask()
        if trial is None:
            self.has_all = True
            return None
        words = [one.word(one.suggest(trial)) for one in self.options.parameters.values()]
        words = [*self.words, *words, f"name=trial_{trial.number:04d}"]
        folder = RunFolder(self.options.folder / "trials" / f"trial_{trial.number:04d}")
        one = Running(trial, words, folder, 0, [])
        self.running.append(one)
        try:
            one.num_epochs = load_config(words).train.epochs
        except UserError as error:  # of values that do not go together
            self._stop(one, TrialState.FAIL, str(error).removeprefix("command line: "))
            self._end(one)
            return one
        if is_resumed:
            print(f"{trial.number:>5} resumes, as its command has ended", flush=True)
        others = self.folds[1:]
        one.waiting = [(self.folds[0],), *((fold,) for fold in others)]
        if self.launcher.num_slots == 1 and self.options.folds is None and others:
            one.waiting[1:] = [tuple(others)]  # by one program, which trains what is not finished
        return one

    def _end_job(self, job, status, line):
        """Take note of how a job has ended, `line` is its last; end its trial where it was the last."""
        one = next(one for one in self.running if job in one.jobs)
        folds = one.jobs.pop(job)
        self._judge(one)  # its log is whole now
        if status == 0 and all(one.folder.fold(fold).is_finished() for fold in folds):
            one.is_judged = True
        elif one.ends_as is None:
            line = line.removeprefix("error: ")
            why = ", most often because memory ran out" if status == -signal.SIGKILL else ""
            self._stop(one, TrialState.FAIL, f"killed by signal {-status}{why}; {line}" if status < 0 else line)
        if one.ends_as is None and not one.waiting and not one.jobs:
            self._score(one)
        if one.ends_as is not None and not one.jobs:
            self._end(one)

    def _judge(self, one):
        """Report the new epochs of the first fold; prune a trial that is hopeless."""
        for row in [] if one.is_judged else read_log(one.folder.fold(self.folds[0])):
            epoch = int(row["epoch"])
            if epoch <= one.epoch or one.ends_as is not None:
                continue
            one.epoch = epoch
            steps = [step for step in range(1, self.num_steps + 1) if step * one.num_epochs // self.num_steps == epoch]
            for step in steps:  # an equal share of each trial's training
                if one.ends_as is None and self.search.report(one.trial, float(row["val_score"]), step):
                    self._stop(one, TrialState.PRUNED, f"after epoch {epoch}")

    def _stop(self, one, state, reason):
        """Have a trial end in a state, once its jobs have."""
        one.ends_as, one.reason, one.waiting = state, reason, []
        for job in one.jobs:
            self.launcher.stop(job)

    def _score(self, one):
        found = score_trial(self.metric, one.folder, self.folds)
        if np.isfinite(found["score"]):
            one.ends_as, one.score = TrialState.COMPLETE, found["score"]
        else:
            self._stop(one, TrialState.FAIL, f"{self.metric.name} is {found['score']}")
        self.search.note(one.trial, folds=found["folds"], without=found["without"])

    def _end(self, one):
        """Tell the study, delete the weights of what is pruned or failed, print a line."""
        self.running.remove(one)
        number, logs = one.trial.number, [read_log(one.folder.fold(fold)) for fold in self.folds]
        seconds = round(sum(float(log[-1]["seconds"]) for log in logs if log), 2)  # of training and validation
        self.search.note(one.trial, seconds=seconds, reason=one.reason)
        if one.ends_as != TrialState.COMPLETE:
            for path in chain(one.folder.path.glob("fold*/*.safetensors"), one.folder.path.glob("fold*/*.pt")):
                path.unlink(missing_ok=True)
        self.search.tell(one.trial, one.ends_as, one.score)
        save_trials(self.options, self.search)
        best = self.search.best()
        scores = ["-" if value is None else f"{value:.5f}" for value in (one.score, best and best.value)]
        state = {"FAIL": "failed"}.get(one.ends_as.name, one.ends_as.name.lower())
        line = f"{number:>5} {state:<8} {scores[0]:>12} {scores[1]:>10} {seconds:>8.1f}"
        print(f"{line} {one.reason}"[:80].rstrip(), flush=True)
        if one.ends_as == TrialState.FAIL:
            self._check_failures(number, one.reason)

    def _check_failures(self, number, reason):
        """Raise a UserError where trials fail alike and none ends well; they will be tried again."""
        self.failed.append((number, reason))
        what = [re.sub(r"\d+", "#", why.partition(": ")[2] or why) for _, why in self.failed[-_NUM_ALIKE:]]
        if len(what) == _NUM_ALIKE and len(set(what)) == 1 and not self.search.trials("COMPLETE", "PRUNED"):
            self.search.leave_out([number for number, _ in self.failed])
            found = f"{_NUM_ALIKE} trials have failed alike, and none has ended"
            raise UserError(f"{self.options.folder}: {found}: {reason}")


def read_log(fold):
    """Return the rows of a FoldFolder's log.csv, [{column: text}]; [] before there is one."""
    try:
        with open(fold.log, newline="", encoding="utf-8") as file:
            return [*csv.DictReader(file)]
    except FileNotFoundError:
        return []


def score_trial(metric, folder, folds):
    """Return {score: pooled, folds: {fold: score}, without: {fold: the others' pooled}} of a RunFolder's folds."""
    oof = load_out_of_fold(folder.oof, folder.folds)
    own = oof.take(np.isin(oof.folds, folds))

    def score(rows):
        return float(metric.score(own.targets[rows], own.probs[rows]))

    found = {"score": score(slice(None)), "folds": {}, "without": {}}
    for fold in folds:
        found["folds"][str(fold)] = score(own.folds == fold)
        if len(folds) > 1:
            found["without"][str(fold)] = score(own.folds != fold)
    return found
