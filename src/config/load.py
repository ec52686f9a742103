"""key=value words and YAML files -> one checked Config, and back to YAML. OmegaConf's only door.

Precedence, lowest first: defaults < configs/competition/NAME.yaml < configs/recipe/NAME.yaml < the command line.
"""

import copy
import dataclasses
import functools
import os
import re
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from src.config.checks import check_config
from src.config.help import as_word, nearest_setting
from src.config.registry import type_name
from src.config.settings import GROUPS, REPOSITORY, Config, settings, value_of
from src.errors import UserError, first_line, listing, nearest
from src.remote import check_url, is_url

_MAX_BYTES, _MAX_DEPTH = 1_000_000, 20  # of YAML; far deeper text ends the process within libyaml
_PATTERNS = tuple(f"competition.{one}" for one in ("images", "train_image", "test_image"))  # one, or a list of them
_PATHS = ("competition.root", "output_dir", "cache_dir", "infer.output", "model.weights", "folds")
_PATHS += ("train.teacher", "train.pseudo")  # ~ is the home
_READ_BY_OMEGACONF = re.compile(r"\$\{|^\?\?\?$")  # an interpolation, and a value that is still to be set
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")  # a path cannot hold the first, a UTF-8 file the others


def load_config(words):
    """Build the Config that a command line's key=value words ask for; a UserError names what is wrong in them."""
    words = [_split_word(word) for word in words]
    named = {"competition": "demo", "recipe": "default"} | dict(words)
    files = [_read_named_file(kind, named[kind]) for kind in ("competition", "recipe")]
    names = {key: path.stem for key, (path, _) in zip(("competition.name", "recipe"), files, strict=True)}
    words = [word for word in words if word[0] not in ("competition", "recipe")]
    return _build([*files, ("command line", names), *map(_parse_word, words)])


def split_seeds(words):
    """Return the command lines of the runs that seed=[1,2,3] asks for, named <name>_seed1 and so on; else [words]."""
    split = [_split_word(word) for word in words]
    text = next((value.strip() for key, value in reversed(split) if key == "seed"), "")
    if not text.startswith("["):
        return [words]
    numbers = re.findall(r"\d+", text)
    if not re.fullmatch(r"\[ *\d+ *(, *\d+ *)*\]", text) or len(set(map(int, numbers))) < len(numbers):
        raise UserError(f"command line: seed={text}: not whole numbers, each once; write for example seed=[1,2,3]")
    others = [word for word, (key, _) in zip(words, split, strict=True) if key not in ("seed", "name")]
    name = load_config([word for word, (key, _) in zip(words, split, strict=True) if key != "seed"]).run_folder.name
    return [[*others, f"seed={int(one)}", f"name={name}_seed{int(one)}"] for one in numbers]


def load_saved_config(run_folder, words=()):
    """Read the config.yaml of a run, changed by key=value words; a UserError as in `load_config`, or for no run."""
    path = Path(run_folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run_folder}: not a run (no config.yaml); train one with python train.py")
    if not (saved := read_yaml(path, "correct it, or train anew with overwrite=true")):
        raise UserError(f"{path}: is empty; write the run's settings into it, or train anew with overwrite=true")
    for word in words:
        if (key := _split_word(word)[0]) in ("competition", "recipe"):
            raise UserError(f"command line: {key} was decided when {run_folder} was trained; leave it out")
    return _build([(path, saved), *(_parse_word(_split_word(word)) for word in words)])


def config_yaml(config):
    """Return the config as YAML text that `load_saved_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _split_word(word):
    key, sign, value = word.partition("=")
    if not sign or not key.strip():
        raise UserError(f"command line: {word!r} is not key=value; write for example train.epochs=3 (see --help all)")
    return key.strip(), value


def _parse_word(word):
    """Return a word as a layer. Its value is YAML, but for settings that hold text: 007 and on stay what they are."""
    key, text = word
    annotation = settings()[key].type if key in settings() else None
    try:
        is_text = annotation in (str, str | None) or (key in _PATTERNS and not text.startswith("["))
        if key in _PATTERNS and not is_text and "{" in text and not set("'\"") & set(text):  # braces as in one pattern
            text = str([one.strip() for one in text.strip().strip("[]").split(",")])
        value = text if is_text else _parse_yaml(text, as_text=annotation == list[str])
    except Exception as error:  # on odd text the readers of YAML raise whatever they run into
        reason = f"cannot be read ({first_line(error)})"
        is_tight = re.search(r":\S", text.partition("{")[2])
        advice = "write a blank after each colon, and " if is_tight else ""
        raise UserError(f"command line: {key}={text} {reason}; {advice}quote it for the shell") from None
    value = None if text == "null" and (annotation == str | None or key == "competition.images") else value
    return "command line", functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)


def _read_named_file(kind, name):
    """Return (path, content) of configs/<kind>/<name>.yaml, looked for in the current folder, then beside the code."""
    folders = [Path("configs") / kind, REPOSITORY / "configs" / kind]
    paths = [Path(name)] if name.endswith((".yaml", ".yml")) else [folder / f"{name}.yaml" for folder in folders]
    for path in paths:
        if os.path.isfile(path):  # unlike Path's, it takes any text
            return path, read_yaml(path)
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    hint = "; python -m tools.adopt FOLDER writes one" if kind == "competition" else ""
    raise UserError(f"{kind}={name}: no {paths[0]} (there are {listing(known)}){nearest(name, known)}{hint}")


def read_yaml(path, advice="correct it or delete it"):
    """Read a YAML file into plain containers; an empty file is an empty mapping."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = _parse_yaml(file.read(_MAX_BYTES + 1))
    except Exception as error:  # as in _parse_word
        wrong = "cannot be read" if isinstance(error, OSError) else "not valid YAML"
        raise UserError(f"{path}: {wrong} ({first_line(error)}); {advice}") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not settings; write lines such as image_size: 128")
    return content or {}


