"The study's promises: nothing lost, nothing stale, nothing of others; on one small study that is run once"

import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

from qebias.core import QebiasError
from qebias.notebooks import parameters
from qebias.study import runner
from qebias.study.jobs import PARENT
from qebias.study.keys import Keys, Study, items, plan, todo
from qebias.study.preflight import resolve
from qebias.study.profile import load_profile, profiles
from qebias.study.results import load
from qebias.study.runner import prune_study, run, verify
from qebias.study.store import seal

STUDY = ROOT / "nbs" / "study"
QEBIAS = [sys.executable, "-c", "from qebias.cli import main; main()"]
PROFILE = """
summary: A few rows, a few iterations; its numbers mean nothing
items: []
methods: [dncnn, rrdb, realesrgan, realesrgan+both]
networks:
  DnCNN: {width: 16, depth: 6}  # ARCNN has one size, and takes ten times as long
  RRDBNet: {width: 8, blocks: 1, growth: 4}  # counted before, as all of these: `nbs/study/costs.json`
  UNetSN: {width: 4}
patch: 64
training:
  fidelity: {iterations: 4, batch: 1, lr: 1.0e-3, ema: 0.5}
  adversarial: {iterations: 3, batch: 1, lr: 1.0e-4, ema: 0.5, projection: edges, d_init_iterations: 1}
psi: random-w4-s0
metrics: [psnr]
distances: [rmse]
threads: 1
log_every: 1
"""


def qebias(*args, **more):
    return subprocess.run([*QEBIAS, *map(str, args)], capture_output=True, text=True, timeout=900, **more)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profiles") / "few.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def again():
    "Runs a study whose jobs are forked from one warm process, which all the tests here share"
    with tempfile.TemporaryDirectory(prefix="qebias-") as folder:  # a socket's path is short
        path = f"{folder}/socket"
        command = [sys.executable, "-P", "-m", "qebias.study.jobs", "--serve", path]
        environment = {**os.environ, PARENT: f"{socket.gethostname()}:{os.getpid()}"}
        warm = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        yield functools.partial(run, cores=2, show=lambda line: None, server=path)
        warm.terminate()
        warm.wait()


@pytest.fixture(scope="module")
def finished(profile, tmp_path_factory, again):
    "A study that has been run, with files of the user's beside it"
    folder = tmp_path_factory.mktemp("runs") / "a folder"
    again(resolve(str(profile), out=folder))
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    "A copy of it, to be harmed"
    shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    return tmp_path / "copy"


def planned(profile, folder, *changes):
    return dict(plan(resolve(str(profile), changes, out=folder)))


def contents(folder):
    "Digests of every part of every result, by the name that leads to it"
    found = {}
    for path in sorted((folder / "names").rglob("*.json")):
        result = json.loads((folder / json.loads(path.read_text())["result"] / "result.json").read_text())
        found[path.relative_to(folder).as_posix()] = result.get("content") or result["parts"]
    return found


# Identity


def test_a_finished_study_plans_nothing(finished, profile):
    assert planned(profile, finished) == {}


def test_a_copy_without_dot_files_and_with_other_times_plans_nothing(copy, profile):
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    assert not (copy / ".snakemake").exists() and planned(profile, copy) == {}


def test_an_archive_at_another_place_plans_nothing(copy, profile, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "run"), "tar", copy)
    shutil.unpack_archive(packed, tmp_path / "elsewhere")
    assert planned(profile, tmp_path / "elsewhere") == {}


def test_a_changed_network_plans_its_trainings_in_a_copy_too(copy, profile):
    jobs = planned(profile, copy, "networks.RRDBNet.width=4")
    assert jobs == {"train": 3, "enhance": 3, "measure": 3, "table": 1}


def test_a_changed_rate_and_back_plans_nothing(copy, profile, again):
    again(resolve(str(profile), ["training.adversarial.lr=5e-4"], out=copy))
    assert planned(profile, copy) == {}
    assert planned(profile, copy, "training.adversarial.lr=5e-4") == {}


def test_an_added_metric_costs_its_own_column_and_an_order_nothing(copy, profile, again):
    before = {p.name for p in (copy / "results" / "column").iterdir()}
    assert planned(profile, copy, "metrics=[psnr, ssim]") == {"measure": 5, "table": 1}
    again(resolve(str(profile), ["metrics=[psnr, ssim]"], out=copy))
    added = {p.name for p in (copy / "results" / "column").iterdir()} - before
    columns = {
        json.loads((copy / "results" / "column" / name / "result.json").read_text())["column"]
        for name in added
    }
    assert columns == {"ssim"} and len(added) == 5
    assert planned(profile, copy, "metrics=[ssim, psnr]") == {}


