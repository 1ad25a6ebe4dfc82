"Jobs in forks of a warm process: drawn once, waited for, and nothing left in the folder of temporary files"

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

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
        with pytest.raises(
            QebiasError, match="the process that jobs start from has ended: see .*jobs.txt; .*same command"
        ):
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


@pytest.mark.parametrize("number, words", [(9, "SIGKILL.*memory"), (7, "SIGBUS"), (119, "exit code 247")])
def test_a_killed_job_is_told_with_the_signal_and_what_to_do(monkeypatch, tmp_path, number, words):
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv(jobs.EVENTS, str(events))
    monkeypatch.setattr(jobs, "listens", lambda path: True)
    monkeypatch.setattr(jobs, "ask", lambda path, argv: 128 + number)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = jobs.main(["train/x", "--notebook", "n", "--record", "r.ipynb", "--run-dir", "d"])
    finally:
        signal.signal(signal.SIGTERM, before)
    event = json.loads(events.read_text())
    assert code == 128 + number and (event["job"], event["state"]) == ("train/x", "failed")
    assert re.search(f"{words}.*run the same command", event["text"]) and "\n" not in event["text"]


KILLED = """
import sys
from qebias.core import QebiasError
from qebias.notebooks import execute
try:
    execute(sys.argv[1], sys.argv[2])
except QebiasError as error:
    print(error)
"""


def test_a_killed_kernel_is_one_line_and_nobody_elses_stands_beside_it(tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "n.ipynb")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert "n.ipynb failed: Kernel died: its process was killed" in done.stdout
    assert done.stdout.rstrip().endswith("run it again")


def test_a_full_disk_and_a_killed_snakemake_are_told(monkeypatch, tmp_path):
    study = SimpleNamespace(folder=tmp_path)
    progress = runner.Progress(tmp_path / "events", 9, lambda line: None)
    text = runner.what_failed(study, progress, -9)
    assert text == "Snakemake was killed (SIGKILL), 0 of 9 are done and kept: run the same command to go on"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    text = runner.what_failed(study, progress)
    assert f"{tmp_path}: No space left on device" in text and text.endswith("run the same command to go on")
    failed = {"job": "train/x", "state": "failed", "text": "last.pt: No space left on device", "time": 1.0}
    progress.take(failed)
    assert runner.what_failed(study, progress).startswith("1 job failed, 0 of 9 are done and kept: train/x: ")
