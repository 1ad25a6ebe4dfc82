"A study on a cluster, whose SLURM is a stub on PATH; and a study that is killed ten times"

import importlib.util
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT

from qebias import runner
from qebias.claims import read_claims
from qebias.core import QebiasError
from qebias.study import ITEMS, Study

QEBIAS = [sys.executable, "-c", "from qebias.cli import main; main()"]
THREE = "methods=[arcnn, rrdb, realesrgan]"
COMMAND = [
    *QEBIAS,
    "study",
    "smoke",
    "--set",
    THREE,
    "--only",
    "obs1",
    "--only",
    "obs2",
    "--cores",
    "2",
    "--out",
]  # ten jobs
RESULTS = {
    "compress": "pairs/{dataset}/{codec}-{level}/manifest.json",
    "train": Study.TRAIN,
    "evaluate": Study.EVALUATE,
    "item": "items/{item}/claims.json",
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
    return next(
        (
            w.partition("=")[2] if "=" in w else words[i + 1]
            for i, w in enumerate(words)
            if w.partition("=")[0] == name
        ),
        None,
    )


def start(study, on, *more, **env):
    "Walk the graph without a kernel, for jobs that are only pretended"
    study.save()
    return subprocess.run(
        runner.snakemake_command(study, 1, (), *more, on=on),
        cwd=study.folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "STUB_PRETENDS": json.dumps(RESULTS), **env},
    )


@needs_plugin
def test_what_each_kind_of_job_asks_of_the_cluster(stub, profile, tmp_path):
    "Every job of a study for GPUs, as sbatch gets it: partition, GPUs, memory, hours, processors, account, folder, the study's mark"
    study = runner.resolve("smoke", [THREE, "device=cuda"], out=tmp_path / "a folder" / "smoke")
    done = start(study, runner.cluster("slurm", 40, profile))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = submissions(stub)
    assert {rule: len(jobs) for rule, jobs in found.items()} == {
        "compress": 2,
        "train": 3,
        "evaluate": 4,
        "item": len(ITEMS),
    }
    for rule, (partition, gpus, memory, minutes, processors) in {
        "compress": ("cpu", None, "32000", "720", "16"),
        "train": ("gpu", "1", "32000", "2880", "8"),
        "evaluate": ("cpu", "1", "32000", "1440", "8"),
        "item": ("cpu", None, "16000", "60", "4"),
    }.items():
        for words in found[rule]:
            assert [
                asked(words, o) for o in ("-p", "--gpus", "--mem", "-t", "--cpus-per-task", "-A", "-D")
            ] == [partition, gpus, memory, minutes, processors, "project", str(study.folder)], rule
            assert asked(words, "--job-name").startswith(runner._mark(study)) and "--export=ALL" in words
            assert f"--snakefile {ROOT / 'nbs' / 'study' / 'Snakefile'}" in asked(words, "--wrap").replace(
                "'", ""
            )


@needs_plugin
def test_a_submission_that_slurm_refuses_is_named_with_its_reason(stub, profile, tmp_path):
    study = runner.resolve("smoke", [THREE], out=tmp_path / "smoke")
    done = start(study, runner.cluster("slurm", 40, profile), True, STUB_REFUSES="train")
    assert done.returncode
    text = runner._what_failed(runner.Progress(tmp_path / "none", 14), done.stdout + done.stderr)
    assert (
        "train/bpg-37/rrdb/seed-0/result.json: SLURM sbatch failed." in text
        and "Requested node configuration is not available" in text
        and "logs/train-rrdb-bpg-37-0.ipynb" in text
    )
    assert (
        text.startswith("2 jobs failed")
        and "train" not in submissions(stub)
        and len(submissions(stub)["evaluate"]) == 1
    )  # realesrgan waits for rrdb


def test_a_cluster_that_cannot_be_used_is_one_line(stub, profile, monkeypatch):
    def refused(*args):
        with pytest.raises(QebiasError) as error:
            runner.cluster(*args)
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install snakemake-executor-plugin-slurm" in refused("slurm", 4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert runner.cluster("slurm", 4).profile == ROOT / "nbs" / "study" / "slurm"
    monkeypatch.setenv("PATH", "/nowhere")
    assert "finds no sbatch on this machine" in refused("slurm", 4)


def test_jobs_of_a_dead_run_are_cancelled_and_nobody_elses(stub, tmp_path):
    study, said = runner.resolve("smoke", out=tmp_path / "smoke"), []
    jobs = {"1001": runner._mark(study) + "_1f", "1002": "qebias-00000000_1f"}
    for number, name in jobs.items():
        (stub / number).mkdir()
        (stub / number / "name").write_text(name)
        (stub / number / "pid").write_text(str(subprocess.Popen(["sleep", "60"], start_new_session=True).pid))
    runner._cancel(study, said.append)
    assert (stub / "cancelled").read_text().split() == ["1001"] and "1001" in said[0]
    runner._cancel(study, said.append)
    assert len(said) == 1


