"""Notebooks and commands, each in a fork of one process that has imported what most of them import

A request is a line of JSON on standard input; the line back is the exit code and the processor seconds.
Nothing of qebias is imported before the fork, unless the process is told to: a notebook imports the
package as a fresh process would. That of the commands is told to import what most of them need. What is
about imports or signals is tested in fresh processes, not here.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import execnb.shell

LONGEST = 540  # seconds of a request; then it is killed


class Warm:
    "The process, as a test sees it"

    def __init__(self, *modules: str, **environment: str):  # modules that it imports beside the usual
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, __file__, *modules]
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, **pipes)

    def ask(self, **request) -> int:  # an exit code
        "Have a request done"
        print(json.dumps(request), file=self.process.stdin, flush=True)
        code, _ = json.loads(self.process.stdout.readline())
        return code

    def notebook(self, path, log) -> int:
        "Run a notebook; what it says goes into a file"
        return self.ask(do="notebook", path=str(path), out=str(log), err=str(log))

    def call(self, place, argument, log) -> int:
        "Call a function, `module:name`; what it says goes into a file, and last what it returns"
        return self.ask(do="call", place=place, argument=str(argument), out=str(log), err=str(log))

    def command(self, *words, cwd=None, env=None) -> tuple[int, str, str]:
        "`qebias` with these words: its exit code, its standard output and its standard error"
        with tempfile.TemporaryDirectory() as folder:
            out, err = f"{folder}/out", f"{folder}/err"
            place = {"cwd": str(cwd or os.getcwd()), "env": {**os.environ, **(env or {})}}
            code = self.ask(do="command", words=[str(word) for word in words], out=out, err=err, **place)
            return code, Path(out).read_text(), Path(err).read_text()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


COMMANDS = ("cli", "codecs", "files", "inference", "methods", "networks", "pretrained", "study.profile")
STARTED = []  # at most one, which all tests of this process share


def qebias(*words, cwd=None, env=None) -> tuple[int, str, str]:
    "`qebias` with these words, in a fork of a process that this one keeps to its end"
    if not STARTED:
        STARTED.append(Warm("typer._adapters", *(f"qebias.{name}" for name in COMMANDS)))
        atexit.register(STARTED[0].end)
    return STARTED[0].command(*words, cwd=cwd, env=env)


def imported():
    "Import what most notebooks and commands do"
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import pydantic  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import typer  # noqa: F401
    from nbdev.test import test_nb

    return test_nb


def run_notebook(test_nb, path: str) -> int:
    "Its cells in order; what they show is drawn when a cell ends, and not once more for outputs nobody reads"
    execnb.shell._out_nb = lambda done, formatter: []
    with contextlib.chdir(Path(path).parent):
        ok, seconds = test_nb(Path(path), skip_flags=["notest", "cuda", "slow"], do_print=False)
    print(f"{seconds:.1f} s")
    return int(not ok)


def run_command(words, cwd, env) -> int:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["qebias", *words]
    sys.path[0] = ""
    try:
        from qebias.cli import main

        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    return 0


def call(place: str, argument: str) -> int:
    module, name = place.split(":")
    print(getattr(sys.modules[module], name)(argument))
    return 0


def become(test_nb, do: str, out: str, err: str, **request):
    "In the fork: do what was asked, and leave without tearing the interpreter down, which takes longer"
    code = 1
    try:
        signal.alarm(LONGEST)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if do == "notebook":
            code = run_notebook(test_nb, **request)
        elif do == "command":
            code = run_command(**request)
        else:
            code = call(**request)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    test_nb = imported()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # what is there is copied by no collection in a fork
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(test_nb, **json.loads(line))
        _, status, used = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([code, round(used.ru_utime + used.ru_stime, 2)]), flush=True)


if __name__ == "__main__":
    main()
