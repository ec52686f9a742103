"""Settings in words: --help, and how errors name a value, an example and the setting that was meant."""

import re
import textwrap

from src.config.registry import list_keywords, list_names, span
from src.config.settings import GROUPS, Config, settings, value_of
from src.errors import UserError, nearest

COMMON = (  # what most people change, and what --help alone shows
    *("recipe", "name", "fold", "folds", "seed", "image_size", "overwrite", "competition.name", "competition.metric"),
    *("model.backbone", "model.pretrained", "model.weights", "model.freeze", "augment.preset", "augment.flips"),
    *("mix.prob", "loss.name", "optimizer.name", "optimizer.lr", "train.epochs", "train.batch_size", "infer.tta"),
)
_OTHER_NAMES = {  # of other trainers
    "amp": "precision", "cutmix": "mix.prob", "mixup": "mix.prob", "dropout": "model.drop_rate", "loss": "loss.name",
    "img_size": "image_size", "size": "image_size", "wd": "optimizer.weight_decay", "workers": "train.num_workers",
    "model": "model.backbone", "optimizer": "optimizer.name", "schedule": "schedule.name", "scheduler": "schedule.name",
}  # fmt: skip


def help_asked(words, common=COMMON):
    """Return the help that a command line asks for, None if for none; a UserError where nothing has the name asked for.

    `--help` lists the settings or groups in `common`, `--help all` all, `--help loss` those whose names begin so.
    """
    if not {"--help", "-h"} & set(words):
        return None
    topics = [word for word in words if "=" not in word and not word.startswith("-")]
    topic = topics[0].rstrip(".*") if topics else ""
    if not topic:
        keys = [key for key in settings() if {key, key.partition(".")[0]} & set(common)]
        more = f"All {len(settings())} settings: --help all; those of one name: for example --help loss"
        return f"{help_text(keys)}\n\n{more}"
    keys = [key for key in settings() if topic == "all" or any(one.startswith(topic) for one in (key, *key.split(".")))]
    if not keys:
        raise UserError(f"--help {topic}: no setting begins so{nearest_setting(topic)}")
    return help_text(keys)


def help_text(keys):
    """Return the settings of some keys with default and meaning, grouped, for 80 columns."""
    lines, group = [], ""
    for key in keys:
        head, rule = key.rpartition(".")[0], settings()[key].metadata
        if head != group:
            group, about = head, GROUPS[head].__doc__
            lines += ["", *textwrap.wrap(f"{group}.*: {about}", 80)]
        meaning = rule["meaning"]
        if rule["choices"] or rule["at_least"] is not None:
            meaning += f" ({', '.join(rule['choices']) or span(rule['at_least'], rule['at_most'])})"
        keywords = list_keywords(*rule["kwargs_of"]) if rule["kwargs_of"] else {}
        meaning = "; ".join([meaning, *(f"{name}: {words}" for name, words in keywords.items())])
        lines.append(f"  {key}={as_word(value_of(Config(), key))}")
        lines += textwrap.wrap(meaning, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_word(value):
    """Return the value as it would be typed after key=."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_word(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(str(as_word(one)) for one in value) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


def nearest_setting(key):
    """Return what helps who has typed a key that is no setting: "; did you mean X?" or how to find the right one."""
    known, (group, _, name) = settings(), key.rpartition(".")
    alike = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else [one for one in known if one.endswith(f".{name}")]
    alike = alike or sorted(one for one in _list_kwargs() if one.endswith(f".{name}"))
    alike = [one for one in alike if one.startswith(f"{group}.")] or alike
    if len(alike) in (1, 2):
        return f"; did you mean {' or '.join(alike)}?"
    if key in GROUPS:
        return f"; {key}.* is a group, set one of its settings"
    return nearest(key, known) or "; see --help all"


def _list_kwargs():
    """Return the places of keywords that settings pass on, such as loss.kwargs.gamma."""
    places = {f"augment.kwargs.{name}" for name in list_names("data/augmentations.py", "AUGMENTATIONS")}
    for key, one in settings().items():
        for words in list_keywords(*one.metadata["kwargs_of"] or ("", "")).values():
            places |= {f"{key}.{name}" for name in re.findall(r"(\w+)=", words)}
    return places
