"""The space of a search: a YAML file of ranges and choices -> Parameters, each value checked as train.py would."""

import json
import math
import re
from dataclasses import dataclass

from src.checkpointing.run_folder import training_settings
from src.config.help import nearest_setting
from src.config.load import load_config, read_yaml
from src.config.registry import list_keywords, list_names
from src.config.settings import settings, value_of
from src.errors import UserError, listing, nearest

_DIGITS = 4  # of a float that is searched without steps
_FORMS = "{low: 1e-4, high: 1e-2, log: true} or [one, other]"
_REFUSED = {  # why: of a setting, or of a group
    "competition": "it says what is predicted and how that is scored, and scores must be comparable",
    "recipe": "it is a file of settings; search the settings in it",
    **dict.fromkeys(("folds", "num_folds", "fold_seed", "fold"), "all trials are scored on the same folds"),
    "seed": "the luckiest seed is no better setting; train the best settings with seed=[1,2,3] afterwards",
    "precision": "it is chosen by time, and all trials are computed alike",
    "infer": "it is infer.py's; tools.tta and tools.calibrate choose it by a run's out-of-fold predictions",
    "train.select": "best is chosen by the validation rows, so that its score would always win",
    **dict.fromkeys(("train.teacher", "train.teacher_weight"), "a teacher has seen the labels of the scored rows"),
}


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched: `choices`, words, or numbers from low to high."""

    key: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    is_int: bool = False

    @property
    def num_values(self):
        """How many values it has; inf of a range of floats without steps."""
        if self.choices:
            return len(self.choices)
        if not (self.step or self.is_int):
            return math.inf
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def suggest(self, trial):
        """Return the value that a trial of Optuna gets."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.is_int:
            return trial.suggest_int(self.key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def word(self, value):
        """Return the word of train.py for a value; a float is rounded to a few digits, within the range."""
        if not self.choices and not self.is_int:
            digits = 12 if self.step else _DIGITS
            value = min(max(float(f"{value:.{digits}g}"), self.low), self.high)
        return f"{self.key}={value}"

    def find(self, config):
        """Return the value that a Config has, None where the space does not hold it."""
        name, rest = split_key(self.key)
        value = value_of(config, name)
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else None
        if name == "image_size":
            value = value[0] if value[0] == value[1] else list(value)
        if self.choices:
            return text if (text := as_text(self.key, value)) in self.choices else None
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return None
        steps = 0 if self.step is None else (value - self.low) / self.step
        return value if abs(steps - round(steps)) < 1e-6 else None

    def describe(self):
        """Return it in words."""
        if self.choices:
            return ", ".join(self.choices)
        step = f", in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{step}{', by its logarithm' if self.log else ''}"


def load_space(path, words):
    """Return {key: Parameter} of a YAML file; a UserError says what in it cannot be searched.

    words: of train.py, that all trials share.
    """
    content = _flatten(read_yaml(path, "write it as python -m tools.tune --help shows"))
    given = {word.partition("=")[0] for word in words}
    if not content:
        raise UserError(f"{path}: an empty space; write lines such as optimizer.lr: {_FORMS.partition(' or')[0]}")
    found = {}
    for key, value in content.items():
        _check_key(path, key)
        if key in given:
            raise UserError(f"{path}: {key}: is searched and given on the command line; leave out one of the two")
        found[key] = _read_choices(path, key, value) if isinstance(value, list) else _read_range(path, key, value)
    for key, one in found.items():
        for value in one.choices or (one.low, one.high):
            try:
                load_config([*words, one.word(value)])
            except UserError as error:
                text = str(error).removeprefix("command line: ")
                raise UserError(f"{path}: {text if text.startswith(key) else f'{key}={value}: {text}'}") from None
    return found


def split_key(key):
    """Return (the setting, the parts that follow it): ("augment.kwargs", ["rotate"]); (None, []) of what is none."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in settings():
            return name, parts[length:]
    return None, []


def as_text(key, value):
    """Return a value as it stands after key= on train.py's command line."""
    name, rest = split_key(key)
    if settings()[name].type in (str, str | None) and not rest:
        return "null" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)


def _flatten(content, prefix=""):
    """Return {dotted key: range or choices} of nested mappings."""
    found = {}
    for key, value in content.items():
        key = f"{prefix}{key}"
        name, rest = split_key(key)
        is_kwargs = name and not rest and "dict" in str(settings()[name].type)
        is_group = isinstance(value, dict) and value and not {"low", "high"} & set(value)
        if is_group and (name is None or is_kwargs):
            found |= _flatten(value, f"{key}.")
        else:
            found[key] = value
    return found


