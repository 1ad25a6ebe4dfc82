"Every library notebook runs from top to bottom, and its assertions hold"

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

PARTS = ("foundations", "data", "networks", "method", "measurement", "tools")  # of the book, in reading order
NOTEBOOKS = [p for part in PARTS for p in sorted((ROOT / "nbs" / part).glob("*.ipynb"))]
RUN = "import sys; from pathlib import Path; from nbdev.test import test_nb; ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=['notest', 'cuda', 'slow'], do_print=False); print(f'{seconds:.1f} s'); sys.exit(not ok)"


@pytest.fixture(scope="module")
def outcomes():
    "All notebooks, one after the other in processes of their own, started ahead of the tests that ask for them"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "IN_TEST": "1", "MPLBACKEND": "agg"}

    def run(notebook):
        return subprocess.run(
            [sys.executable, "-c", RUN, str(notebook)],
            cwd=notebook.parent,
            env=env,
            capture_output=True,
            text=True,
            timeout=540,
        )

    with ThreadPoolExecutor(1) as pool:
        yield {n: pool.submit(run, n) for n in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_library_notebook(notebook, outcomes):
    done = outcomes[notebook].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_every_notebook_is_read_in_a_page_or_two():
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        assert notebook.stat().st_size <= 500_000, f"{notebook.name}: {notebook.stat().st_size // 1000} kB"
