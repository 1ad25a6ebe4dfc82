"Jobs in forks of a warm process: drawn once, waited for, and nothing left in the folder of temporary files"

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qebias.core import QebiasError
from qebias.study import jobs, runner


@pytest.fixture
def shell():
    "A shell of a job's notebook"
    outer = InteractiveShell._instance
    yield jobs.frugal_shell()
    InteractiveShell._instance = outer


class Drawn:
    "A value that counts how often it is drawn"

    times = 0

    def _repr_html_(self):
        self.times += 1
        return f"drawn {self.times}"


def test_the_value_of_a_cell_is_drawn_once(shell):
    shell.user_ns["value"] = value = Drawn()
    (shown,) = shell.run("value")
    assert value.times == 1 and shown["output_type"] == "execute_result"
    assert shown["data"]["text/html"] == ["drawn 1"]
    assert [out["data"]["text/html"] for out in shell.run("value.times = 7\nvalue")] == [["drawn 8"]]
    assert shell.run("value;") == [] and shell.run("1 + 1\nx = 2") == []


def test_outputs_are_those_of_the_shell_it_is_made_of(shell):
    from execnb.shell import CaptureShell

    plain = CaptureShell(mpl_format="png")
    for code in (
        "print('said')\n2 + 2",
        "import sys; print('wrong', file=sys.stderr)",
        "import pandas as pd; pd.DataFrame({'a': [1]})",
        "from IPython.display import HTML, display; display(HTML('b')); HTML('c')",
    ):
        assert shell.run(code) == plain.run(code)
    (_, mine), (_, theirs) = shell.run("1 / 0"), plain.run("1 / 0")
    assert mine["evalue"] == theirs["evalue"] == "division by zero"
    assert isinstance(shell.exc, ZeroDivisionError)


def test_a_command_waits_for_the_warm_process_and_not_for_one_that_is_gone(tmp_path):
    path = str(tmp_path / "socket")
    assert not jobs.listens("") and not jobs.listens(str(tmp_path / "none" / "socket"))
    assert not jobs.listens(path, patience=0.1)
    threading.Timer(0.2, Path(path).touch).start()
    began = time.monotonic()
    assert jobs.listens(path) and time.monotonic() - began < 5


def test_a_warm_process_that_ends_is_told_with_its_log(tmp_path):
    with (tmp_path / "jobs.txt").open("w") as log:
        command = [sys.executable, "-c", "pass", "--serve"]
        runner.started_process(command, tmp_path, log, dict(os.environ)).wait()
    try:
        with pytest.raises(QebiasError, match="the process that jobs start from has ended: see .*jobs.txt"):
            runner.require_warm(tmp_path)
    finally:
        runner.end_groups()


LEAVING = """
import os, sys, tempfile
from qebias.study import jobs
os.environ[jobs.SERVER] = sys.argv[1]
jobs.run_job = lambda argv: print(tempfile.mkdtemp(), flush=True) or 0
streams = [os.dup(1), os.dup(2)]
jobs.become({"argv": [], "cwd": "/", "environment": dict(os.environ)}, streams)
"""


def test_what_a_job_leaves_lies_in_the_folder_that_the_study_removes(tmp_path):
    command = [sys.executable, "-c", LEAVING, str(tmp_path / "socket")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path and tempfile.gettempdir() != str(tmp_path)
