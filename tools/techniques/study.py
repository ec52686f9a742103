"""A study: its base, seeds and techniques, and the Config of each of its runs."""

import dataclasses
import functools
import re
from pathlib import Path

from src.checkpointing.run_folder import RunFolder, differing_settings
from src.config.load import load_config
from src.config.settings import value_of
from src.errors import UserError, listing, nearest
from tools.techniques.catalogue import CATALOGUE, Technique

# What makes the embedded competition hard and fast enough for a study: BatchNorm, few images.
BASES = {
    "demo": (
        "model.kwargs={}", "optimizer.lr=0.01", "train.max_images=120", "train.batch_size=16", "train.epochs=6",
        "train.num_workers=0",
    ),
}  # fmt: skip
QUIET = ("tracking=none", "report=false")  # of every run
BASE = Technique("base", "", "The base, with nothing changed.", "")
_OWN_WORDS = ("name", "seed", "fold_seed", "output_dir", "overwrite")  # which the study sets
_load = functools.cache(load_config)  # of tuples; the table asks for the same configs after each technique


@dataclasses.dataclass(frozen=True)
class Study:
    """What the command line asks for."""

    competition: str
    base_words: tuple
    seeds: tuple
    output: Path
    techniques: tuple  # the base first, then what is compared with it
    write: Path | None

    @property
    def base_config(self):
        """The Config of the base, without the study's own words."""
        return _load(self.base_words)

    def words_of(self, technique):
        """Return the words that turn the base into the technique, with factors such as x3 resolved.

        Raises:
            UserError: a word cannot be read.
        """
        words = [word for one in lineage(technique) for word in one.words.split("  ") if word]
        return tuple(resolve_word(word, self.base_config) for word in words)

    def config_of(self, technique, seed):
        """Return the checked Config of one run.

        Raises:
            UserError: the settings refuse the technique.
        """
        own = (f"name={_name_run(technique, seed)}", f"seed={seed}", f"fold_seed={seed}", f"output_dir={self.output}")
        words = [word.replace("{base}", str(self.run_of(BASE, seed).path)) for word in self.words_of(technique)]
        return _load((*self.base_words, *words, *own))

    def run_of(self, technique, seed):
        """Return the RunFolder of one run."""
        return RunFolder(self.output / _name_run(technique, seed))

    def reference_of(self, technique):
        """Return what a technique is compared with: the base where the entry it names changes nothing here."""
        if not technique.against:
            return BASE
        parent, seed = find(technique.against), self.seeds[0]
        return parent if differs(self.config_of(parent, seed), self.config_of(BASE, seed)) else BASE


def read_words(words):
    """Return the Study of a command line.

    Raises:
        UserError: a word is wrong.
    """
    if bare := next((word for word in words if "=" not in word), None):
        raise UserError(f"command line: {bare!r} is not key=value; see python -m tools.techniques --help")
    given = dict(word.split("=", 1) for word in words)
    if own := next((key for key in given if key in _OWN_WORDS), None):
        raise UserError(f"{own}={given[own]}: the study sets it for each run; write seeds=42,43 and output=FOLDER")
    name = given.get("competition", "demo")
    competition = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    seeds, only = given.pop("seeds", "42,43,44"), given.pop("only", "")
    output, write = given.pop("output", f"outputs/techniques_{competition}"), given.pop("write", None)
    try:
        seeds = tuple(dict.fromkeys(int(seed) for seed in seeds.strip("[]").split(",")))
    except ValueError:
        raise UserError(f"seeds={seeds}: not whole numbers; write for example seeds=42,43,44") from None
    if write is not None and not write.endswith(".md"):
        raise UserError(f"write={write}: not a Markdown file; write for example write=docs/techniques.md")
    base = dict(word.split("=", 1) for word in (*QUIET, *BASES.get(competition, ())))
    base_words = tuple(f"{key}={value}" for key, value in (base | given).items())
    load_config(base_words)
    techniques = choose([one for one in only.strip("[]").split(",") if one])
    return Study(competition, base_words, seeds, Path(output), techniques, Path(write) if write else None)


def choose(names):
    """Return the base and the named areas or techniques, each after the one it is compared with; []: all.

    Raises:
        UserError: the catalogue has no such area or technique.
    """
    slugs = {_slug(name): name for name in names}
    known = {one.slug for one in CATALOGUE} | {_slug(one.area) for one in CATALOGUE}
    for slug, name in slugs.items():
        if slug not in known:
            areas = listing(dict.fromkeys(one.area for one in CATALOGUE), 20)
            raise UserError(f"only={name}: no such area or technique{nearest(slug, known)}; the areas are {areas}")
    chosen = [one for one in CATALOGUE if not slugs or {one.slug, _slug(one.area)} & set(slugs)]
    return tuple(dict.fromkeys([BASE, *(one for technique in chosen for one in lineage(technique))]))


def find(name):
    """Return the catalogue's technique of this name."""
    return next(one for one in CATALOGUE if one.name == name)


def lineage(technique):
    """Return the techniques that this one builds on, and itself last."""
    return [*(lineage(find(technique.against)) if technique.against else ()), technique]


def _name_run(technique, seed):
    return f"{technique.slug}_seed{seed}"


def _slug(name):
    return Technique(name, "", "", "").slug


def resolve_word(word, base):
    """Return the word with a value such as x3 replaced by three times the base's; whole numbers stay whole."""
    key, _, value = word.partition("=")
    if not re.fullmatch(r"x[0-9.]+", value):
        return word
    now, factor = value_of(base, key), float(value[1:])
    if isinstance(now, tuple):
        return f"{key}=[{','.join(str(round(one * factor)) for one in now)}]"
    return f"{key}={max(1, round(now * factor)) if isinstance(now, int) else format(now * factor, '.3g')}"


def differs(config, other):
    """Whether two configs train differently, apart from names and from defaults that resolve to the same."""
    keys = differing_settings(_resolve_defaults(config), _resolve_defaults(other))
    return bool([key for key in keys if key not in ("name", "recipe")])


def _resolve_defaults(config):
    """Return the config with null and auto replaced by what they stand for, where the catalogue names that."""
    model = dataclasses.replace(config.model, freeze_batchnorm=config.model.keeps_batchnorm)
    loss = dataclasses.replace(config.loss, name=config.loss.name_for(config.competition.task))
    return dataclasses.replace(config, model=model, loss=loss)