def test_controls_after_a_row_cost_their_own_jobs_and_stand_in_the_table(copy, profile, again):
    change = "controls_after=[realesrgan]"
    assert planned(profile, copy, change) == {"enhance": 2, "measure": 2, "table": 1}
    assert (
        planned(profile, copy, change, "seeds=[0, 1]")["enhance"] == 8
    )  # four trained rows, and both controls twice
    again(resolve(str(profile), [change], out=copy))
    table = load("few", str(copy)).table
    added = {"control:noise2:realesrgan", "control:sharper:realesrgan"}
    assert added <= set(table.row)
    assert set(table.trained_on[table.row.isin(added)]) == {"bpg-37"}  # as their row is
    found = table[table.quantity == "re:rmse"].groupby("row").value.mean()
    assert found["control:noise2:realesrgan"] > found["realesrgan"]  # noise is no way to raw
    with pytest.raises(QebiasError, match="controls_after: esrgan is no row of the profile"):
        resolve(str(profile), ["controls_after=[esrgan]"], out=copy)


def test_device_threads_and_labels_decide_nothing(finished, profile):
    assert planned(profile, finished, "threads=2") == {}
    assert planned(profile, finished, "summary=other words") == {}


def test_another_seed_or_precision_is_another_training(finished, profile):
    assert planned(profile, finished, "seeds=[0, 1]")["train"] == 4
    assert planned(profile, finished, "precision=bf16")["train"] == 4


def generator_of(folder, name="train/bpg-37/rrdb/seed-0"):
    found = json.loads((folder / "names" / f"{name}.json").read_text())
    return folder / found["result"] / "generator.safetensors"


MODEL_AS_START = [
    "training.rrdb.start=model:jpeg",
    "networks.RRDBNet={class: 'qebias.generators.dncnn:DnCNN', width: 64, depth: 15, unshuffle: 2}",
    "methods=[rrdb]",
    "training.fidelity={iterations: 1, batch: 1, lr: 1.0e-9}",
]