def test_a_login_node_needs_no_gpu(stub, monkeypatch):
    study = runner.resolve("smoke", ["device=cuda:7"])
    assert any("cuda:7" in line for line in runner.problems(study))
    assert runner.problems(study, on=runner.Cluster("slurm", 1, ROOT)) == []


# Kills. Trainings here are one thread long, so that their bits do not depend on who computed them when.


def same(whole, other, paths):
    "Weights, tables and claims of two studies, bit for bit"
    import numpy as np
    import pandas as pd

    from qebias.networks import load_state

    assert paths
    for path in paths:
        here, there = whole / path, other / path
        if path.suffix == ".safetensors":
            a, b = load_state(here), load_state(there)
            assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a), path
        elif path.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(here), pd.read_parquet(there), check_exact=True)
        elif path.suffix == ".npz":
            with np.load(here) as a, np.load(there) as b:
                assert a.files == b.files and all(
                    a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a.files
                ), path
        elif path.suffix == ".png":
            assert here.read_bytes() == there.read_bytes(), path
        else:
            assert [c.model_dump() for c in read_claims(here)] == [
                c.model_dump() for c in read_claims(there)
            ], path


def results_of(folder, items="*"):
    found = [
        p for kind in ("*.safetensors", "*.parquet", "*.npz", "enhanced/*.png") for p in folder.rglob(kind)
    ] + list(folder.glob(f"items/{items}/claims.json"))
    return sorted(p.relative_to(folder) for p in found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A study that nobody disturbed"
    folder = tmp_path_factory.mktemp("whole") / "smoke"
    done = subprocess.run([*COMMAND, str(folder)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_study_ends_in_the_same_bits(whole, tmp_path):
    "Half of the kills hit the study's own process, whose jobs must then end by themselves; the other half hit all processes at once, as a power cut does"
    folder, moments, working = tmp_path / "killed", random.Random(), 0
    seed = moments.randrange(10**6)
    moments.seed(seed)
    print("seed of the moments:", seed)
    for kill in range(10):
        (folder / "events.jsonl").unlink(missing_ok=True)  # so that it tells of this life
        child = subprocess.Popen(
            [*COMMAND, str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        begun = time.monotonic()
        while (
            child.poll() is None and not (folder / "events.jsonl").exists() and time.monotonic() - begun < 120
        ):
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 9))
        family = (
            [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            if child.poll() is None
            else []
        )
        working += len(family) > 2
        for process in family if kill % 2 else family[:1]:
            process.kill()
        child.wait()
        assert psutil.wait_procs(family, timeout=60)[1] == [], "a kill leaves nothing running"
        assert not (folder / "report" / "index.html").exists() or not family, "nothing that looks finished"
    assert working >= 5, "most kills must hit a study at work"
    done = subprocess.run([*COMMAND, str(folder)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(results_of(whole)) > 15 and results_of(folder) == results_of(whole)
    same(whole, folder, results_of(whole))
    assert runner.plan(Study.open(run_dir=str(folder)), ["obs1", "obs2"]) == {}


@pytest.mark.slow
def test_a_study_in_another_place_replans_nothing(whole, tmp_path):
    "A copy, as a fresh clone or another disk makes it: new times, another path"
    shutil.copytree(whole, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert runner.plan(Study.open(run_dir=str(tmp_path / "elsewhere")), ["obs1", "obs2"]) == {}


@pytest.mark.slow
@needs_plugin
def test_jobs_of_the_cluster_make_the_same_bits_even_after_a_kill(stub, profile, whole, tmp_path):
    "The submitted scripts really run; the study is killed while two of them do, and cancels them when it is started again"
    folder = tmp_path / "a folder, 'quoted'" / "smoke"
    study, on, said = runner.resolve("smoke", [THREE], out=folder), runner.cluster("slurm", 3, profile), []
    code = f"from qebias import runner; runner.run(runner.resolve('smoke', ['{THREE}'], out={str(folder)!r}), ['obs1'], on=runner.cluster('slurm', 3, {str(profile)!r}))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begun = time.monotonic()
    while not (folder / "events").exists() or not list((folder / "events").iterdir()):
        assert child.poll() is None and time.monotonic() - begun < 240
        time.sleep(0.2)
    child.kill()
    child.wait()
    time.sleep(1.5)  # until Snakemake has noticed
    running = runner._queued(study)
    assert running, "the cluster's jobs outlive the study"
    claims = runner.run(study, ["obs1"], show=said.append, on=on)
    assert (stub / "cancelled").read_text().split() == running and any(
        line.startswith("cancelling") for line in said
    )
    assert sum(line.startswith("[") for line in said) == 7 and claims, said
    paths = [p for p in results_of(whole, "obs1") if "arcnn" not in p.parts]
    assert paths == results_of(folder)
    same(whole, folder, paths)
