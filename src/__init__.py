"""The starter's code. Set before any library is imported: how long idle threads spin, and what a terminal can show.

GNU OpenMP's waiting threads spin for milliseconds, so that one other busy process makes a step on a CPU many times
slower; these look for new work some microseconds long and then sleep. What stdout's encoding lacks, such as a Korean
name in the locale C, is printed as its number instead of ending the program.
"""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
if hasattr(sys.stdout, "reconfigure"):  # a notebook's has no encoding
    sys.stdout.reconfigure(errors="backslashreplace")
