"""A SLURM of one machine: sbatch starts the job here at once, the others tell of it.

$STUB keeps what was submitted.

Copied under each command's name into a folder on PATH; which one it is, its name says. With $STUB_PRETENDS
(JSON: rule -> path of its result, with the wildcards' names in braces) no job runs: an empty result is
written in its place. $STUB_REFUSES names a rule that sbatch refuses, $STUB_LOSES one whose nodes fail.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

PLACE, COMMAND, ARGUMENTS = Path(os.environ["STUB"]), Path(sys.argv[0]).name, sys.argv[1:]


def value(*names):
    "What follows an option, or stands after its equals sign"
    for i, word in enumerate(ARGUMENTS):
        name, equals, rest = word.partition("=")
        if name in names:
            return rest if equals else ARGUMENTS[i + 1]


def sbatch():
    if f"rule_{os.environ.get('STUB_REFUSES')}_" in value("--comment"):
        sys.exit("sbatch: error: Batch job submission failed: Requested node configuration is not available")
    with (PLACE / "submitted").open("a") as log:
        log.write(shlex.join(ARGUMENTS) + "\n")
    number = 1000 + len((PLACE / "submitted").read_text().splitlines())
    output = Path(value("--output").replace("%j", str(number)))
    output.parent.mkdir(parents=True, exist_ok=True)
    job = PLACE / str(number)
    job.mkdir()
    (job / "name").write_text(value("--job-name"))
    if "STUB_PRETENDS" in os.environ:
        return pretend(number, job)
    state = shlex.quote(str(job / "state"))
    ended = "[ $code = 0 ] && echo COMPLETED || echo FAILED;"
    script = f"{value('--wrap')}\ncode=$?; [ -e {state} ] || {{ {ended} }} > {state}"
    child = subprocess.Popen(
        ["sh", "-c", script],
        cwd=value("-D"),
        stdin=subprocess.DEVNULL,
        stdout=output.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "SLURM_JOB_ID": str(number), "SLURM_NODELIST": "node1"},
    )
    (job / "pid").write_text(str(child.pid))
    print(number)


def pretend(number, job):
    rule, _, wildcards = re.search(r"--target-jobs '([^']+)'", value("--wrap"))[1].partition(":")
    if rule == os.environ.get("STUB_LOSES"):
        (job / "state").write_text("NODE_FAIL")
        print(number)
        return
    result = Path(value("-D")) / json.loads(os.environ["STUB_PRETENDS"])[rule].format(
        **dict(w.split("=", 1) for w in wildcards.split(",") if w)
    )
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text("{}")
    (job / "state").write_text("COMPLETED")
    print(number)


def states():
    for job in sorted(PLACE.glob("1*")):
        name, state = (job / "name").read_text(), job / "state"
        if value("--name") in (None, name):
            yield job, name, state.read_text().strip() if state.exists() and state.read_text() else "RUNNING"


def sacct():
    if "--format=JobIdRaw,State" in ARGUMENTS:
        print(*(f"{job.name}|{state}" for job, _, state in states()), sep="\n")


def squeue():
    print(*(f"{job.name} {name}" for job, name, state in states() if state == "RUNNING"), sep="\n")


def scancel():
    for number in (a for a in ARGUMENTS if a.isdigit()):
        with (PLACE / "cancelled").open("a") as log:
            log.write(number + "\n")
        if not (PLACE / number / "state").exists():
            (PLACE / number / "state").write_text("CANCELLED")
        try:
            os.killpg(int((PLACE / number / "pid").read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


def srun():
    command = [a for i, a in enumerate(ARGUMENTS) if not all(w.startswith("-") for w in ARGUMENTS[: i + 1])]
    os.execvp(command[0], command)


def sinfo():
    print("PARTITION\ncpu*\ngpu")


def scontrol():
    print("MinJobAge = 300 sec\nMaxArraySize = 1001")


def sacctmgr():
    print("project")


def sshare():
    print("project")


globals()[COMMAND]()
