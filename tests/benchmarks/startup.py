"""What starting costs: `python tests/benchmarks/startup.py [--against CHECKOUT] [--rounds 3]`

Imports, `qebias --help`, and a job of the graph whose notebook does nothing, or what a study's notebook
imports. With another checkout of qebias the two take turns, and the last column is its time divided by ours.
Wall and processor time, the best round of each.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
# of run/compress.ipynb
IMPORTS = (
    "import pandas as pd\nfrom qebias.figures import crops, theme\nfrom qebias.metrics import psnr\n"
    "from qebias.study import Study, centre, compress"
)


def notebook(path, *cells):
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "execution_count": None,
            "metadata": {"tags": ["parameters"]} if not i else {},
            "outputs": [],
            "source": text,
        }
        for i, text in enumerate(cells)
    ]
    path.write_text(
        json.dumps(
            {
                "cells": cells,
                "metadata": {
                    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
                },
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    return str(path)


def took(command, checkout):
    "Wall and processor seconds"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sides = [HERE, *([options.against.resolve()] if options.against else [])]
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        job = [sys.executable, "-m", "qebias.notebooks"]
        given = [part for name in "abcdef" for part in ("-p", name, "1")]
        what = {
            "import qebias": [sys.executable, "-c", "import qebias"],
            "qebias --help": [sys.executable, "-c", "from qebias.cli import main; main()", "--help"],
            "import qebias.study": [sys.executable, "-c", "import qebias.study"],
            "a job that does nothing": [
                *job,
                notebook(work / "nothing.ipynb", "\n".join(f"{name}: int = 0" for name in "abcdef"), "a + f"),
                str(work / "out.ipynb"),
                *given,
            ],
            "a job that imports": [
                *job,
                notebook(work / "imports.ipynb", "a: int = 0", IMPORTS),
                str(work / "out.ipynb"),
            ],
        }
        print(
            "| | wall, s | processor, s |"
            + (" the other's processor time |" if len(sides) > 1 else "")
            + "\n| --- | ---: | ---: |"
            + (" ---: |" if len(sides) > 1 else "")
        )
        for name, command in what.items():
            best = {side: (float("inf"),) * 2 for side in sides}
            for _ in range(options.rounds):
                for side in sides:
                    best[side] = tuple(map(min, best[side], took(command, side)))
            wall, cpu = best[HERE]
            print(
                f"| {name} | {wall:.2f} | {cpu:.2f} |"
                + (f" {best[sides[1]][1] / cpu:.2f}x |" if len(sides) > 1 else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
