"""Registries, the dicts of functions such as LOSSES: their names without importing torch, and the check of keywords."""

import ast
import functools
import inspect
import math
from pathlib import Path

from src.errors import UserError, listing, nearest

_LARGEST = 10**15  # a larger whole number is a slip, and torch's and numpy's integers end soon after
_TYPE_NAMES = {"dict": "a mapping", "list": "a list", "tuple": "two whole numbers", "int": "a whole number"}
_TYPE_NAMES |= {"float": "a number", "bool": "true or false"}
_YAML = {"None": "null", "True": "true", "False": "false", "()": "[]"}


def list_names(file, registry):
    """Return the keys of a registry: a dict literal in src/<file>, which is parsed and not imported."""
    return tuple(_read_entries(file, registry))


def list_keywords(file, registry):
    """Return {name: "gamma=2.0, ..."} of the entries whose function or class is in the registry's file."""
    defined, found = {getattr(one, "name", None): one for one in _parse(file).body}, {}
    for name, value in _read_entries(file, registry).items():
        value = value.args[0] if isinstance(value, ast.Call) and value.args else value  # Metric(rmse, ...)
        function = defined.get(getattr(value, "id", ""))
        if isinstance(function, ast.ClassDef):
            function = next((one for one in function.body if getattr(one, "name", "") == "__init__"), None)
        if function is not None and function.args.defaults:
            keywords = zip(function.args.args[::-1], function.args.defaults[::-1], strict=False)
            words = [f"{one.arg}={_YAML.get(text := ast.unparse(tree), text.strip(chr(39)))}" for one, tree in keywords]
            found[name] = ", ".join(words[::-1])
    return found


def check_kwargs(where, function, kwargs, name=None, **ranges):
    """Check the user's keywords: the function has them, with a default, of the default's type and within their range.

    Args:
        where: the setting, for example loss.kwargs.
        name: of the function in messages; None: its own.
        ranges: (lowest, highest) or the choices of a keyword, for example gamma=(0, None) or on=("score", "loss").
    """
    parameters = inspect.signature(function).parameters.values()
    known = {one.name: one.default for one in parameters if one.default is not one.empty}
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        known = dict.fromkeys(kwargs) | known
    check_keywords(where, name or function.__name__, known, kwargs, ranges)


def check_keywords(where, name, known, kwargs, ranges):
    """As `check_kwargs`, for `known` {keyword: default} instead of a function."""
    for key, value in kwargs.items():
        if key not in known:
            advice = nearest(key, known) or f"; leave it out, or empty what a file sets with {where}={{}}"
            raise UserError(f"{where}: {name} has no {key} (it has {listing(known, 20) or 'none'}){advice}")
        if not _is_like(value, known[key]):
            kind = "a list" if isinstance(known[key], tuple) else type_name(type(known[key]))
            raise UserError(f"{where}.{key}={value}: must be {kind}; the default is {known[key]}")
        if isinstance(value, str) and value not in ranges.get(key, [value]):
            choices = f"{listing(ranges[key], 20)}{nearest(value, ranges[key])}"
            raise UserError(f"{where}.{key}={value}: not one of {choices}")
        if isinstance(value, (int, float)):
            check_range(f"{where}.{key}", value, *ranges.get(key, (None, None)))


def check_range(where, number, low, high):
    """Raise a UserError for a number below `low`, above `high` (None: no limit) or not finite."""
    largest = _LARGEST if isinstance(number, int) and high is None else high
    is_low, is_finite = low is not None and number < low, isinstance(number, int) or math.isfinite(number)
    if is_low or not is_finite or (largest is not None and number > largest):
        raise UserError(f"{where}={number}: must be {span(low, high if is_low else largest)}")


def span(low, high):
    """Return a range in words."""
    if low is None:
        return "a finite number" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"from {low} to {high}"


def type_name(annotation):
    """Return a type in words."""
    return next((name for word, name in _TYPE_NAMES.items() if word in str(annotation)), "a word")


def _is_like(value, default):
    """Whether a value has the type of a default; that of None is not known."""
    kinds = {float: (int, float), tuple: (list, tuple), list: (list, tuple), type(None): object}
    is_kind = isinstance(value, kinds.get(type(default), type(default)))
    return is_kind and (default is None or isinstance(value, bool) == isinstance(default, bool))


def _read_entries(file, registry):
    """Return {key: syntax tree of the value}; of a registry that is not there, nothing."""
    for one in _parse(file).body:
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if registry in [getattr(target, "id", None) for target in targets]:
            return {key.value: value for key, value in zip(one.value.keys, one.value.values, strict=True)}
    return {}


@functools.cache
def _parse(file):
    path = Path(__file__).resolve().parents[1] / file
    return ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "", str(path))
