"""The command python -m tools.adopt: prints each decision with its reason and writes the competition file."""

import re
import sys
import textwrap
from pathlib import Path

from src.errors import UserError, nearest, one_line_errors
from src.files import save_json, save_table, save_text
from tools.adopt.competition_file import WIDTH, competition_yaml, yaml_value
from tools.adopt.folder import unpack_archives
from tools.adopt.layout import recognise

USAGE = "python -m tools.adopt FOLDER [name=NAME] [output=FILE.yaml] [overwrite=true] [unzip=true]"
HELP = f"""usage: {USAGE}

Reads the folder of a competition's data and writes its competition file, to be
checked by eye: configs/competition/NAME.yaml, or the file that output= names.
It prints each decision with its reason; outputs/adopt/NAME.json holds the same.
Tables that cannot be used as they are stay so; outputs/adopt/NAME/ gets copies.

  name=NAME         the folder's name if left out
  overwrite=true    replaces a file that is there
  unzip=true        unpacks the folder's archives, and those in them, first:
                    .zip and .tar, and .7z and .rar if 7z or bsdtar is there
"""
_KEY_WIDTH = 19
_INDENT = " " * _KEY_WIDTH


def main(words):
    """Run the command line `words`.

    Raises:
        UserError: wrong usage, nothing to adopt, or a different file of that name exists.
    """
    if {"--help", "-h"} & set(words):
        print(HELP)
        return
    folder, path, overwrite, unzip = _read_words(words)
    is_default = path == _default_path(path.stem)
    unpacked = []
    for archive, count, target in unpack_archives(folder) if unzip else ():
        unpacked.append(archive)
        print(f"unpacked {archive}: {count} files into {target}")
    layout = recognise(folder, unpacked, Path("outputs") / "adopt" / path.stem)
    print("\n".join(_report(folder, layout)))
    _save_report(folder, layout, path)
    for copy, table in layout.copies.items():
        save_table(copy, table)
        print(f"wrote {copy}")
    text = competition_yaml(layout, folder)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        print(f"\n{path} is unchanged")
    elif path.exists() and not overwrite:
        another = "name=NAME" if is_default else "output=FILE.yaml"
        raise UserError(f"{path}: exists and differs; add overwrite=true, or choose another {another}")
    else:
        save_text(path, text)
        print(f"\nwrote {path}")
    competition = path.stem if is_default else path
    print(f"next: python -m tools.doctor competition={competition}\nthen: python train.py competition={competition}")


def _read_words(words):
    """Return (folder, path of the competition file, overwrite, unzip)."""
    options = {"name": None, "output": None, "overwrite": "false", "unzip": "false"}
    folders = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            folders.append(word)
        elif key not in options:
            raise UserError(f"command line: unknown word {word}{nearest(key, options)}; {USAGE}")
        elif key in ("overwrite", "unzip") and value not in ("true", "false"):
            raise UserError(f"command line: {word} is neither {key}=true nor {key}=false")
        else:
            options[key] = value
    if len(folders) != 1:
        raise UserError(f"command line: {len(folders)} folders given, one is needed; {USAGE}")
    name, output = options["name"], options["output"]
    if name is None:
        name = re.sub(r"[^a-z0-9_-]+", "_", Path(folders[0]).resolve().name.lower()).strip("_") or "competition"
    elif output is not None:
        raise UserError(f"command line: name={name} and output={output}; give one of them")
    elif not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"command line: name={name} is not a word of letters, digits, - and _")
    path = Path(output) if output is not None else _default_path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"output={path}: not a YAML file; choose a name that ends in .yaml")
    return folders[0], path, options["overwrite"] == "true", options["unzip"] == "true"


def _default_path(name):
    return Path("configs") / "competition" / f"{name}.yaml"


def _report(folder, layout):
    """Yield the lines that say what was found and decided, none wider than a terminal where words allow it."""
    files = layout.files
    yield f"{folder}: {len(files.paths)} images, {len(files.tables)} tables\n"
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


def _save_report(folder, layout, path):
    """Write what `_report` prints as outputs/adopt/NAME.json."""
    counts = {"num_images": len(layout.files.paths), "num_tables": len(layout.files.tables)}
    settings = {key: {"value": value, "reason": why} for key, (value, why) in layout.settings.items()}
    report = {"folder": str(folder), **counts, "settings": settings, "unused": layout.unused, "doubts": layout.doubts}
    save_json(Path("outputs") / "adopt" / f"{path.stem}.json", report | {"file": str(path)})


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
