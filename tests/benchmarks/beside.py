"""Processor time of a command in this checkout beside another's, in turn, with all processes that it starts

    python tests/benchmarks/beside.py --against CHECKOUT [--rounds 1] -- qebias study smoke --cores 1 --out {}
    python tests/benchmarks/beside.py --against CHECKOUT -- python -m pytest -n 0 -q tests/test_cli.py

`{}` stands for a new folder each time. Each side runs in its own checkout, whose package comes first. What
is printed is user and system time together, so that a machine with other work gives a ratio too.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def seconds(command: list[str], checkout: Path) -> float:
    "Processor seconds of a command and of all its processes; ends this program where it fails"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="beside-") as folder:
        words = [word.replace("{}", f"{folder}/new") for word in command]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed in {checkout}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args()
    ratios = []
    for _ in range(args.rounds):
        other, own = (seconds(args.command, checkout) for checkout in (args.against.resolve(), HERE))
        ratios.append(other / own)
        print(f"{args.against.name}: {other:.1f} s, here: {own:.1f} s, {ratios[-1]:.2f}x", flush=True)
    if len(ratios) > 1:
        print(f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
