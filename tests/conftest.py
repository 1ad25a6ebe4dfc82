"Places of what not every machine has: real photographs and weights"

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two test processes share the cores, so neither may take them all
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and every process that a test starts and interrupts would too

import pytest

# A grammar of web addresses, which no test needs and which takes two seconds of nbformat's import
sys.modules["rfc3987_syntax"] = None
import nbformat  # noqa: F401

del sys.modules["rfc3987_syntax"]

ROOT = Path(__file__).resolve().parent.parent


def _place(variable, needed):
    folder = os.environ.get(variable)
    if not folder or not (Path(folder) / needed).exists():
        pytest.skip(f"set {variable} to a folder that holds {needed}")
    return Path(folder)


@pytest.fixture(scope="session")
def kodak():
    "Folder of the Kodak photographs"
    return _place("QEBIAS_DATA", "kodak24") / "kodak24"


@pytest.fixture(scope="session")
def weights():
    "Folder of weight files, as QEBIAS_WEIGHTS names it"
    return _place("QEBIAS_WEIGHTS", "niqe_modelparameters.mat")


@pytest.fixture(scope="session")
def root():
    return ROOT


LONG = (
    "test_study.py",
    "test_notebooks.py",
)  # each half of the time: one process takes the first, the other the second, and both share the rest


def demonstrated_twice(items):
    "Demonstrations of `pytest -m quick` whose whole notebook is run as well"
    whole = {
        item.callspec.params["notebook"]
        for item in items
        if item.path.name == "test_notebooks.py" and hasattr(item, "callspec")
    }
    return [
        item
        for item in items
        if item.path.name == "test_quick.py"
        and hasattr(item, "callspec")
        and item.callspec.params["path"] in whole
    ]


@pytest.hookimpl(trylast=True)  # after `-m` and `-k` have chosen
def pytest_collection_modifyitems(config, items):
    twice = set(demonstrated_twice(items))
    if twice:
        config.hook.pytest_deselected(items=list(twice))
        items[:] = [item for item in items if item not in twice]
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
