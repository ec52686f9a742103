"""Write the competition file of a folder: python -m tools.adopt FOLDER [name=NAME] [overwrite=true] [unzip=true]

It looks, decides, prints each decision with its reason, and writes configs/competition/NAME.yaml to be checked by eye.
"""

import re
import sys
import textwrap
from pathlib import Path

from src.errors import UserError, nearest, one_line_errors
from src.files import save_text
from tools.adopt.folder import scan, unpack_zip
from tools.adopt.layout import recognise
from tools.adopt.writing import WIDTH, competition_yaml, yaml_value

USAGE = "python -m tools.adopt FOLDER [name=NAME] [overwrite=true] [unzip=true]"

_KEY_WIDTH = 19
_INDENT = " " * _KEY_WIDTH


def main(words):
    """Adopt the folder that the command line's words name, and say what was decided.

    Raises:
        UserError: wrong usage, nothing to adopt, or a different file of that name exists.
    """
    if {"--help", "-h"} & set(words):
        print(__doc__)
        return
    folder, name, overwrite, unzip = _read_words(words)
    unpacked = [archive for archive in scan(folder).archives if unzip and archive.endswith(".zip")]
    for archive in unpacked:
        count, target = unpack_zip(folder, archive)
        print(f"unpacked {archive}: {count} files into {target}")
    layout = recognise(folder, unpacked)
    print("\n".join(_report(folder, layout)))
    path = Path("configs") / "competition" / f"{name}.yaml"
    text = competition_yaml(layout, folder)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        print(f"\n{path} is unchanged")
    elif path.exists() and not overwrite:
        raise UserError(f"{path}: exists and differs; add overwrite=true, or choose another name=NAME")
    else:
        save_text(path, text)
        print(f"\nwrote {path}")
    print(f"next: python -m tools.doctor competition={name}\nthen: python train.py competition={name}")


def _read_words(words):
    """Return (folder, name, overwrite, unzip)."""
    options = {"name": None, "overwrite": "false", "unzip": "false"}
    folders = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            folders.append(word)
        elif key not in options:
            raise UserError(f"command line: unknown word {word}{nearest(key, options)}; {USAGE}")
        elif key != "name" and value not in ("true", "false"):
            raise UserError(f"command line: {word} is neither {key}=true nor {key}=false")
        else:
            options[key] = value
    if len(folders) != 1:
        raise UserError(f"command line: {len(folders)} folders given, one is needed; {USAGE}")
    name = options["name"]
    if name is None:
        name = re.sub(r"[^a-z0-9_-]+", "_", Path(folders[0]).resolve().name.lower()).strip("_") or "competition"
    elif not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"command line: name={name} is not a word of letters, digits, - and _")
    return folders[0], name, options["overwrite"] == "true", options["unzip"] == "true"


def _report(folder, layout):
    """Yield the lines that say what was found and decided, none wider than a terminal where words allow it."""
    files = layout.files
    yield f"{folder}: {len(files.paths)} pictures, {len(files.tables)} tables\n"
    for key, (value, why) in layout.settings.items():
        shown = yaml_value(value)
        if isinstance(value, list) and len(shown) > WIDTH - _KEY_WIDTH:
            shown = f"{value[0]}, {value[1]} ... ({len(value)} in all)"
        head = f"{key.removeprefix('competition.'):{_KEY_WIDTH}}{shown}"
        if len(head) + len(why) + 4 <= WIDTH:
            yield f"{head}  # {why}"
        else:
            yield head
            yield from textwrap.wrap("# " + why, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ")
    if layout.unused:
        yield from textwrap.wrap(f"not used: {', '.join(layout.unused)}", WIDTH, subsequent_indent="  ")
    yield "\nplease check:" if layout.doubts else "\nnothing was left undecided"
    for doubt in layout.doubts:
        yield from textwrap.wrap(doubt, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
