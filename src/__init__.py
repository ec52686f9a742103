"""The pipeline: what train.py and infer.py need, and nothing else."""

import sys

if hasattr(sys.stdout, "reconfigure"):  # a notebook's stdout has no encoding
    sys.stdout.reconfigure(errors="backslashreplace")  # a Korean name in the locale C is escaped, not an error
