"""The trials of a search in Optuna's storage: which come next, which are left by others, and what they gave."""

import contextlib
import math
import platform
import re
import shutil
import time
import warnings
import zlib
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from src.errors import UserError, first_line

_BEAT, _LOST = 60, 600  # seconds between two signs of life of a trial; after which one of another machine is lost
_NUM_RANDOM = 10  # trials before the sampler learns from them
_NUM_UNPRUNED = 5  # trials that are complete before one is pruned

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of 4.x: multivariate TPE
optuna.logging.set_verbosity(optuna.logging.ERROR)


class TrialSampler(optuna.samplers.BaseSampler):
    """TPE whose random numbers come from (seed, trial number) alone, so that a search that resumes goes the same way.

    The first trial gets the settings `first`, {key: value}, if it has any. is_whole: each point of the space is tried.

    Reference: Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011, NeurIPS; multivariate: Falkner, Klein
    and Hutter, BOHB, 2018, arXiv:1807.01774.
    """

    def __init__(self, seed, first, is_whole):
        self._seed, self._first, self._is_whole, self._inner = seed, first, is_whole, None

    def before_trial(self, study, trial):
        seed = zlib.crc32(f"{self._seed} {trial.number}".encode())
        if self._is_whole:
            self._inner = optuna.samplers.BruteForceSampler(seed=seed)
            return
        how = {"n_startup_trials": _NUM_RANDOM, "multivariate": True, "constant_liar": True}
        self._inner = optuna.samplers.TPESampler(seed=seed, **how)

    def infer_relative_search_space(self, study, trial):
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        if trial.number == 0 and self._first:
            return self._first[param_name]
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


