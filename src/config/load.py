"""key=value words and YAML files -> one checked Config, and back to YAML. OmegaConf's only door.

Precedence, lowest first: defaults < configs/competition/NAME.yaml < configs/recipe/NAME.yaml < the command line.
Mappings such as loss.kwargs are merged key by key; an empty one empties what is below.
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
from src.config.help import as_word, example_of, nearest_setting
from src.config.registry import type_name
from src.config.settings import REPOSITORY, Config, settings
from src.errors import UserError, first_line, listing, nearest

_MAX_BYTES, _MAX_DEPTH = 1_000_000, 20  # of YAML; far deeper text ends the process within libyaml
_READ_BY_OMEGACONF = re.compile(r"\$\{|^\?\?\?$")  # an interpolation, and a value that is still to be set
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")  # a path cannot hold the first, a UTF-8 file the others
_DEFAULTS = OmegaConf.structured(Config)


def load_config(words):
    """Build the checked Config that a command line's key=value words ask for.

    Raises:
        UserError: a word, file, key, type or value is wrong.
    """
    words = [_split_word(word) for word in words]
    named = {"competition": "demo", "recipe": "default"} | dict(words)
    competition = _read_named_file("competition", named["competition"])
    recipe = _read_named_file("recipe", named["recipe"])
    names = {"competition.name": competition[0].stem, "recipe": recipe[0].stem}
    words = [word for word in words if word[0] not in ("competition", "recipe")]
    return _build([competition, recipe, ("command line", names), *map(_parse_word, words)])


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
    return _build([(path, saved), *(_parse_word(_split_word(word)) for word in words)])


def config_yaml(config):
    """Return the config as YAML text that `load_saved_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _split_word(word):
    key, sign, value = word.partition("=")
    if not sign or not key.strip():
        raise UserError(f"command line: {word!r} is not key=value; write for example train.epochs=3 (--help lists all)")
    return key.strip(), value


def _parse_word(word):
    """Return a word as a layer. Its value is YAML, but for settings that hold text: 007 and on stay what they are."""
    key, value = word
    annotation = settings()[key].type if key in settings() else None
    try:
        if annotation in (str, Optional[str]):
            value = None if value == "null" and annotation is not str else value
        else:
            _check_yaml(value)
            if annotation == list[str]:
                value = yaml.load(value, Loader=yaml.BaseLoader)  # safe: every scalar is a str
            else:
                value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
    except Exception as error:  # on odd text the readers of YAML raise whatever they run into
        reason = f"cannot be read ({first_line(error)})"
        raise UserError(f"command line: {key}={value} {reason}; quote it for the shell") from None
    return "command line", functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)


def _read_named_file(kind, name):
    """Return (path, content) of configs/<kind>/<name>.yaml, looked for in the current folder, then beside the code."""
    folders, is_path = [Path("configs") / kind, REPOSITORY / "configs" / kind], name.endswith((".yaml", ".yml"))
    for path in [Path(name)] if is_path else [folder / f"{name}.yaml" for folder in folders]:
        if os.path.isfile(path):  # unlike Path's, it takes any text
            return path, _read_yaml(path)
    if is_path:
        raise UserError(f"{kind}={name}: no such file")
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    hint = "; python -m tools.adopt FOLDER writes one" if kind == "competition" else ""
    there = f"(there are {listing(known)}){nearest(name, known)}"
    raise UserError(f"{kind}={name}: no configs/{kind}/{name}.yaml {there}{hint}")


def _read_yaml(path):
    """Read a YAML file into plain containers; an empty file is an empty mapping."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); correct it or delete it") from None
    try:
        _check_yaml(text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except Exception as error:  # as in _parse_word
        raise UserError(f"{path}: not valid YAML ({first_line(error)}); correct it or delete it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not settings; write lines such as image_size: 128")
    return content


def _check_yaml(text):
    """Raise a YAMLError for text that would keep the readers of YAML busy for ever, or end the process."""
    if len(text) > _MAX_BYTES:
        raise YAMLError(f"over {_MAX_BYTES // 10**6} MB")
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise YAMLError(f"more than {_MAX_DEPTH} levels deep")


def _build(layers):
    """Lay [(where, plain containers), ...] over the defaults, lowest first; return the frozen, checked Config."""
    found, nested = {}, {}
    for where, layer in layers:
        for key, value in _read_layer(layer, where):
            found[key] = where, _merge(found[key][1], value) if key in found else value
    for key, (_, value) in found.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_DEFAULTS, nested))
    except Exception:  # of values that are not of the right type, OmegaConf raises whatever it runs into
        for key, (where, value) in found.items():
            _check_type(key, value, where)
        raise
    config = dataclasses.replace(config, image_size=tuple(config.image_size))
    check_config(config)
    return config


def _merge(below, above):
    """Merge mappings key by key, to any depth; an empty one, or another value, takes the place of what is below."""
    if not (isinstance(below, dict) and isinstance(above, dict) and above):
        return above
    return below | {key: _merge(below.get(key), value) for key, value in above.items()}


def _read_layer(layer, where, prefix=""):
    """Yield the (dotted key, value) of nested containers, down to the settings; keys and text are checked."""
    for key, value in layer.items():
        key = f"{prefix}{key}"
        if key not in settings() and isinstance(value, dict) and value:
            yield from _read_layer(value, where, f"{key}.")
            continue
        if key not in settings():
            raise UserError(f"{where}: unknown setting {key}{nearest_setting(key)}")
        _check_text(key, value, where)
        if key == "image_size" and type(value) is int:
            value = [value, value]
        if key == "infer.tta" and isinstance(value, str):
            value = [] if value == "none" else [value]
        if isinstance(value, dict):
            value = {"on" if name is True else name: part for name, part in value.items()}  # YAML reads on as true
        if isinstance(value, list):
            _check_type(key, value, where)  # here, as OmegaConf takes a list for a number
        yield key, value


def _check_type(key, value, where):
    one, (group, _, name) = settings()[key], key.rpartition(".")
    is_nested = isinstance(value, list) and any(isinstance(item, (list, tuple, dict)) for item in value)
    try:
        if (value is None and "Optional" not in str(one.type)) or (is_nested and "Any" not in str(one.type)):
            raise TypeError
        OmegaConf.merge(_DEFAULTS[group] if group else _DEFAULTS, {name: value})
    except Exception:  # as in _build
        wrong = f"{key}={as_word(value)} is not {type_name(one.type)}"
        raise UserError(f"{where}: {wrong}; for example {key}={example_of(one)}") from None


def _check_text(key, value, where):
    """Refuse text that would not be taken as it stands, in a value or within its lists and mappings."""
    if isinstance(value, (dict, list, tuple)):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_text(key, one, where)
    elif isinstance(value, str) and _READ_BY_OMEGACONF.search(value):
        raise UserError(f"{where}: {key}={value}: settings hold no formulas and no variables; write out what is meant")
    elif isinstance(value, str) and _NO_TEXT.search(value):
        advice = "write it in plain letters, or set PYTHONUTF8=1"
        raise UserError(f"{where}: {key}={value}: holds NUL or is no UTF-8; {advice}")
