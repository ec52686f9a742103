"""Registries, the dicts of functions such as LOSSES: their names without importing torch, and the check of keywords."""

import ast
import functools
import inspect
import math
from pathlib import Path

from src.errors import UserError, listing, nearest

_LARGEST = 10**15  # a larger whole number is a slip, and torch's and numpy's integers end soon after
_TYPE_NAMES = {"dict": "a mapping", "tuple[int": "two whole numbers", "list[float]": "a list of numbers"}
_TYPE_NAMES |= {"list": "a list", "tuple": "a list"}
_TYPE_NAMES |= {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null"}
_YAML = {"None": "null", "True": "true", "False": "false", "()": "[]"}


def list_names(file, registry):
    """Return the keys of a registry: a dict literal in src/<file>, which is parsed and not imported."""
    return tuple(_read_module(file).get(registry, ()))


def list_keywords(file, registry):
    """Return {name: "gamma=2.0, ..."} of the entries whose function or class is in the registry's file."""
    module, found = _read_module(file), {}
    for name, value in module.get(registry, {}).items():
        value = value.args[0] if isinstance(value, ast.Call) and value.args else value  # Metric(rmse, ...)
        tree = module.get(getattr(value, "id", None))
        if isinstance(tree, ast.ClassDef):
            tree = next((one for one in tree.body if getattr(one, "name", "") == "__init__"), None)
        if isinstance(tree, ast.FunctionDef) and (defaults := [ast.unparse(one) for one in tree.args.defaults]):
            keywords = zip(tree.args.args[-len(defaults) :], defaults, strict=True)
            found[name] = ", ".join(f"{one.arg}={_YAML.get(text, text.strip(chr(39)))}" for one, text in keywords)
    return found


@functools.cache
def _read_module(file):
    """Return {name: syntax tree} of what src/<file> defines, and of a dict {key: syntax tree}; of no file, nothing."""
    path, found = Path(__file__).resolve().parents[1] / file, {}
    for one in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []:
        for target in getattr(one, "targets", [getattr(one, "target", one)]):  # x = ..., x: dict = ..., def x()
            value = getattr(one, "value", one)
            if isinstance(value, ast.Dict):
                value = {getattr(key, "value", None): tree for key, tree in zip(value.keys, value.values, strict=True)}
            found.setdefault(getattr(target, "id", getattr(target, "name", None)), value)
    return found


def check_kwargs(where, function, kwargs, name=None, /, **ranges):
    """Check the user's keywords: the function has them, with a default, of the default's type and within their range.

    where: the setting, for example loss.kwargs; function: or its {keyword: default}; name: its name in messages;
    ranges: (lowest, highest) or the choices of a keyword, for example gamma=(0, None) or on=("score", "loss").
    """
    known = function
    if callable(function):
        parameters = inspect.signature(function).parameters.values()
        known = dict.fromkeys(kwargs if any(one.kind is one.VAR_KEYWORD for one in parameters) else ())
        known |= {one.name: one.default for one in parameters if one.default is not one.empty}
    for key, value in kwargs.items():
        if key not in known:
            advice = nearest(key, known) or f"; leave it out, or empty what a file sets with {where}={{}}"
            its = f"{name or function.__name__} has no {key} (it has {listing(known, 20) or 'none'})"
            raise UserError(f"{where}: {its}{advice}")
        default, limits = known[key], ranges.get(key, (None, None))
        right, given, is_choice = type_name(type(default)), type_name(type(value)), isinstance(limits[0], str)
        if default is not None and given != right and (given, right) != ("a whole number", "a number"):
            raise UserError(f"{where}.{key}={value}: must be {right}; the default is {default}")
        if is_choice and value not in (default, *limits):
            raise UserError(f"{where}.{key}={value}: not one of {listing(limits, 20)}{nearest(value, limits)}")
        is_list = right == "a list" and default and isinstance(default[0], (int, float))
        if is_list or (not is_choice and (key in ranges or type(value) in (int, float))):
            for one in value if is_list else [value]:
                check_range(f"{where}.{key}", one, *limits)


def check_range(where, number, low, high):
    """Raise a UserError for what is neither null nor a finite number from `low` to `high` (None: no limit)."""
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < math.inf
    high = _LARGEST if high is None and isinstance(number, int) and number > _LARGEST else high
    is_inside = is_number and (low is None or low <= number) and (high is None or number <= high)
    if not is_inside and number is not None:
        kind = "" if is_number or low is high is None else "a finite number "
        raise UserError(f"{where}={number}: must be {kind}{span(low, high)}")


def span(low, high):
    """Return a range in words."""
    if low is None:
        return "a finite number" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


def type_name(annotation):
    """Return a type in words."""
    return next((name for word, name in _TYPE_NAMES.items() if word in str(annotation)), "a word")