class Search:
    """The study, shared by all commands of one search; each trial is run by one of them at a time.

    Commands that share a folder see by file locks which trials are run; those of other machines by signs of life.
    """

    def __init__(self, options, terms, first, greater_is_better, num_steps):
        self.options, self._locks, self._held, self._beaten = options, options.folder / ".locks", {}, time.monotonic()
        self.url = options.storage or str(options.folder / "journal.log")
        if options.config.overwrite:
            self._check_idle()
            shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True, exist_ok=True)
        num_points = math.prod(one.num_values for one in options.parameters.values())
        self.num_trials = min(options.trials, num_points)  # as the same settings give the same score
        sampler = TrialSampler(options.config.seed, first, is_whole=num_points <= options.trials)
        how = {"study_name": options.folder.name, "sampler": sampler}
        how["pruner"] = _build_pruner(options.pruner, num_steps)
        how["direction"] = "maximize" if greater_is_better else "minimize"
        try:
            storage = self.url if "://" in self.url else _open_journal(self.url)
            if options.config.overwrite:
                with contextlib.suppress(KeyError):
                    optuna.delete_study(study_name=options.folder.name, storage=storage)
            self.study = optuna.create_study(storage=storage, load_if_exists=True, **how)
        except Exception as error:  # of a driver, a host, a password, a file: each library has its own
            fault = f"cannot be opened ({first_line(error)})"
            raise UserError(f"storage={self.url}: {fault}; see python -m tools.tune --help") from None
        self._check_terms(terms)

    def trials(self, *states):
        """Return the FrozenTrials that count, by number; states: names such as "COMPLETE", none: all."""
        left_out = self.study.user_attrs.get("left_out", [])
        found = self.study.get_trials(deepcopy=False, states=tuple(TrialState[one] for one in states) or None)
        return [one for one in found if "left_out" not in one.user_attrs and one.number not in left_out]

    def best(self):
        """Return the best complete trial, the earlier of equal ones; None without any."""
        sign = 1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return max(self.trials("COMPLETE"), key=lambda one: (sign * one.value, -one.number), default=None)

    def ask(self):
        """Return (the next trial, whether another command began it); (None, False) where there are enough."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with FileLock(self._locks / "ask.lock"):
            for one in self.trials("RUNNING"):
                if one.number not in self._held and self._take_over(one):
                    return optuna.trial.Trial(self.study, one._trial_id), True
            if len(self._asked()) >= self.num_trials:
                return None, False
            trial = self.study.ask()
            trial.set_user_attr("beat", time.time())
            self._hold(trial.number)
            if sum(one.number < trial.number for one in self._asked()) < self.num_trials:
                trial.set_user_attr("host", platform.node())
                return trial, False
            trial.set_user_attr("left_out", "one too many")  # another machine has asked at the same time
            self.tell(trial, TrialState.FAIL)
            return None, False

    def report(self, trial, score, step):
        """Report a score at a step, once; return whether the trial is to be pruned."""
        reported = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if step not in reported:
            with contextlib.suppress(RuntimeError):
                trial.report(score, step)
        return step >= max(reported, default=0) and trial.should_prune()  # earlier ones did not end it

    def note(self, trial, **facts):
        """Keep facts of a trial, unless another command has ended it meanwhile, as lost: Optuna's RuntimeError."""
        for key, value in facts.items():
            with contextlib.suppress(RuntimeError):
                trial.set_user_attr(key, value)

    def tell(self, trial, state, value=None):
        """End a trial; where another command has ended it meanwhile, as lost, nothing changes."""
        self.study.tell(trial, value, state=state, skip_if_finished=True)
        self._held.pop(trial.number).release()

    def give_signs(self, trials):
        """Give signs of life of the trials that run here, once a minute."""
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            for trial in trials:
                self.note(trial, beat=time.time())

    def leave_out(self, numbers):
        """Have finished trials not count, so that others take their places."""
        self.study.set_user_attr("left_out", sorted({*self.study.user_attrs.get("left_out", []), *numbers}))

    def close(self):
        """Let other commands take over what runs here."""
        for lock in self._held.values():
            lock.release()
        self._held = {}

    def _asked(self):
        return [one for one in self.trials() if one.state != TrialState.WAITING]

    def _hold(self, number):
        self._held[number] = FileLock(self._locks / f"trial_{number:04d}.lock")
        self._held[number].acquire()

    def _take_over(self, frozen):
        """Return whether this command now runs a trial whose own has ended; one of another machine begins anew."""
        path = self._locks / f"trial_{frozen.number:04d}.lock"
        if path.is_file():  # it was begun in this folder
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            self._held[frozen.number] = lock
            return True
        if time.time() - frozen.user_attrs.get("beat", frozen.datetime_start.timestamp()) > _LOST:
            with contextlib.suppress(Exception):  # another machine has said so first: each storage has its own error
                optuna.trial.Trial(self.study, frozen._trial_id).set_user_attr("left_out", "lost")
                self.study.tell(frozen.number, state=TrialState.FAIL)
                if len(frozen.params):
                    self.study.enqueue_trial(frozen.params)
        return False

    def _check_idle(self):
        """Raise a UserError where another command of this folder runs a trial."""
        for path in sorted(self._locks.glob("trial_*.lock")):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout:
                number = int(path.stem.removeprefix("trial_"))
                found = f"another command runs trial {number}; wait until it ends or choose name=ANOTHER"
                raise UserError(f"{self.options.folder}: {found}") from None

    def _check_terms(self, terms):
        """Raise a UserError where the study was begun with other settings or another space; of no trial none counts."""
        if not self.trials():
            self.study.set_user_attr("terms", terms)
        saved = self.study.user_attrs["terms"]
        for key in sorted({*saved, *terms}):
            if (was := saved.get(key)) != (now := terms.get(key)):
                found = f"was begun with other settings: {key}={now or 'none'} (was {was or 'none'})"
                raise UserError(f"{self.options.folder}: {found}; choose name=ANOTHER or overwrite=true")


def hide_password(url):
    """Return a storage's URL without its password."""
    return re.sub(r"(://[^:@/]*):[^@]*@", r"\1:...@", url)


def compute_importances(study, seed=0):
    """Return {key: share of the score's variance} of the complete trials, the largest first; {} of too few or alike.

    Reference: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014, ICML.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 4 or len({one.value for one in done}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(value) for key, value in found.items()}


def _build_pruner(name, num_steps):
    """Return the pruner: below the median of the complete trials at the same step, after a third of the steps.

    Optuna's documentation prefers Hyperband beside TPE, but for each of its brackets that learns from ten trials of
    its own: more than a search of whole networks has.
    """
    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=_NUM_UNPRUNED, n_warmup_steps=-(-num_steps // 3))


def _open_journal(path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")  # which ends with its process, unlike Optuna's
    with lock:
        _mend(path)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock))


def _mend(path):
    """Cut off the half line that a full disk or a kill may leave at a journal's end: what follows would be lost."""
    if path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)
