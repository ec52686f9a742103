"""What a hands-off run has decided and done, on disk, so that the same command goes on where it was stopped."""

import time

from src.files import load_json, save_json


class Journal:
    """Decisions by name, and the seconds used so far by all commands of this run."""

    def __init__(self, path, budget):
        self.path, self._began = path, time.monotonic()
        self._saved = load_json(path) if path.is_file() else {"seconds": 0.0, "decisions": {}}
        self.ends_at = self._began + budget - self._saved["seconds"]  # when the budget does, on time.monotonic's clock

    @property
    def is_resumed(self):
        return bool(self._saved["decisions"])

    @property
    def seconds(self):
        """Used so far."""
        return self._saved["seconds"] + time.monotonic() - self._began

    @property
    def left(self):
        """Seconds of the budget."""
        return self.ends_at - time.monotonic()

    def __contains__(self, name):
        return name in self._saved["decisions"]

    def __getitem__(self, name):
        return self._saved["decisions"][name]

    def __setitem__(self, name, value):
        self._saved["decisions"][name] = value
        self.save()

    def get(self, name, default=None):
        return self._saved["decisions"].get(name, default)

    def save(self):
        """Write all of it; called whenever something is decided, and at the end."""
        save_json(self.path, self._saved | {"seconds": round(self.seconds, 2)})
