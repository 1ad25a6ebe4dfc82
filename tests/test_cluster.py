"A study on a cluster, whose SLURM is a stub on PATH"

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from test_study import PROFILE, contents

from qebias.core import QebiasError
from qebias.study import preflight, runner
from qebias.study.keys import Keys, plan, todo

RESULTS = {
    **{rule: f"names/{rule}/{{name}}.json" for rule in ("compress", "train", "enhance", "measure", "item")},
    "table": "names/table.json",
}

needs_plugin = pytest.mark.skipif(
    not importlib.util.find_spec("snakemake_executor_plugin_slurm"),
    reason="pip install snakemake-executor-plugin-slurm",
)


@pytest.fixture
def stub(tmp_path, monkeypatch):
    "A SLURM of one machine on PATH; gives the folder in which it keeps its jobs"
    bin, place = tmp_path / "bin", tmp_path / "slurm"
    bin.mkdir(), place.mkdir()
    for command in [
        "sbatch",
        "sacct",
        "squeue",
        "scancel",
        "srun",
        "sinfo",
        "scontrol",
        "sacctmgr",
        "sshare",
    ]:
        (bin / command).write_text(f"#!{sys.executable}\n" + (ROOT / "tests" / "slurm_stub.py").read_text())
        (bin / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setenv("STUB", str(place))
    yield place
    for pid in place.glob("1*/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass


@pytest.fixture
def profile(tmp_path):
    "The repository's SLURM profile with the partitions of a site, and a status check every second"
    folder = tmp_path / "site"
    shutil.copytree(ROOT / "nbs" / "study" / "slurm", folder)
    config = folder / "config.yaml"
    text = config.read_text()
    assert "  train: {runtime" in text and "# slurm_account: project " in text
    config.write_text(
        text.replace("  train: {", "  train: {slurm_partition: gpu, ").replace(
            "# slurm_account: project ", "slurm_account: project "
        )
        + "\nslurm-init-seconds-before-status-checks: 1\n"
    )
    return folder


def submissions(place):
    "rule -> the options of its submissions"
    found = {}
    for line in (place / "submitted").read_text().splitlines():
        words = shlex.split(line)
        rule = words[words.index("--comment") + 1].removeprefix("rule_").partition("_")[0]
        found.setdefault(rule, []).append(words)
    return found


def asked(words, name):
    "What follows an option, or stands after its equals sign"
    for i, word in enumerate(words):
        option, equals, rest = word.partition("=")
        if option == name:
            return rest if equals else words[i + 1]
    return None


def resolve(tmp_path, folder, *changes):
    "The few rows of the study's tests, in a folder"
    path = tmp_path / "few.yaml"
    path.write_text(PROFILE)
    return preflight.resolve(str(path), changes, out=tmp_path / folder)


def start(study, on, keep_going=False, **env):
    "Walk the graph, for jobs that are only pretended"
    study.save()
    names = list(todo(Keys(study)))
    return subprocess.run(
        runner.snakemake_command(study, names, 1, keep_going, on),
        cwd=study.folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**runner.job_environment(study), "STUB_PRETENDS": json.dumps(RESULTS), **env},
    )


@needs_plugin
def test_what_each_kind_of_job_asks_of_the_cluster(stub, profile, tmp_path):
    "Partition, GPUs, memory, hours, processors, account, folder and the study's mark, as sbatch gets them"
    study = resolve(tmp_path, "a folder/few", "device=cuda")
    done = start(study, preflight.cluster("slurm", 40, profile))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = submissions(stub)
    counts = {rule: len(jobs) for rule, jobs in found.items()}
    assert counts == {"compress": 2, "train": 4, "enhance": 4, "measure": 5, "table": 1}
    for rule, (partition, gpus, memory, minutes, processors) in {
        "compress": ("cpu", None, "32000", "720", "16"),
        "train": ("gpu", "1", "32000", "2880", "8"),
        "enhance": ("cpu", "1", "32000", "1440", "8"),
        "measure": ("cpu", "1", "32000", "1440", "8"),
    }.items():
        for words in found[rule]:
            options = ("-p", "--gpus", "--mem", "-t", "--cpus-per-task", "-A", "-D")
            wanted = [partition, gpus, memory, minutes, processors, "project", str(study.folder)]
            assert [asked(words, option) for option in options] == wanted, rule
            assert (
                asked(words, "--job-name").startswith(runner.cluster_mark(study)) and "--export=ALL" in words
            )


@needs_plugin
def test_a_submission_that_slurm_refuses_is_named_with_its_reason(stub, profile, tmp_path):
    study = resolve(tmp_path, "few")
    done = start(study, preflight.cluster("slurm", 40, profile), True, STUB_REFUSES="train")
    assert done.returncode and "train" not in submissions(stub)
    (study.folder / "logs.txt").write_text(done.stdout + done.stderr)
    text = runner.what_failed(study, runner.Progress(tmp_path / "none", 14))
    assert "Requested node configuration is not available" in text and "\n" not in text


@needs_plugin
def test_a_node_that_fails_is_named_with_its_job_counted_once_and_what_to_do(stub, profile, tmp_path):
    study = resolve(tmp_path, "few")
    done = start(study, preflight.cluster("slurm", 40, profile), True, STUB_LOSES="measure")
    assert done.returncode
    (study.folder / "logs.txt").write_text(done.stdout + done.stderr)
    progress = runner.Progress(tmp_path / "none", 16)
    progress.take({"job": "measure/sample/bpg-37/rrdb/seed-0", "state": "start", "time": 1.0})
    text = runner.what_failed(study, progress)
    assert text.startswith("5 jobs failed, 0 of 16 are done and kept: ") and "\n" not in text
    assert text.count("measure/sample/bpg-37/rrdb/seed-0: ") == 1
    assert text.count("NODE_FAIL") == 5 and text.endswith("run the same command to go on")


def test_a_cluster_that_cannot_be_used_is_one_line(stub, profile, monkeypatch):
    def refused(*args):
        with pytest.raises(QebiasError) as error:
            preflight.cluster(*args)
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install snakemake-executor-plugin-slurm" in refused("slurm", 4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert preflight.cluster("slurm", 4).profile == ROOT / "nbs" / "study" / "slurm"
    monkeypatch.setenv("PATH", "/nowhere")
    assert "finds no sbatch on this machine" in refused("slurm", 4)


def test_jobs_of_a_dead_run_are_cancelled_and_nobody_elses(stub, tmp_path):
    study, said = resolve(tmp_path, "few"), []
    jobs = {"1001": runner.cluster_mark(study) + "_1f", "1002": "qebias-00000000_1f"}
    for number, name in jobs.items():
        (stub / number).mkdir()
        (stub / number / "name").write_text(name)
        (stub / number / "pid").write_text(str(subprocess.Popen(["sleep", "60"], start_new_session=True).pid))
    runner.cancel(study, said.append)
    assert (stub / "cancelled").read_text().split() == ["1001"] and "1001" in said[0]
    runner.cancel(study, said.append)
    assert len(said) == 1


def test_a_login_node_needs_no_gpu(tmp_path):
    study = resolve(tmp_path, "few", "device=cuda:7")
    with pytest.raises(QebiasError, match="cuda:7"):
        preflight.preflight(study)
    preflight.preflight(study, on=preflight.Cluster("slurm", 1, ROOT))


@pytest.mark.slow
@needs_plugin
def test_jobs_of_the_cluster_make_the_same_bits_even_after_a_kill(stub, profile, tmp_path):
    "The submitted scripts really run; the study is killed, and cancels them when it starts again"
    here = resolve(tmp_path, "here")
    runner.run(here, cores=2, show=lambda line: None)
    folder = tmp_path / "a folder, 'quoted'" / "few"
    study, said = resolve(tmp_path, folder), []
    code = (
        "from qebias.study import preflight, runner; "
        f"runner.run(preflight.resolve({str(tmp_path / 'few.yaml')!r}, out={str(folder)!r}), "
        f"on=preflight.cluster('slurm', 3, {str(profile)!r}))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    began = time.monotonic()
    while not list((folder / "events").glob("*.jsonl")):
        assert child.poll() is None and time.monotonic() - began < 240
        time.sleep(0.2)
    child.kill()
    child.wait()
    time.sleep(1.5)  # until Snakemake has noticed
    running = runner.queued(study)
    assert running, "the cluster's jobs outlive the study"
    runner.run(study, show=said.append, on=preflight.cluster("slurm", 3, profile))
    assert (stub / "cancelled").read_text().split() == running
    assert any(line.startswith("cancelling") for line in said)
    assert dict(plan(study)) == {} and contents(folder) == contents(here.folder)
