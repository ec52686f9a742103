"""Settings in words: --help, and how errors name a value, a type and an example."""

import dataclasses
import textwrap

from src.config.settings import GROUPS, Config, settings, span
from src.errors import nearest

_OTHER_NAMES = {  # that other trainers give to these settings
    "amp": "precision",
    "cutmix": "mix.prob",
    "dropout": "model.drop_rate",
    "img_size": "image_size",
    "loss": "loss.name",
    "mixup": "mix.prob",
    "model": "model.backbone",
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    "scheduler": "schedule.name",
    "size": "image_size",
    "wd": "optimizer.weight_decay",
    "workers": "train.num_workers",
}


def help_text():
    """Return every setting with its default and meaning, grouped, for 80 columns."""
    lines, group = [], ""
    for key, one in settings().items():
        head = key.rpartition(".")[0]
        if head != group:
            group = head
            about = Config.__dataclass_fields__[group].default_factory.__doc__
            lines += ["", *textwrap.wrap(f"{group}.*: {about}", 80)]
        meaning = one.metadata["meaning"]
        low, high = one.metadata["at_least"], one.metadata["at_most"]
        if one.metadata["choices"]:
            meaning += f" ({', '.join(one.metadata['choices'])})"
        elif low is not None:
            meaning += f" ({span(low, high)})"
        lines.append(f"  {key}={as_word(_default_of(one))}")
        lines += textwrap.wrap(meaning, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_word(value):
    """Return the value as it would be typed after key=."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(str(one) for one in value) + "]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else value


def type_name(annotation):
    """Say a field's type in words."""
    names = {"dict": "a mapping", "list": "a list", "tuple": "two whole numbers", "int": "a whole number"}
    names |= {"float": "a number", "bool": "true or false"}
    return next((name for word, name in names.items() if word in str(annotation)), "a word")


def example_of(one):
    """Return a value of the right type for the hint in an error."""
    default = _default_of(one)
    if default is None:
        return 5 if "int" in str(one.type) else 0.5 if "float" in str(one.type) else "null"
    return as_word(default)


def nearest_setting(key):
    """Return what helps who has typed a key that is no setting: "; did you mean X?" or how to find the right one."""
    known, name = settings(), key.rpartition(".")[2]
    alike = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else [one for one in known if one.endswith(f".{name}")]
    if len(alike) in (1, 2):
        return f"; did you mean {' or '.join(alike)}?"
    if key in GROUPS:
        return f"; {key}.* is a group, set one of its settings"
    return nearest(key, known) or "; --help lists all"


def _default_of(one):
    return one.default if one.default is not dataclasses.MISSING else one.default_factory()
