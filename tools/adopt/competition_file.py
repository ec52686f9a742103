"""A Layout -> the text of a competition file: a line per setting, each with its reason."""

import json
import re
import textwrap

WIDTH = 80

_PLAIN_PATH = re.compile(r"[A-Za-z./][\w.-]*/[\w./{}\[\]*-]*")  # YAML needs no quotes around it, outside a list
# Words that YAML reads as something else than text.
_NOT_TEXT = ("yes", "no", "on", "off", "true", "false", "null", "y", "n", "nan", "inf")


def competition_yaml(layout, folder):
    """Return the competition file: a line per setting, each with its reason as a comment."""
    lines = [f"# Written by python -m tools.adopt {folder}; check it, change it.", "competition:"]
    for key, (value, why) in layout.settings.items():
        group, _, field = key.rpartition(".")
        indent = "  " if group else ""
        line = f"{indent}{field}: {yaml_value(value)}"
        if isinstance(value, list) and len(line) > WIDTH:
            lines += [f"{indent}{field}:  # {why}", *(f"{indent}  - {_yaml_word(one)}" for one in value)]
        else:
            lines.append(f"{line}  # {why}")
        if key == "competition.group" and layout.beside:
            lines += ["  # to give the network columns of both tables beside the image:"]
            words = f"metadata: {yaml_value(layout.beside)}"
            lines += textwrap.wrap(words, WIDTH, initial_indent="  # ", subsequent_indent="  #   ")
    return "\n".join(lines) + "\n"


def yaml_value(value):
    """Return a setting's value as it is written in YAML."""
    if isinstance(value, list):
        return f"[{', '.join(_yaml_word(one) for one in value)}]"
    return value if isinstance(value, str) and _PLAIN_PATH.fullmatch(value) else _yaml_word(value)


def _yaml_word(value):
    """Return a scalar as YAML; text is quoted where YAML would read something else."""
    if value is None:
        return "null"
    if not isinstance(value, str) or (re.fullmatch(r"[A-Za-z][\w./-]*", value) and value.lower() not in _NOT_TEXT):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
