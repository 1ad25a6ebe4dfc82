"""Runs library notebooks, each in a fork of this process, which has imported what most of them import

A line on standard input names a notebook and, after a tab, a file for what it says; a line back is its
exit code.
Nothing of qebias is imported before the fork: a notebook imports the package as a fresh process would.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

LONGEST = 540  # seconds of a notebook; then it is killed


def imported():
    "Import what most notebooks do"
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    from nbdev.test import test_nb

    return test_nb


def become(test_nb, notebook: str, log: str):
    "In the fork: run the notebook, and leave with 0 where its assertions hold"
    signal.alarm(LONGEST)
    said = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    with contextlib.chdir(Path(notebook).parent):
        ok, seconds = test_nb(Path(notebook), skip_flags=["notest", "cuda", "slow"], do_print=False)
    print(f"{seconds:.1f} s")
    sys.exit(not ok)


def main():
    test_nb = imported()
    for line in sys.stdin:
        notebook, log = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            become(test_nb, notebook, log)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
