"""What starting costs: `python tests/benchmarks/startup.py [--against CHECKOUT] [--rounds 5]`

Imports, `qebias --help`, and a job of the graph whose notebook does nothing, or imports what the checkout's
`run/compress.ipynb` does. Wall and processor seconds: the median of the rounds, and in brackets the smallest
and the largest. With another checkout of qebias the two take turns, and the last column is the other's
processor time divided by ours, round by round.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
QEBIAS = [sys.executable, "-c", "from qebias.cli import main; main()"]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def imports_of(checkout: Path) -> str:
    "The first cell behind the parameters of a job's notebook"
    cells = json.loads((checkout / "nbs" / "study" / "run" / "compress.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return "".join(code[1]["source"])


def write_notebook(path: Path, source: str) -> Path:
    "A job's notebook: its parameters, and one cell"
    parameters = 'run_dir: str = ""\njob: str = ""'
    cells = []
    for name, text, tags in (("first", parameters, ["parameters"]), ("second", source, [])):
        cell = {"cell_type": "code", "id": name, "metadata": {"tags": tags}, "source": text}
        cells.append(cell | {"execution_count": None, "outputs": []})
    book = {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))
    return path


def commands(checkout: Path, folder: Path) -> dict[str, list]:
    "What is timed, by what it is called"
    folder.mkdir()
    job = [sys.executable, "-m", "qebias.study.jobs", "a job", "--run-dir", str(folder)]
    job += ["--record", str(folder / "record.ipynb"), "--notebook"]
    return {
        "import qebias": [sys.executable, "-c", "import qebias"],
        "qebias --help": [*QEBIAS, "--help"],
        "a job that does nothing": [*job, str(write_notebook(folder / "nothing.ipynb", "job"))],
        "a job that imports": [*job, str(write_notebook(folder / "imports.ipynb", imports_of(checkout)))],
    }


def took(command: list, checkout: Path) -> tuple[float, float]:
    "Wall and processor seconds of a command in a checkout; ends this program where it fails"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, env=environment)
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {checkout}:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list, unit: str = "") -> str:
    "The median, and in brackets the smallest and the largest"
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = [HERE, *([options.against.resolve()] if options.against else [])]
    heads = ["", "wall, s", "processor, s", *(["the other's, times ours"] if options.against else [])]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    with tempfile.TemporaryDirectory() as work:
        asked = [commands(side, Path(work) / str(i)) for i, side in enumerate(sides)]
        for name in asked[0]:
            rounds = []
            for _ in range(options.rounds):
                rounds.append([took(of_side[name], side) for of_side, side in zip(asked, sides)])
            own = [found[0] for found in rounds]
            cells = [name, spread([wall for wall, _ in own]), spread([used for _, used in own])]
            if options.against:
                cells.append(spread([found[1][1] / found[0][1] for found in rounds], "x"))
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
