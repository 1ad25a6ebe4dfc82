"""Processor seconds of the plain tests, file by file, with all processes that they start

    python tests/benchmarks/suite.py [FILE ...] [-- MORE WORDS FOR PYTEST]

Wall time says little on a busy machine; this says what is to be cut.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def seconds(path: Path, more: list[str]) -> tuple[float, int]:
    "User and system time of one file's tests and of all that they waited for, and pytest's exit code"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", str(path), *more]
    child = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)  # the table alone on ours
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, child.returncode


def main(words: list[str]):
    cut = words.index("--") if "--" in words else len(words)
    files, more = [Path(word) for word in words[:cut]], words[cut + 1 :]
    files = files or sorted([*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/faults/test_*.py")])
    total = 0.0
    for path in files:
        used, code = seconds(path, more)
        total += used
        print(f"{used:8.1f} {path.name}{f', exit code {code}' if code else ''}", flush=True)
    print(f"{total:8.1f} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