def _parse_yaml(text, as_text=False):
    """Return YAML's value in plain containers, as_text: of strings; refuse what would stall or crash its readers."""
    if len(text) > _MAX_BYTES:
        raise yaml.YAMLError(f"over {_MAX_BYTES // 10**6} MB")
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels deep")
    if as_text:
        return yaml.load(text, Loader=yaml.BaseLoader)  # safe: every scalar is a str
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]


def _build(layers):
    """Lay [(where, plain containers), ...] over the defaults, lowest first; return the frozen, checked Config."""
    found = {}
    for where, layer in layers:
        for key, value in _read_layer(layer, where):
            found[key] = where, _merge(found[key][1], value) if key in found else value
    config = copy.deepcopy(_defaults())
    for key, (where, value) in found.items():
        annotation = settings()[key].type
        try:
            if isinstance(value, list) and any(isinstance(one, (list, tuple, dict)) for one in value):
                assert "Any" in str(annotation)  # OmegaConf takes a list of lists for one of numbers
            OmegaConf.update(config, key, value)
        except Exception:  # of values that are not of the right type, OmegaConf raises whatever it runs into
            example = {"int | None": 5, "float | None": 0.5}.get(str(annotation), value_of(Config(), key))
            wrong = f"{key}={as_word(value)} is not {type_name(annotation)}"
            raise UserError(f"{where}: {wrong}; for example {key}={as_word(example)}") from None
    config = OmegaConf.to_object(config)
    check_config(config)
    return config


@functools.cache
def _defaults():
    """All defaults as OmegaConf has them, to be copied: building them takes longer than all else."""
    config = OmegaConf.structured(Config)
    for group in (config, *(config[name] for name in GROUPS)):
        OmegaConf.set_readonly(group, False)
    return config


def _merge(below, above):
    """Merge mappings such as loss.kwargs key by key, to any depth; an empty one, or another value, replaces them."""
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
        if key in _PATHS and isinstance(value, str):
            value = re.sub("(?<=[^:/])/+$", "", value) if is_url(value) else os.path.expanduser(value)
        patterns = value if isinstance(value, list) else [value]
        if key == "competition.images" and value is None:
            patterns = [""]
        if key in _PATTERNS and not (patterns and all(isinstance(one, str) for one in patterns)):
            raise UserError(f"{where}: {key}={as_word(value)} is no pattern, nor a list of them; write test/{{id}}.png")
        if key in ("infer.tta", "tracking") and isinstance(value, str):
            value = [] if value == "none" else [value]
        if isinstance(value, dict):
            value = {"on" if name is True else name: part for name, part in value.items()}  # YAML reads on as true
        yield key, value


def _check_text(key, value, where):
    """Refuse text that would not be taken as it stands, in a value or within its lists and mappings."""
    if isinstance(value, (dict, list, tuple)):
        for one in (one for one in value if isinstance(value, dict) and value[one] is None and ":" in str(one)):
            raise UserError(f"{where}: {key}={{{one}}}: a name without a value; write a blank after its colon")
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_text(key, one, where)
    elif isinstance(value, str) and _READ_BY_OMEGACONF.search(value):
        raise UserError(f"{where}: {key}={value}: settings hold no formulas and no variables; write out what is meant")
    elif isinstance(value, str) and _NO_TEXT.search(value):
        raise UserError(f"{where}: {key}={value}: holds NUL or is no UTF-8; write plain letters, or set PYTHONUTF8=1")
    elif isinstance(value, str) and key.startswith("competition.") and is_url(value):
        check_url(f"{where}: {key}={value}", value)
