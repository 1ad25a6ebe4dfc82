"""Where the processor time of a study goes: its command, Snakemake, the warm process, the jobs

    python tests/benchmarks/study.py [--profile smoke] [--cores 1]

The study runs from nothing in a folder that is removed at the end. Times are read from /proc while it
runs, so this is for Linux: of a process itself, and of those that it has waited for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
RUN = [sys.executable, "-c", "from qebias.cli import main; main()", "study"]


def times(pid: int) -> tuple[float, float]:  # seconds of its own, of those that it has waited for
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, system, waited, waited_system = map(int, fields[11:15])
    return (own + system) / TICKS, (waited + waited_system) / TICKS


def children(pid: int) -> dict[str, int]:
    "The parts of a study among the children of its command"
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "snakemake" in words:
                found["Snakemake"] = int(child)
            if "--serve" in words:
                found["warm process"] = int(child)
    return found


def watched(command: list[str]) -> dict[str, tuple[float, float]]:
    "Part -> its own seconds and those of what it started, as last seen"
    seen = {}
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while study.poll() is None:
        try:
            seen["command"] = times(study.pid)
            seen |= {part: times(pid) for part, pid in children(study.pid).items()}
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has just ended
        time.sleep(0.1)
    if study.returncode:
        sys.exit(f"the study failed: {study.returncode}")
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--cores", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [args.profile, "--cores", str(args.cores), "--out", f"{folder}/study"]
        seen = watched([*RUN, *words])
        jobs = len(list(Path(folder, "study", "names").rglob("*.json")))
    parts = {
        "the command itself": seen["command"][0],
        "Snakemake": seen["Snakemake"][0],
        "commands of jobs": seen["Snakemake"][1],
        "the warm process": seen["warm process"][0],
        "jobs": seen["warm process"][1],
    }
    print(f"{args.profile}, {jobs} jobs, {sum(parts.values()):.1f} s")
    for part, took in parts.items():
        print(f"{part}: {took:.1f} s, {100 * took / sum(parts.values()):.0f} %")


if __name__ == "__main__":
    main()
