"""key=value words and YAML files -> one checked Config, and back to YAML. OmegaConf's only door.

Precedence, lowest first: the defaults of src/config/settings.py < configs/competition/<name>.yaml < configs/recipe/<name>.yaml <
the command line. What leaves this module is a frozen dataclass.
"""

import dataclasses
import functools
import io
import os
import re
from pathlib import Path
from typing import Optional

import yaml
from omegaconf import OmegaConf
from yaml import YAMLError

from src.config.checks import check_config
from src.config.help import as_word, example_of, nearest_setting, type_name
from src.config.settings import REPOSITORY, Config, settings
from src.errors import UserError, listing, nearest

_MAX_BYTES, _MAX_DEPTH = 1_000_000, 20  # of YAML; libyaml ends the process where much deeper text leads it
_READ_BY_OMEGACONF = re.compile(r"\$\{|^\?\?\?$")  # a formula or variable to put in, and a value that is to be set
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")  # no path holds the first, no UTF-8 file the others


def load_config(words):
    """Build the checked Config that a command line's key=value words ask for.

    Raises:
        UserError: a word, file, key, type or value is wrong; the line names it and what would be right.
    """
    words = dict(_split_word(word) for word in words)
    competition, competition_file = _read_named_file("competition", words.pop("competition", "demo"))
    recipe, recipe_file = _read_named_file("recipe", words.pop("recipe", "default"))
    names = {"competition.name": competition_file.stem, "recipe": recipe_file.stem}
    layers = [(competition_file, competition), (recipe_file, recipe), ("command line", names)]
    return _build([*layers, *_read_words(words.items())])


def load_saved_config(run_folder, words=()):
    """Read the config.yaml of a run, changed by key=value words.

    Raises:
        UserError: the folder holds no config.yaml, or as `load_config`.
    """
    path = Path(run_folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run_folder}: not a run (no config.yaml); train one with python train.py")
    saved = _read_yaml(path)
    if not saved:
        raise UserError(f"{path}: is empty; write the run's settings into it, or train anew with overwrite=true")
    return _build([(path, saved), *_read_words(_split_word(word) for word in words)])


def config_yaml(config):
    """Return the config as YAML text that `load_saved_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _split_word(word):
    key, sign, value = word.partition("=")
    if not sign or not key.strip():
        raise UserError(f"command line: {word!r} is not key=value; write for example train.epochs=3 (--help lists all)")
    return key.strip(), value


def _read_words(words):
    """Return a layer for each (key, value): one that empties a mapping may stand before one that fills it."""
    return [("command line", _parse_word(key, value)) for key, value in words]


def _parse_word(key, value):
    """Read a word's value as YAML, but for settings that hold text: 007 and on stay what they are."""
    annotation = settings()[key].type if key in settings() else None
    try:
        if annotation in (str, Optional[str]):
            return _nest(key, None if value == "null" and annotation is not str else value)
        _check_yaml(value)
        if annotation == list[str]:
            return _nest(key, yaml.load(value, Loader=yaml.BaseLoader))  # safe: every scalar is a str
        return _nest(key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"])
    except Exception as error:  # on odd text the readers of YAML raise whatever they run into
        raise UserError(
            f"command line: {key}={value} cannot be read ({_first_line(error)}); quote it for the shell"
        ) from None


def _read_named_file(kind, name):
    """Return (content, path) of configs/<kind>/<name>.yaml, looked for in the current folder, then beside the code."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not os.path.isfile(path):  # unlike Path's, it takes any text
            raise UserError(f"{kind}={name}: no such file")
        return _read_yaml(path), path
    folders = [Path("configs") / kind, REPOSITORY / "configs" / kind]
    for folder in folders:
        if os.path.isfile(path := folder / f"{name}.yaml"):
            return _read_yaml(path), path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    hint = "; python -m tools.adopt FOLDER writes one" if kind == "competition" else ""
    raise UserError(
        f"{kind}={name}: no configs/{kind}/{name}.yaml (there are {listing(known)}){nearest(name, known)}{hint}"
    )


def _read_yaml(path):
    """Read a YAML file into plain containers; an empty file is an empty mapping."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_first_line(error)}); correct it or delete it") from None
    try:
        _check_yaml(text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except Exception as error:  # as in _parse_word
        raise UserError(f"{path}: not valid YAML ({_first_line(error)}); correct it or delete it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not settings; write lines such as image_size: 128")
    return content


def _check_yaml(text):
    """Refuse what would keep the readers of YAML busy for ever, or end the process.

    Raises:
        YAMLError: it is too long, too deep or no YAML.
    """
    if len(text) > _MAX_BYTES:
        raise YAMLError(f"over {_MAX_BYTES // 10**6} MB")
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise YAMLError(f"more than {_MAX_DEPTH} levels deep")


def _build(layers):
    """Lay plain containers over the defaults, lowest first; return the frozen, checked Config.

    Args:
        layers: [(where, layer), ...]; every key and type is checked, and where is told of what is wrong.
    """
    read = [(where, list(_read_layer(layer, where))) for where, layer in layers]
    nested = []
    for _, values in read:
        nested.append({})
        for key, value in values:
            group, _, name = key.rpartition(".")
            if value == {}:  # merging nothing would leave what a layer below has set
                for below in nested:
                    below.get(group, {}).pop(name, None)
            (nested[-1].setdefault(group, {}) if group else nested[-1])[name] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_defaults(), *nested))
    except Exception:  # of values that are not of the right type, OmegaConf raises whatever it runs into
        for where, values in read:
            for key, value in values:
                _check_type(key, value, where)
        raise
    config = dataclasses.replace(config, image_size=tuple(config.image_size))
    check_config(config)
    return config


