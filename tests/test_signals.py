"SIGINT and SIGTERM end a command within two seconds, in the same words: while it imports, loads and works"

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qebias.cli import STOPPED
from qebias.core import write_png

BOTH = [signal.SIGINT, signal.SIGTERM]
QEBIAS = "import sys; sys.argv[0] = 'qebias'; from qebias.cli import main; main()"
NO_TURN = """
import itertools, sys
sys.argv = ["qebias", "methods"]
import qebias.cli as cli
def call(standalone_mode):
    print("on", flush=True)
    sum(itertools.repeat(0, 10**11))  # keeps the interpreter to itself, as the loading of a library does
cli.app = call
cli.main()
"""


def limit() -> float:
    "Two seconds, and what a machine with other work takes for a fifth of a second of a processor"
    wall, own = time.monotonic(), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    return 2 + 2 * (time.monotonic() - wall)


def stopped(child, number):
    "End a command by a signal; what it said, once it is known to have ended in time"
    most = limit()
    start = time.monotonic()
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert time.monotonic() - start < most
    lines = err.splitlines()
    assert f"qebias: {STOPPED}" in lines
    assert not any("Traceback" in line for line in lines)
    return child.returncode


@pytest.mark.parametrize("number", BOTH)
def test_a_call_that_gives_no_thread_a_turn_is_ended(number):
    child = subprocess.Popen(
        [sys.executable, "-c", NO_TURN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "on\n"
    assert stopped(child, number) == -signal.SIGKILL


def test_the_process_beside_a_command_goes_with_it():
    "Nothing holds the streams open, and nothing is left"
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", QEBIAS, "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.startswith("qebias ") and not done.stderr
    assert time.monotonic() - begin < 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals") / "photos"
    for i in range(24):
        rgb = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        write_png(folder / f"{i}.png", rgb)
    return folder


def commands(photos, out):
    settings = ["--set", "iterations=100000", "--set", "batch=1"]
    train = ["train", str(photos), "--method", "arcnn", "--level", "20", "-o", str(out / "t"), *settings]
    metrics = ["--metric", "ssim", "--metric", "nlpd"]
    score = ["score", "--images", str(photos), "--raw", str(photos), "-o", str(out / "s.csv"), *metrics]
    return {"train": train, "score": score}


def reached(child, phase, out) -> bool:
    "Whether a command has come so far"
    if phase == "work":
        return any(path.stat().st_size for path in (*out.rglob("stats.jsonl"), *out.rglob(".s.journal")))
    maps = Path(f"/proc/{child.pid}/maps").read_text()
    return "libtorch" in maps if phase == "import" else "_C.cpython" in maps


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("phase", ["import", "loading", "work"])
@pytest.mark.parametrize("command", ["train", "score"])
def test_commands_end_in_every_phase(tmp_path, photos, command, phase, number):
    child = subprocess.Popen(
        [sys.executable, "-c", QEBIAS, *commands(photos, tmp_path)[command]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not reached(child, phase, tmp_path):
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    assert stopped(child, number) in (128 + number, -signal.SIGKILL)
    assert not list(tmp_path.rglob(".qebias-unfinished-*/*.csv"))