def _check_key(path, key):
    name, rest = split_key(key)
    kind = str(settings()[name].type) if name else ""
    if name is None or (rest and "dict" not in kind):
        raise UserError(f"{path}: unknown setting {key}{nearest_setting(key)}")
    for one in (name, name.partition(".")[0]):
        if one in _REFUSED:
            raise UserError(f"{path}: {key} cannot be searched: {_REFUSED[one]}")
    if name not in training_settings():
        raise UserError(f"{path}: {key} cannot be searched: it does not change what is trained; give it as a word")
    if not rest and "dict" in kind:
        raise UserError(f"{path}: {key}: is a mapping; search one of its keys, such as {key}.NAME")
    if rest and (known := _list_known(name)) and rest[0] not in known:
        advice = nearest(rest[0], known) or f"; it has {listing(known, 20)}"
        raise UserError(f"{path}: {name} has no {rest[0]}{advice}")


def _list_known(name):
    """Return the keywords of a mapping such as loss.kwargs, with their defaults as text; {}: any may be right."""
    if name == "augment.kwargs":
        return dict.fromkeys(list_names("data/augmentations.py", "AUGMENTATIONS"), "")
    keywords = list_keywords(*settings()[name].metadata["kwargs_of"] or ("", "")).values()
    return dict(re.findall(r"(\w+)=([^,]*)", ", ".join(keywords)))


def _read_choices(path, key, values):
    texts = [as_text(key, value) for value in values]
    if len(texts) < 2:
        raise UserError(f"{path}: {key}: {len(texts)} choices, wanted are 2 or more; write {key}: [one, other]")
    if twice := next((one for one in texts if texts.count(one) > 1), None):
        raise UserError(f"{path}: {key}: {twice} is there twice; leave one out")
    return Parameter(key, tuple(texts))


def _read_range(path, key, value):
    where, right = f"{path}: {key}", f"write {key}: {_FORMS}"
    if not isinstance(value, dict):
        raise UserError(f"{where}: {value} is neither a range nor a list of choices; {right}")
    known = ("low", "high", "step", "log")
    if unknown := next((one for one in value if one not in known), None):
        raise UserError(f"{where}: unknown {unknown} (a range has {', '.join(known)}){nearest(unknown, known)}")
    if missing := next((one for one in known[:2] if value.get(one) is None), None):
        raise UserError(f"{where}: the range has no {missing}; {right}")
    low, high, step, log = (value.get(one) for one in known)
    for name, one in (("low", low), ("high", high), ("step", step)):
        if one is not None and (type(one) not in (int, float) or not math.isfinite(one)):
            raise UserError(f"{where}: {name}={one} is no finite number; {right}")
    if type(log) not in (bool, type(None)):
        raise UserError(f"{where}: log={log} is neither true nor false; write log: true")
    if low >= high:
        raise UserError(f"{where}: low={low} is not below high={high}; {'exchange them' if low > high else right}")
    if log and low <= 0:
        raise UserError(f"{where}: low={low} has no logarithm; set it above 0, or leave out log")
    if step is not None and (log or not 0 < step <= high - low):
        fault = "does not go with log: true; leave out one" if log else f"must be above 0, at most {high - low:g}"
        raise UserError(f"{where}: step={step} {fault}")
    is_int = _takes_int(where, key, [one for one in (low, high, step) if one is not None])
    kind = int if is_int else float
    if step is not None:  # the last value that the steps reach
        high = low + math.floor((high - low) / step + 1e-9) * step
        high = high if is_int else float(f"{high:.12g}")
    return Parameter(key, (), kind(low), kind(high), None if step is None else kind(step), bool(log), is_int)


def _takes_int(where, key, numbers):
    """Return whether a range is of whole numbers; a UserError where the setting takes others, or none at all."""
    name, rest = split_key(key)
    kind, is_whole = str(settings()[name].type), all(type(one) is int for one in numbers)
    if rest:
        default = _list_known(name).get(rest[0], "")
        return is_whole and not re.fullmatch(r"-?\d*\.\d*(e-?\d+)?|\d+e-?\d+", default)
    if "float" in kind and "list" not in kind:
        return False
    if name == "image_size" or re.search(r"\bint\b", kind) or "[0-9]" in settings()[name].metadata["or_like"][0]:
        if not is_whole:
            raise UserError(f"{where}: takes whole numbers, low, high and step are {listing(numbers)}")
        return True
    raise UserError(f"{where}: takes no number; write a list of choices: {key}: [one, other]")
