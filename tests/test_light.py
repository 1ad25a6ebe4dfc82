"What a command does not use it does not import, and what is planned is planned from data"

import json
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

from qebias.core import digest
from qebias.later import written
from qebias.study.estimate import counted_cost, known_costs, specs_of
from qebias.study.keys import Keys, Study, todo, training_identity
from qebias.study.profile import load_profile, profiles
from qebias.study.work import config_of

COMMAND = """
import sys
from qebias.cli import main
sys.argv = ["qebias", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {"torch", "pyiqa", "scipy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "words", ["--help", "methods", "metrics --check", "study demo --dry-run", "study smoke --dry-run"]
)
def test_a_command_that_computes_nothing_imports_no_torch(words, tmp_path):
    words = words.split() + (["--out", str(tmp_path / "run")] if "study" in words else [])
    found = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-600:]
    assert found.stdout


CHECKED = """
import sys
from qebias.study import preflight, report
study = preflight.resolve("smoke", out=sys.argv[1])
preflight.preflight(study)
print(study.profile.name, sorted({"torch", "scipy.stats"} & set(sys.modules)))
"""


def test_what_is_looked_at_before_a_study_of_counted_networks_needs_no_torch(tmp_path):
    found = subprocess.run([sys.executable, "-c", CHECKED, tmp_path], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-600:]
    assert found.stdout == "smoke []\n"


def test_a_network_that_was_not_counted_is_built_before_a_study(tmp_path, monkeypatch):
    from qebias.study import preflight

    seen = []
    monkeypatch.setattr(preflight, "shown", lambda name, spec, patch: seen.append(name) or patch)
    preflight.networks_fit(preflight.resolve("smoke", out=tmp_path))
    assert seen == []
    preflight.networks_fit(preflight.resolve("smoke", ["networks.RRDBNet.width=5"], out=tmp_path))
    assert "rrdb" in seen
    monkeypatch.setattr(preflight, "known_costs", dict)
    preflight.networks_fit(preflight.resolve("smoke", out=tmp_path))
    assert len(seen) > 3


MEASURED = """
import sys
import numpy as np
from qebias import metrics, study
import qebias.study.work, qebias.measure, qebias.training
from qebias.config import TrainConfig
from qebias.discriminators import UNetSN
from qebias.generators.rrdb import RRDBNet
from qebias.inference import enhance
from qebias.networks import load_network, network_spec, outline, save_network
from qebias.training import Trainer
import torch
rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
print([metrics.metric(name)(rgb, rgb) for name in ("psnr", "ssim", "nlpd")])
trainer = Trainer(TrainConfig(
    method="arcnn", stage="fidelity", generator={"class": "qebias.generators.arcnn:ARCNN"},
    iterations=1, batch=1, patch=32
))
trainer.step(0, torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
small = dict(width=4, blocks=1, growth=4)
save_network(sys.argv[1], RRDBNet(**small), network_spec(RRDBNet, **small), {})
enhance(load_network(sys.argv[1]), rgb)
outline(network_spec(UNetSN, width=4))
print(sorted({"torch._dynamo", "pyiqa"} & set(sys.modules)))
"""


def test_a_job_imports_neither_dynamo_nor_pyiqa(tmp_path):
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "a.safetensors")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-600:]
    assert found.stdout.splitlines()[-1] == "[]"


def studies(tmp_path):
    return {name: Study(load_profile(name), tmp_path / name) for name in profiles()}


def test_the_networks_of_every_profile_were_counted_before(tmp_path):
    for name, study in studies(tmp_path).items():
        for row in study.rows.values():
            for spec in specs_of(config_of(study, row, row.seeds[0])):
                assert digest(list(spec)) in known_costs(), f"{name}: run qebias.study.estimate.write_costs"


def test_what_was_counted_is_what_is_counted(tmp_path):
    study = studies(tmp_path)["smoke"]
    specs = {spec for row in study.rows.values() for spec in specs_of(config_of(study, row, 0))}
    for spec in specs:
        assert tuple(known_costs()[digest(list(spec))]) == tuple(counted_cost(*spec)), spec


def test_a_training_is_called_by_its_own_configuration(tmp_path):
    "What is made once for a row, with another seed, is what would be made for each seed"
    for study in studies(tmp_path).values():
        keys = Keys(study, imports=False)
        for row in study.rows.values():
            for seed in (0, *row.seeds, 7):
                assert training_identity(keys, row, seed) == config_of(study, row, seed).identity()


def test_a_plan_makes_each_configuration_once(tmp_path, monkeypatch):
    from qebias.study import keys as module

    study, made = studies(tmp_path)["demo"], []
    monkeypatch.setattr(
        module, "config_of", lambda s, row, seed: made.append(row.name) or config_of(s, row, seed)
    )
    keys = Keys(study)
    for row in study.rows.values():
        for seed in range(20):
            training_identity(keys, row, seed)
    assert made == list(study.rows)


def test_ten_thousand_jobs_are_planned_in_ten_seconds_without_torch(tmp_path):
    from benchmarks.plan import planned

    jobs, waiting, seconds, torch = planned(66, tmp_path / "run", ROOT, "empty")
    assert int(jobs) == int(waiting) > 9_900
    assert (
        float(seconds) < 10 and torch == "False"
    )  # processor seconds of the plan; it takes a fraction of one


def test_the_key_of_a_job_is_computed_once(tmp_path, monkeypatch):
    from qebias.study import keys as module

    counted = Counter()
    for kind, function in module.KEY_OF.items():

        def watched(keys, job, function=function):
            counted[job.name] += 1
            return function(keys, job)

        monkeypatch.setitem(module.KEY_OF, kind, watched)
    keys = Keys(studies(tmp_path)["smoke"])
    for _ in range(2):
        todo(keys)
        for name in keys.jobs:
            keys.key(name)
    assert counted and set(counted.values()) == {1}


def test_how_often_a_training_is_kept_and_whether_it_is_recorded_stand_in_the_profile(tmp_path, monkeypatch):
    "And a recording is off where the profile says nothing"
    from qebias import training
    from qebias.study import work

    class Asked(Exception):
        pass

    def fit(*args, **more):
        raise Asked(more["save_every"], more["graph"])

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(work, "pairs_at", lambda *args: None)
    monkeypatch.setattr(work, "never_evaluated", lambda *args: None)
    for changes, want in (({}, (30.0, False)), ({"save_every": 600, "graph": True}, (600.0, True))):
        keys = Keys(Study(load_profile("smoke").model_copy(update=changes), tmp_path / "run"))
        job = next(
            job for job in keys.jobs.values() if job.kind == "train" and job.parameters["row"] == "rrdb"
        )
        with pytest.raises(Asked) as asked:
            work.train(keys, job, tmp_path)
        assert asked.value.args == want


VERSIONS = """
import importlib, json, sys
from qebias.later import written
names = json.loads(sys.argv[1])
read = [written(m, n, 1) for m, n in names]
assert "torch" not in sys.modules
for m, n in names:
    importlib.import_module(m)
assert read == [written(m, n, 1) for m, n in names], names
"""


def test_a_version_that_is_read_is_the_one_that_counts():
    from qebias.networks import NETWORKS

    names = [(m, f"{c}.version") for m, c in (path.split(":") for path in NETWORKS)]
    names += [("qebias.inference", "VERSION"), ("qebias.features", "Psi.version")]
    found = subprocess.run(
        [sys.executable, "-c", VERSIONS, json.dumps(names)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-600:]
    assert written("qebias.discriminators", "UNetSN.version") == 1


def test_a_page_is_drawn_anew_when_what_draws_it_changes(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from qebias.study import keys

    study = studies(tmp_path)["demo"]
    fake = SimpleNamespace(study=study, content=lambda name: "the table's content")
    job = keys.Job("item", "item/fig8", {"item": study.items[0]})
    before = keys.key_item(fake, job)
    assert keys.key_item(fake, job) == before
    monkeypatch.setattr(keys, "page_code", lambda: {"figures.py": "another drawing"})
    assert keys.key_item(fake, job) != before
