"""Settings in words: --help, and how errors name a value, an example and the setting that was meant."""

import dataclasses
import textwrap

from src.config.registry import list_keywords, span
from src.config.settings import GROUPS, Config, settings
from src.errors import nearest

_OTHER_NAMES = {  # of other trainers
    "amp": "precision", "cutmix": "mix.prob", "dropout": "model.drop_rate", "img_size": "image_size",
    "loss": "loss.name", "mixup": "mix.prob", "model": "model.backbone", "optimizer": "optimizer.name",
    "schedule": "schedule.name", "scheduler": "schedule.name", "size": "image_size", "wd": "optimizer.weight_decay",
    "workers": "train.num_workers",
}  # fmt: skip
_MOVED = {  # where settings of older versions are now, and under which name if it is another
    "augment.kwargs": "crop rotate translate scale brightness colour blur noise cutout erasing augmix "
    "randaugment:rand_augment",
    "loss.kwargs": "focal_gamma:gamma huber_delta:delta positive_gamma negative_gamma negative_margin:margin margin",
    "model.batchnorm_kwargs": "batchnorm_momentum:momentum batchnorm_eps:eps",
    "model.head_kwargs": "head_widths:widths head_activation:activation head_init:init leaky_slope prior_bias "
    "dropout_samples",
    "model.kwargs": "backbone_activation:act_layer",
    "optimizer.kwargs": "momentum",
    "schedule.kwargs": "gamma step_epochs milestone_epochs restart_epochs restart_factor power final_factor "
    "patience_epochs plateau_on:on",
    "train.average=ema train.average_kwargs": "ema_decay:decay",
    "train.average=swa train.average_kwargs": "swa_epochs:epochs",
    "train.average=soup train.average_kwargs": "average_best:epochs",
    "train.early_stopping_kwargs": "early_stopping_min_delta:min_delta early_stopping_on:on",
}
_RENAMED = {"infer.checkpoint": "train.select"} | {
    f"{place.split('.')[0]}.{old}": f"{place}.{new or old}"
    for place, names in _MOVED.items()
    for old, _, new in [name.partition(":") for name in names.split()]
}


def help_text(prefix=""):
    """Return every setting whose key begins so, with its default and meaning, grouped, for 80 columns."""
    lines, group = [], ""
    for key, one in settings().items():
        if not key.startswith(prefix):
            continue
        head, rule = key.rpartition(".")[0], one.metadata
        if head != group:
            group, about = head, Config.__dataclass_fields__[head].default_factory.__doc__
            lines += ["", *textwrap.wrap(f"{group}.*: {about}", 80)]
        meaning = rule["meaning"]
        if rule["choices"]:
            meaning += f" ({', '.join(rule['choices'])})"
        elif rule["at_least"] is not None:
            meaning += f" ({span(rule['at_least'], rule['at_most'])})"
        keywords = list_keywords(*rule["kwargs_of"]) if rule["kwargs_of"] else {}
        meaning += "".join(f"; {name}: {words}" for name, words in keywords.items())
        lines.append(f"  {key}={as_word(_default_of(one))}")
        lines += textwrap.wrap(meaning, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_word(value):
    """Return the value as it would be typed after key=."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_word(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(str(as_word(one)) for one in value) + "]"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


def example_of(one):
    """Return a value of the right type for the hint in an error."""
    default = _default_of(one)
    if default is None:
        return 5 if "int" in str(one.type) else 0.5 if "float" in str(one.type) else "null"
    return as_word(default)


def nearest_setting(key):
    """Return what helps who has typed a key that is no setting: "; did you mean X?" or how to find the right one."""
    if key in _RENAMED:
        return f"; it is {_RENAMED[key]} now"
    known, name = settings(), key.rpartition(".")[2]
    alike = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else [one for one in known if one.endswith(f".{name}")]
    if len(alike) in (1, 2):
        return f"; did you mean {' or '.join(alike)}?"
    if key in GROUPS:
        return f"; {key}.* is a group, set one of its settings"
    return nearest(key, known) or "; --help lists all"


def _default_of(one):
    return one.default if one.default is not dataclasses.MISSING else one.default_factory()
