"Every library notebook runs from top to bottom, and its assertions hold"

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

PARTS = ("foundations", "data", "networks", "method", "measurement", "tools")  # of the book, in reading order
NOTEBOOKS = [p for part in PARTS for p in sorted((ROOT / "nbs" / part).glob("*.ipynb"))]
COLD = ("05_later", "05_config", "10_notebooks")  # say what is imported when, so nothing may be before them
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=["notest", "cuda", "slow"], do_print=False)
sys.exit(not ok)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    "All notebooks, one after the other in processes of their own, started ahead of the tests that ask for them"
    logs = tmp_path_factory.mktemp("notebooks")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "IN_TEST": "1", "MPLBACKEND": "agg"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    warm = subprocess.Popen([sys.executable, str(ROOT / "tests" / "warm.py")], env=env, **pipes)

    def run(notebook):
        log = logs / f"{notebook.stem}.txt"
        if notebook.stem in COLD:
            command = [sys.executable, "-c", RUN, str(notebook)]
            with log.open("w") as said:
                done = subprocess.run(
                    command, cwd=notebook.parent, env=env, timeout=540, stdout=said, stderr=said
                )
            return done.returncode, log
        print(f"{notebook}\t{log}", file=warm.stdin, flush=True)
        return int(warm.stdout.readline()), log

    with warm, ThreadPoolExecutor(1) as pool:
        yield {notebook: pool.submit(run, notebook) for notebook in NOTEBOOKS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_library_notebook(notebook, outcomes):
    code, log = outcomes[notebook].result()
    assert code == 0, log.read_text(errors="replace")[-3000:]


def test_every_notebook_is_read_in_a_page_or_two():
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        assert notebook.stat().st_size <= 500_000, f"{notebook.name}: {notebook.stat().st_size // 1000} kB"
