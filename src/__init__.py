"""The starter's code. Set before any library is imported: idle threads sleep.

Waiting OpenMP threads spin by default, so that one other busy process on the machine makes a step on a CPU many times
slower; sleeping ones cost a few per cent on a quiet machine.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
