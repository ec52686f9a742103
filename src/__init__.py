"""The starter's code. Set before any library is imported: how long idle threads spin.

GNU OpenMP's waiting threads spin for milliseconds, so that one other busy process makes a step on a CPU many times
slower; these look for new work some microseconds long and then sleep.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