@functools.cache
def _defaults():
    return OmegaConf.structured(Config)


def _read_layer(layer, where):
    """Yield the (dotted key, value) of nested containers; keys and text are checked on the way."""
    layer = dict(layer)
    if isinstance(size := layer.get("image_size"), int) and not isinstance(size, bool):
        layer["image_size"] = [size, size]
    if isinstance(infer := layer.get("infer"), dict) and isinstance(infer.get("tta"), str):
        views = [] if infer["tta"] == "none" else [infer["tta"]]
        layer["infer"] = infer | {"tta": views}
    known = settings()
    for key, value in _flatten(layer, known):
        if key not in known:
            raise UserError(f"{where}: unknown setting {key}{nearest_setting(key)}")
        _check_text(key, value, where)
        if "Any" not in str(known[key].type) and isinstance(value, list) and not _is_flat(value):
            raise _wrong_type(key, value, where)  # which OmegaConf takes
        yield key, value


def _is_flat(values):
    return not any(isinstance(one, (list, tuple, dict)) for one in values)


def _check_type(key, value, where):
    one = settings()[key]
    try:
        if value is None and "Optional" not in str(one.type):
            raise TypeError
        group, _, name = key.rpartition(".")
        OmegaConf.merge(_defaults()[group] if group else _defaults(), {name: value})
    except Exception:  # as in _build
        raise _wrong_type(key, value, where) from None


def _wrong_type(key, value, where):
    one = settings()[key]
    return UserError(
        f"{where}: {key}={as_word(value)} is not {type_name(one.type)}; for example {key}={example_of(one)}"
    )


def _check_text(key, value, where):
    """Refuse text that would not be taken as it stands, in a value or within its lists and mappings."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for one in value:
            _check_text(key, one, where)
    elif isinstance(value, str) and _READ_BY_OMEGACONF.search(value):
        raise UserError(f"{where}: {key}={value}: settings hold no formulas and no variables; write out what is meant")
    elif isinstance(value, str) and _NO_TEXT.search(value):
        raise UserError(
            f"{where}: {key}={value}: holds NUL or is no UTF-8; write it in plain letters, or set PYTHONUTF8=1"
        )


def _nest(key, value):
    """Return {"a": {"b": value}} for the key "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _flatten(layer, known, prefix=""):
    """Yield (dotted key, value) of nested containers, down to the settings and no further."""
    for key, value in layer.items():
        key = f"{prefix}{key}"
        if isinstance(value, dict) and key not in known and value:
            yield from _flatten(value, known, key + ".")
        else:
            yield key, value


def _first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
