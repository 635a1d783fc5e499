"""The tests, in one thread a process, as the jobs of `run`.

The number of threads decides the order of sums, and two of them wait for each other where the default run has a core.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
