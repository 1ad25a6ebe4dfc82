"Places of what not every machine has: real photographs and weights"

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two test processes share the cores, so neither may take them all
# The package is compiled once, and not anew by each of hundreds of processes that a test starts
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
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


LONG = (  # as `tests/benchmarks/suite.py` finds them
    "test_study.py",
    "test_notebooks.py",
    "test_inference.py",
    "test_training.py",
    "test_export.py",
    "test_cli.py",
    "test_audit.py",
    "test_pages.py",
    "test_pretrained.py",
    "test_faults.py",
)  # the longest come first: a long one at the end would keep one process while the other has nothing to do


def torch_settings():
    "What torch computes by in this process, and every test file after this one with it"
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    backends = torch.backends
    said = {
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "oneDNN": backends.mkldnn.enabled,
        "cuDNN": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
    }
    if hasattr(backends, "fp32_precision"):
        operations = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.conv)
        said["fp32"] = [operation.fp32_precision for operation in operations]
    return said


@pytest.fixture(scope="module", autouse=True)
def what_torch_is_left_with(request):
    """A file of tests leaves torch as it found it, whatever the order of the files

    Where a precision stayed behind, an export to ONNX failed halfway, oneDNN stayed off after it, and an NLPD
    five files later had other last digits than in a fresh process."""
    before = torch_settings()
    yield
    after = torch_settings()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, f"{request.path.name} leaves torch changed, (before, after): {changed}"


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