def test_a_training_starts_from_a_model_whose_content_decides(profile, tmp_path, again, monkeypatch):
    from safetensors.torch import load_file

    from qebias import pretrained
    from qebias.study.results import cell_identities

    study = resolve(str(profile), MODEL_AS_START, out=tmp_path / "s")
    again(study)
    assert not plan(study)
    before = load_file(pretrained.HOME / "jpeg.safetensors")
    after = load_file(generator_of(tmp_path / "s"))
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-6
    fresh = resolve(str(profile), MODEL_AS_START[1:], out=tmp_path / "s")
    assert dict(plan(fresh))["train"] == 1
    told = cell_identities(study)
    content = bytearray((pretrained.HOME / "jpeg.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "jpeg.safetensors").write_bytes(content)
    monkeypatch.setattr(pretrained, "HOME", tmp_path)
    pretrained.models.cache_clear()
    study = resolve(str(profile), MODEL_AS_START, out=tmp_path / "s")
    assert dict(plan(study))["train"] == 1 and cell_identities(study) != told
    monkeypatch.undo()
    pretrained.models.cache_clear()


def test_a_model_that_is_not_there_or_does_not_fit_is_told(profile, tmp_path, again):
    for change, words in {
        "model:jpg": "model:jpg is no model.*did you mean jpeg",
        "model:a/b.safetensors": "no model",
    }.items():
        with pytest.raises(QebiasError, match=words):
            resolve(str(profile), [f"training.rrdb.start={change}"], out=tmp_path / "s")
    study = resolve(str(profile), MODEL_AS_START[::2], out=tmp_path / "s")
    with pytest.raises(QebiasError, match=r"1 job failed.*RRDBNet: "):
        again(study)


def test_packages_that_differ_are_told(copy, profile, again):
    study = resolve(str(profile), out=copy)
    path = study.store.named("train/bpg-37/rrdb/seed-0") / "result.json"
    result = json.loads(path.read_text())
    result["provenance"]["packages"]["torch"] = "0.4.1"
    seal(path.parent, {k: v for k, v in result.items() if k != "seal"})
    said = []
    again(study, show=said.append)
    assert any("torch 0.4.1" in line and "train/bpg-37/rrdb/seed-0" in line for line in said)


# Nothing is deleted


def test_a_users_files_in_the_run_folder_stay(copy, profile, again):
    own = {"report/notes.html": "mine", "pictures/a.txt": "mine", "table.csv": "mine"}
    for name, text in own.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text)
    again(resolve(str(profile), ["training.dncnn.lr=5e-4"], out=copy))
    assert {name: (copy / name).read_text() for name in own} == own


@pytest.mark.parametrize("name", ["events", "report", "results"])
def test_a_folder_that_holds_somebody_elses_files_is_refused(profile, tmp_path, name):
    (tmp_path / "s" / name).mkdir(parents=True)
    (tmp_path / "s" / name / "index.html").write_text("mine")
    with pytest.raises(QebiasError, match="choose another folder"):
        run(resolve(str(profile), out=tmp_path / "s"), show=lambda line: None)
    assert (tmp_path / "s" / name / "index.html").read_text() == "mine"


def test_a_dry_run_leaves_nothing_behind(profile, tmp_path):
    done = qebias("study", profile, "--out", tmp_path / "s", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "16 jobs (2 compress, 4 train, 4 enhance, 5 measure, 1 table)" in done.stdout
    assert not (tmp_path / "s").exists()


def test_pruning_lists_first_and_removes_what_no_setting_means(copy, profile, again):
    again(resolve(str(profile), ["training.dncnn.lr=5e-4"], out=copy))
    old, new = resolve(str(profile), out=copy), resolve(str(profile), ["training.dncnn.lr=5e-4"], out=copy)
    assert dict(plan(old)) == {} and dict(plan(new)) == {}
    said = []
    prune_study(new, show=said.append)
    assert any("results/train/" in line for line in said) and "--yes" in said[-1]
    assert dict(plan(old)) == {}, "listed, and still there"
    prune_study(new, yes=True, show=said.append)
    assert dict(plan(new)) == {} and plan(old)["train"] == 1


# Damage


def parts(folder):
    "One file of each kind of result"
    kinds = {
        "raw": "pixels.bin",
        "compress": "pixels.bin",
        "train": "generator.safetensors",
        "enhance": "*.png",
        "column": "values.parquet",
        "table": "table.parquet",
    }
    for kind, pattern in kinds.items():
        yield next(p for p in sorted((folder / "results" / kind).glob(f"*/{pattern}")))
    yield next(p for p in sorted((folder / "results" / "train").glob("*/discriminator.safetensors")))
    yield next(p for p in sorted((folder / "results" / "compress").glob("*/manifest.json")))


def test_flipped_bits_are_noticed_and_healed(copy, profile, again):
    study, before = resolve(str(profile), out=copy), contents(copy)
    dice = random.Random(0)
    for path in parts(copy):
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
    jobs = plan(study)
    assert jobs["compress"] and jobs["train"] and jobs["enhance"] and jobs["measure"] and jobs["table"], jobs
    assert verify(study, show=lambda line: None) >= 7
    again(study)
    assert contents(copy) == before and dict(plan(study)) == {}


def test_a_flipped_bit_in_a_result_file_is_noticed_wherever_it_is(copy, profile):
    study, dice = resolve(str(profile), out=copy), random.Random(2)
    for path in sorted((copy / "results").glob("*/*/result.json"))[::4]:
        whole = path.read_bytes()
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        assert todo(Keys(study)), path
        path.write_bytes(whole)


def test_a_damaged_curve_is_told_and_no_reason_to_train_again(copy, profile):
    study, said = resolve(str(profile), out=copy), []
    path = study.store.named("train/bpg-37/rrdb/seed-0") / "stats.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert dict(plan(study)) == {}
    assert verify(study, show=said.append) == 1 and "stats.jsonl is damaged" in said[0]


@pytest.mark.parametrize("harm", ["missing", "empty", "another picture"])
def test_a_lost_part_is_made_again_alone(copy, profile, again, harm):
    study, before = resolve(str(profile), out=copy), contents(copy)
    folder = study.store.named("enhance/sample/bpg-37/rrdb/seed-0")
    picture, other = sorted(folder.glob("*.png"))[:2]
    if harm == "missing":
        picture.unlink()
    if harm == "empty":
        picture.write_bytes(b"")
    if harm == "another picture":
        picture.write_bytes(other.read_bytes())
    assert dict(plan(study)) == {"enhance": 1}
    again(study)
    assert contents(copy) == before


def test_a_lost_generator_is_trained_again_and_what_was_made_of_it_is_taken_up(copy, profile, again):
    study, before = resolve(str(profile), out=copy), contents(copy)
    (study.store.named("train/bpg-37/rrdb/seed-0") / "generator.safetensors").unlink()
    assert dict(plan(study)) == {"train": 1}
    said = []
    again(study, show=said.append)
    assert contents(copy) == before and "nothing to do" in said[-2]


def test_a_broken_result_file_is_no_result(copy, profile):
    study = resolve(str(profile), out=copy)
    for text in (
        "",
        "{",
        "[]",
        '{"key": 1}',
        '{"key": "x", "parts": {"../../a": {"bytes": 1, "sha256": "0"}}}',
    ):
        (study.store.named("train/bpg-37/dncnn/seed-0") / "result.json").write_text(text)
        assert plan(study)["train"] == 1


# A profile can say everything


SWEEP = """
items: []
methods: [rrdb, realesrgan+both]
rows:
  both-0: {of: realesrgan+both, weights: {divergence: 0}}
  both-0.03: {of: realesrgan+both, weights: {divergence: 0.03}}
  both-0.3: {of: realesrgan+both, weights: {divergence: 0.3}}
  both-1: {of: realesrgan+both, weights: {divergence: 1}}
  gradients: {of: realesrgan, terms: [{name: edges, weight: 0.5, function: "own_term:Gradients"}]}
networks: {RRDBNet: {width: 4, blocks: 1, growth: 4}, UNetSN: {width: 4}}
patch: 64
training:
  fidelity: {iterations: 2, batch: 1}
  adversarial: {iterations: 2, batch: 1}
psi: random-w4-s0
metrics: [psnr]
distances: [rmse]
threads: 1
trust: ["own_term:Gradients"]
"""
TERM = '''
class Gradients:
    "Mean absolute difference of neighbouring pixels' differences"

    def __call__(self, given):
        def rows(x):
            return x[..., 1:, :] - x[..., :-1, :]

        return (rows(given.enhanced) - rows(given.raw)).abs().mean()
'''


@pytest.mark.thorough
def test_a_sweep_over_lambda_and_a_loss_of_ones_own_from_one_profile(tmp_path):
    assert len(SWEEP.strip().splitlines()) < 25
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "own_term.py").write_text(TERM)
    places = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = ["study", tmp_path / "sweep.yaml", "--out", tmp_path / "s"]
    env = {**os.environ, "PYTHONPATH": places}
    done = qebias(*command, "--dry-run", env=env)
    assert done.returncode == 1 and "own_term:Gradients" in done.stderr and "say --trust" in done.stderr
    done = qebias(*command, "--trust", env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = load("sweep", str(tmp_path / "s")).table
    assert {"both-0", "both-0.03", "both-0.3", "both-1", "realesrgan+both", "gradients"} <= set(table.row)


def test_numbers_are_those_of_yaml_1_2_and_keys_have_neighbours(profile):
    for change, words in {
        "codecs.bpg=[037]": "037",
        "patch=1:30": "patch",
        "threads=true": "threads",
        "training.adversarial.itertions=3": "did you mean iterations",
        "metric=[psnr]": "did you mean metrics",
        "training.realesrgam.lr=1": "did you mean realesrgan",
        "methods=[realesrgan]": "starts from rrdb",
    }.items():
        with pytest.raises(QebiasError, match=words):
            resolve(str(profile), [change])
    assert resolve(str(profile), ["codecs.bpg=32"]).levels == [("bpg", 32)]


@pytest.mark.parametrize("name", profiles())
def test_every_profile_of_the_checkout_is_a_study(name):
    study = Study(load_profile(name), "unused")
    assert study.rows and set(study.items) <= set(items())


# Nothing in a run folder is executed


def test_modules_in_a_run_folder_are_never_imported(copy, profile, tmp_path):
    "The command itself is started as its script is, by -P; what it starts has to see to itself"
    told = tmp_path / "told"
    for name in ("yaml", "random", "pickle", "snakemake", "torch", "qebias"):
        (copy / f"{name}.py").write_text(f"open({str(told)!r}, 'w').close()\nraise SystemExit(3)\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [QEBIAS[0], "-P", *QEBIAS[1:], "study", str(profile), "--out", str(copy)]
    for more in (["--dry-run"], ["--set", "training.dncnn.lr=5e-4"]):  # trains, enhances, measures, tables
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=900, cwd=copy, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert not told.exists()


# Kills


def start(profile, folder):
    command = [*QEBIAS, "study", str(profile), "--out", str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def left_over(folder):
    "Processes that still name the folder"
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_soon(profile, tmp_path, how):
    child = start(profile, tmp_path / "s")
    while not list((tmp_path / "s" / "events").glob("*.jsonl")):
        time.sleep(0.1)
    began = time.monotonic()
    child.send_signal(how)
    child.wait(10)
    assert time.monotonic() - began < 2.5  # of a machine that has other work as well
    while left_over(tmp_path / "s") and time.monotonic() - began < 5.5:
        time.sleep(0.1)
    assert left_over(tmp_path / "s") == []


def test_processes_that_do_not_listen_are_ended_together(tmp_path):
    "Two of them take as long as one"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "print('on', flush=True); time.sleep(60)"
    logs = [tmp_path / "a", tmp_path / "b"]
    for log in logs:
        with log.open("w") as out:
            runner.started_process([sys.executable, "-c", deaf], tmp_path, out, dict(os.environ))
    while not all(log.read_text() for log in logs):
        time.sleep(0.02)
    children, began = list(runner.RUNNING), time.monotonic()
    runner.end_groups(0.5)
    assert 0.5 <= time.monotonic() - began < 1.5 and runner.RUNNING == []
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 2


@pytest.mark.slow
def test_killed_at_random_moments_a_study_ends_in_the_same_bits(finished, profile, tmp_path):
    dice = random.Random(1)
    for _ in range(20):
        child = start(profile, tmp_path / "s")
        time.sleep(dice.uniform(2, 15))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    time.sleep(3)
    run(resolve(str(profile), out=tmp_path / "s"), cores=2, show=lambda line: None)
    assert contents(tmp_path / "s") == contents(finished)


def forks(pid):
    "The jobs that a study runs: children of its warm process"
    found = []
    for child in children(pid):
        if "--serve" in Path(f"/proc/{child}/cmdline").read_text():
            found += children(child)
    return found


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.slow
def test_a_training_that_is_killed_is_told_in_one_line_counted_once_and_goes_on(profile, tmp_path):
    command = [*QEBIAS, "study", str(profile), "--out", str(tmp_path / "s"), "--cores", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    events = tmp_path / "s" / "events" / "events.jsonl"
    while not events.exists() or '"train/' not in events.read_text():
        assert child.poll() is None
        time.sleep(0.02)
    for pid in forks(child.pid):
        os.kill(pid, signal.SIGKILL)
    told = child.communicate(timeout=60)[1].splitlines()
    assert child.returncode == 1 and len(told) == 1
    assert told[0].startswith("qebias: 1 job failed, ") and told[0].count("was killed (SIGKILL)") == 1
    assert "run the same command to go on" in told[0]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_failed_job_is_named_and_the_rest_is_kept(profile, tmp_path, again):
    changes = ["methods=[dncnn, rrdb]", "training.dncnn.lr=1.0e30"]
    study = resolve(str(profile), changes, out=tmp_path / "s")
    with pytest.raises(QebiasError, match=r"1 job failed.*train/bpg-37/dncnn/seed-0.*not finite"):
        again(study, keep_going=True)
    waiting = todo(Keys(study))
    assert "train/bpg-37/dncnn/seed-0" in waiting
    assert not {"train/bpg-37/rrdb/seed-0", "measure/sample/bpg-37/rrdb/seed-0"} & waiting.keys()


# The notebooks of the study, as notebooks

NOTEBOOKS = sorted(p for p in STUDY.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_contract_of_a_study_notebook(notebook):
    book = nbformat.read(notebook, 4)
    code = [c for c in book.cells if c.cell_type == "code"]
    assert len([c for c in code if "parameters" in c.metadata.get("tags", [])]) == 1
    assert {"profile", "run_dir"} <= parameters(notebook).keys()
    for c in code:
        assert len(c.source.splitlines()) <= 25, c.source
        assert "def " not in c.source and "class " not in c.source, "a study notebook defines nothing"


def test_every_study_notebook_is_an_item_and_has_its_question_as_title():
    known = {item.notebook: item for item in items().values()}
    found = {p.stem for p in STUDY.glob("*.ipynb")}
    assert found == set(known)
    for name, item in known.items():
        first = nbformat.read(STUDY / f"{name}.ipynb", 4).cells[0].source.splitlines()[0]
        assert first == f"# {item.question}"


# --- publishing: a batch that was run later joins what is there ---


def bank_of(iterations):
    from qebias.study.preflight import resolve

    return resolve("smoke", [f"bank.iterations={iterations}"])


def cells_of(study, value):
    "A table with one value of each row and seed"
    import pandas as pd

    from qebias.study.results import cell_identities

    lines = [(*name.rsplit(" ", 1), value) for name in cell_identities(study)]
    frame = pd.DataFrame(lines, columns=["row", "seed", "value"])
    return frame.assign(seed=frame["seed"].astype(int))


def test_a_longer_bank_alone_takes_the_place_of_the_old_one_and_of_nothing_else():
    from qebias.study.results import cell_identities, joined

    before, now = bank_of(2), bank_of(3)
    old, new = cells_of(before, 1), cells_of(now, 2)
    assert {"compressed", "control:noise4"} <= set(old["row"])
    banks = new[new["row"].str.startswith("bank:")]
    assert len(banks)
    both = joined(old, banks, cell_identities(before), cell_identities(now))
    assert len(both) == len(old)
    assert {name.startswith("bank:"): set(part) for name, part in both.groupby("row")["value"]} == {
        True: {2},
        False: {1},
    }
    nothing = joined(old, banks.iloc[:0], cell_identities(before), cell_identities(now))
    assert not nothing["row"].str.startswith("bank:").any() and len(nothing) == len(old) - len(banks)


def test_a_row_that_leaves_a_codec_leaves_only_that():
    "As the GANs of JPEG 20 did, which have a profile of their own now"
    import pandas as pd

    from qebias.study.keys import rows_at
    from qebias.study.preflight import resolve
    from qebias.study.results import still_asked

    both = ["codecs={bpg: [37], jpeg: [20]}", "controls_after=[realesrgan]"]
    before = resolve("smoke", both)
    now = resolve("smoke", [*both, "cells={realesrgan: [bpg-37]}"])
    cells = [
        (codec, level, row, seed, "score:raw", 0.5)
        for codec, level in before.levels
        for row, seed in rows_at(before, codec, level)
    ]
    cells.append(("bpg", 37, "bank:cond:blur", 0, "score:raw", 0.5))
    columns = ["codec", "level", "row", "seed", "quantity", "value"]
    table = pd.DataFrame(cells, columns=columns)
    curves = table[table.row.isin(["realesrgan", "esrgan"])].astype({"level": str})
    kept, drawn = still_asked(before, table, curves)
    assert len(kept) == len(table) and len(drawn) == len(curves) == 4
    kept, drawn = still_asked(now, table, curves)
    gone = table.drop(kept.index)
    assert set(zip(gone.codec, gone.row, strict=True)) == {
        ("jpeg", "realesrgan"),
        ("jpeg", "control:noise2:realesrgan"),
        ("jpeg", "control:sharper:realesrgan"),
    }
    assert {*zip(drawn.codec, drawn.row, strict=True)} == {
        ("bpg", "esrgan"),
        ("bpg", "realesrgan"),
        ("jpeg", "esrgan"),
    }


def test_crops_are_those_of_the_table_and_leave_with_their_row(tmp_path):
    from qebias.study.results import load, shown_crops, write_crops

    published = ROOT / "nbs" / "study" / "results"
    for place in sorted(p.parent for p in published.glob("*/table.parquet")):
        there = set((place / "crops").rglob("*.webp"))
        assert there == set(shown_crops(load(place.name), place)), place.name
    found = load("jpeg")
    shutil.copytree(published / "jpeg" / "crops", tmp_path / "crops")
    before = {p: p.read_bytes() for p in (tmp_path / "crops").rglob("*.webp")}
    found.table = found.table[found.table.row == "rrdb"]
    write_crops(found, tmp_path)
    after = {p: p.read_bytes() for p in (tmp_path / "crops").rglob("*.webp")}
    left = (".raw.webp", ".compressed.webp", ".rrdb.webp")
    assert after == {p: data for p, data in before.items() if p.name.endswith(left)}
    assert len(after) < len(before)


def test_a_training_that_is_set_otherwise_and_its_controls_leave_what_is_published():
    from qebias.study.preflight import resolve
    from qebias.study.results import cell_identities, joined

    before = resolve("smoke", ["controls_after=[realesrgan]"])
    now = resolve("smoke", ["controls_after=[realesrgan]", "training.realesrgan.lr=0.01"])
    old = cells_of(before, 1)
    kept = set(joined(old, old.iloc[:0], cell_identities(before), cell_identities(now))["row"])
    assert {row for row in old["row"] if row not in kept} >= {"realesrgan", "control:noise2:realesrgan"}
    assert {"rrdb", "compressed", "control:noise4"} <= kept
