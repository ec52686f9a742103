"""One hands-off run: its words, lanes, time, decisions and what is ready to be blended."""

import math
import textwrap
from pathlib import Path

from src.evaluation.metrics import build_metric
from src.files import load_json
from tools.auto.journal import Journal
from tools.auto.programs import Program

_SLACK = 0.05  # share of the budget by which what was planned to fit may come later
_END = 6.0  # seconds for the last blend and the report, until they were measured


class Course:
    """What all steps share.

    Attributes:
        folder, members: outputs/NAME and outputs/NAME_members.
        common: words that every program gets.
        facts: plan.Facts; speeds: {backbone: plan.Speed}, once they are known.
    """

    def __init__(self, options, words, lanes):
        self.options, self.config, self.words, self.lanes = options, options["config"], list(words), lanes
        output = Path(self.config.output_dir)
        self.folder, self.members = output / options["name"], output / f"{options['name']}_members"
        self.journal = Journal(self.members / "journal.json", options["seconds"])
        cache = self.config.cache_dir or f"{self.config.output_dir}/cache"
        self.common = [*self.words, f"output_dir={self.members}", f"cache_dir={cache}", f"threads={lanes.threads}"]
        competition = self.config.competition
        self.metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
        self.facts, self.speeds = None, {}

    @property
    def inputs(self):
        """Names of the runs in `members` that the blend in `folder` is of."""
        return self.journal.get("inputs", [])

    @property
    def end_seconds(self):
        """What the last blend and the report take."""
        return self.journal.get("end_seconds", _END)

    @property
    def left(self):
        """Seconds that are left for anything but the end."""
        return self.journal.left - self.end_seconds

    @property
    def ends_at(self):
        """When what runs is stopped for the last blend and the report, on time.monotonic's clock."""
        return self.journal.ends_at - self.end_seconds + _SLACK * self.options["seconds"]

    def run(self, programs, after=None):
        """Run Programs until the end must begin."""
        self.lanes.run(programs, self.ends_at, after)

    def is_fixed(self, key):
        """Whether the command line decides a setting."""
        return any(word.partition("=")[0] == key for word in self.words)

    def leave_out_given(self, words):
        """Return the words of settings that the command line does not decide; of a size that is given none."""
        has_size = self.facts.side > 0
        keys = [word.partition("=")[0] for word in words]
        return [word for word, key in zip(words, keys, strict=True)
                if not (self.is_fixed(key) or (key == "image_size" and has_size))]  # fmt: skip

    def program(self, title, command):
        """Return the Program of one command."""
        return Program(title, [command], self.members / "logs" / f"{title.replace(' ', '_')}.log")

    def read_score(self, name):
        """Return the pooled out-of-fold score of a run in `members`, nan where it has none."""
        score = load_json(self.members / name / "scores.json", "pooled")["pooled"]
        return math.nan if score is None else score

    def compute_error(self, score):
        """Return how far a score is from the best possible, inf of nan; of a metric without a best one -score."""
        if not math.isfinite(score):
            return math.inf
        if not self.metric.greater_is_better:
            return score
        return 1 - score if self.metric.bounds[1] == 1 else -score


def say(line):
    """Print a line, wrapped at 80 columns."""
    indent = " " * (len(line) - len(line.lstrip()))
    print("\n".join(textwrap.wrap(line, 80, subsequent_indent=indent + "  ", break_on_hyphens=False)), flush=True)
