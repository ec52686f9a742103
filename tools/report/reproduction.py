"""Sections of one run's page that say how to make it again: settings, commands, code, versions."""

from src.config.help import as_word
from src.config.settings import Config, settings, value_of
from src.files import load_json
from tools.report.elements import Section, Table, plural


def list_changes(config):
    """Return {key: (value, default)} of the settings that differ from their defaults, as words."""
    found = {}
    for key in settings():
        value, default = value_of(config, key), value_of(Config(), key)
        if value != default and not key.startswith(("competition.", "infer.output")):
            found[key] = (as_word(value), as_word(default))
    return found


def build_settings(run):
    """Every setting that differs from its default."""
    changes = list_changes(run.config)
    meanings = {key: settings()[key].metadata["meaning"].partition(";")[0] for key in changes}
    rows = [[f"{key}={value}", default, meanings[key]] for key, (value, default) in changes.items()]
    section = Section("settings", "Settings")
    competition = {
        key: as_word(value_of(run.config, key)) for key in settings()
        if key.startswith("competition.") and value_of(run.config, key) != value_of(Config(), key)
    }  # fmt: skip
    section.facts = {"settings": {key: value for key, (value, _) in changes.items()}, "competition": competition}
    section.sentences.append(f"{plural(len(changes), 'setting')} of {len(settings())} differ from the defaults.")
    header = ["setting", "default", "meaning"]
    section.tables.append(Table(header, rows, "What differs", is_open=len(rows) <= 12, is_text=(1, 2)))
    rows = [[f"{key}={value}"] for key, value in competition.items()]
    section.tables.append(Table(["setting"], rows, "The competition's own settings", is_open=False))
    return section


def build_reproduction(run):
    """The commands, the code and the versions that made the run."""
    section, known = Section("reproduce", "How to reproduce it"), run.provenance
    commands, blend = [], run.folder.made_by
    if run.kind == "blend":
        commands.append(load_json(blend).get("command"))
    elif run.kind == "soup":
        members = " ".join(map(str, load_json(run.folder.soup).get("members", ())))
        commands.append(f"python -m tools.soup {members} name={run.name}")
    else:
        commands.append(known.get("command"))
    commands = [one for one in commands if one]
    commit, is_dirty = known.get("commit"), known.get("is_dirty")
    lines = [*([f"git checkout {commit}"] if commit else []), *commands]
    if run.kind == "run" and commands:
        lines.append(f"python infer.py run={run.folder.path}")
    section.facts = {"reproduce": {"commands": lines, "commit": commit, "is_dirty": is_dirty,
                                   "versions": known.get("versions"), "tables": known.get("tables")}}  # fmt: skip
    if is_dirty:
        section.sentences.append("The code was changed since that commit, so the commit alone does not bring it back.")
    if not commands:
        section.sentences.append("The command is not known: the folder holds no provenance.json.")
    if lines:
        section.commands.append(("In a copy of this repository:", "\n".join(lines)))
    versions = known.get("versions") or {}
    if versions:
        rows = [[name, version] for name, version in versions.items()]
        section.tables.append(Table(["library", "version"], rows, "Versions", is_open=False))
    tables = {name: one for name, one in (known.get("tables") or {}).items() if one}
    if tables:
        rows = [[name, one[:16]] for name, one in tables.items()]
        section.tables.append(Table(["table", "SHA-256"], rows, "Tables that it read", is_open=False))
    if later := known.get("later"):
        keys = sorted({key for one in later for key in one})
        section.sentences.append(f"Later commands on this run had another {', '.join(keys)} (provenance.json).")
    return section
