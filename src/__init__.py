"""The pipeline: what train.py and infer.py need; for notebooks `from src import train, infer, open_run`.

These are loaded once they are asked for (PEP 562), so that importing this package stays instant.
"""

import sys

__all__ = ["TrainedRun", "infer", "open_run", "train"]  # of src/analysis/trained_run.py

if hasattr(sys.stdout, "reconfigure"):  # a notebook's stdout has no encoding
    sys.stdout.reconfigure(errors="backslashreplace")  # a Korean name in the locale C is escaped, not an error


def __getattr__(name):
    if name in __all__:
        from src.analysis import trained_run

        return getattr(trained_run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
