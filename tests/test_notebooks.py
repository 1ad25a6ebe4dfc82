"Every library notebook runs from top to bottom, and its assertions hold"

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from warm import Warm

PARTS = ("foundations", "data", "networks", "method", "measurement", "tools")  # of the book, in reading order
NOTEBOOKS = [p for part in PARTS for p in sorted((ROOT / "nbs" / part).glob("*.ipynb"))]
COLD = ("05_later", "05_config", "10_notebooks")  # say what is imported when, so nothing may be before them
THOROUGH = (  # whose parts have tests of their own: plain pytest runs their first second, by test_quick
    "10_training",
    "20_discriminators",
    "20_inference",
    "25_export",
    "26_controls",
    "40_features",
    "50_bank",
    "50_readme",
)
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=["notest", "cuda", "slow"], do_print=False)
sys.exit(not ok)
"""


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """The notebooks of the tests that were chosen, one after the other in processes of their own, started
    ahead of the tests that ask for them"""
    asked = [
        item.callspec.params.get("notebook") for item in request.session.items if hasattr(item, "callspec")
    ]
    logs = tmp_path_factory.mktemp("notebooks")
    settings = {"OMP_NUM_THREADS": "1", "IN_TEST": "1", "MPLBACKEND": "agg"}
    warm = Warm("torch._dynamo", **settings)  # which torch imports where a network on no device is counted

    def run(notebook):
        log = logs / f"{notebook.stem}.txt"
        if notebook.stem not in COLD:
            return warm.notebook(notebook, log), log
        command = [sys.executable, "-c", RUN, str(notebook)]
        with log.open("w") as said:
            pipes = {"stdout": said, "stderr": said}
            done = subprocess.run(
                command, cwd=notebook.parent, env=os.environ | settings, timeout=540, **pipes
            )
        return done.returncode, log

    with ThreadPoolExecutor(1) as pool:
        yield {notebook: pool.submit(run, notebook) for notebook in NOTEBOOKS if notebook in asked}
        pool.shutdown(cancel_futures=True)
    warm.end()


def chosen(notebook):
    "The notebook as a parameter of a test"
    marks = [pytest.mark.thorough] if notebook.stem in THOROUGH else []
    return pytest.param(notebook, id=notebook.stem, marks=marks)


@pytest.mark.parametrize("notebook", [chosen(notebook) for notebook in NOTEBOOKS])
def test_library_notebook(notebook, outcomes):
    code, log = outcomes[notebook].result()
    assert code == 0, log.read_text(errors="replace")[-3000:]


def test_what_is_left_to_ci_exists():
    assert set(THOROUGH) <= {notebook.stem for notebook in NOTEBOOKS}


def test_every_notebook_is_read_in_a_page_or_two():
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        assert notebook.stat().st_size <= 500_000, f"{notebook.name}: {notebook.stat().st_size // 1000} kB"
