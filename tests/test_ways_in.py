"Ways in that strangers' files have tried: what a name in them may lead to"

import os
import sys
from pathlib import Path

import pytest

from qebias.core import QebiasError

PLANTED = "planted_by_a_test"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    "A module that says when it is imported, where `import` finds it"
    (tmp_path / f"{PLANTED}.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(PLANTED, None)


PROFILE = """
train: sample
evaluate: {sample: sample}
methods: [arcnn]
items: [fig1]
"""


def term(function, options):
    "Lines of a profile with one more term of the loss"
    return f"training: {{fidelity: {{terms: [{{name: a, function: {function}, options: {options}}}]}}}}"


NAMED = {
    "is not known here": term("'qebias.later:Later'", f"{{name: {PLANTED}}}"),
    "is not known here: there are qebias.losses:L1": term("'qebias.core:imported'", "{what: x}"),
    "is no network": "networks: {ARCNN: {class: 'qebias.features:Psi', kwargs: {layers: [conv1_1]}}}",
    "is no codec": "codecs: {'qebias.core:require': [1]}",
    "no metric is called": "metrics: ['qebias.later:Later']",
}


@pytest.mark.parametrize("words", NAMED)
def test_a_name_of_the_package_in_a_profile_leads_to_a_term_a_network_a_codec_or_a_metric(planted, words):
    "It needs no trust: so it may lead to nothing that imports or runs another"
    from qebias.study.estimate import dry_run
    from qebias.study.preflight import resolve

    path = planted / "stranger.yaml"
    path.write_text(f"{PROFILE}{NAMED[words]}\n")
    try:
        said = dry_run(resolve(str(path), out=planted / "run"), [])[-1]
    except QebiasError as error:
        said = str(error)
    assert words in said and not (planted / "told").exists()


def test_the_terms_of_the_package_are_those_that_may_be_named():
    from qebias.losses import TERMS, find_term

    assert all(callable(find_term(name)) for name in TERMS)
    for name in ("qebias.losses:find_term", "qebias.losses:_Function", "qebias.core:require"):
        with pytest.raises(QebiasError, match="is not known here"):
            find_term(name)


CHAIN = "".join(f", x{i}: {{of: x{i - 1}}}" for i in range(1, 400))
MANY = ", ".join(f"x{i}: {{of: arcnn}}" for i in range(501))
SEEDS = ", ".join(map(str, range(20_000)))
NINES = "9" * 5000
ADVERSARIAL = "methods: [rrdb, esrgan+div]\ntraining: {adversarial: {%s}}"
LATE = [  # lines of a profile that are YAML and a profile's keys, and what the one line says
    ("rows: {x: {of: arcnn, differs: [1]}}", "rows.x.differs is a mapping"),
    (f"rows: {{x0: {{of: arcnn}}{CHAIN}}}", "comes from 16"),
    (f"rows: {{{MANY}}}", "at most 500"),
    ("training: {fidelity: {generator: {class: [5]}}}", 'is {class: "module:Class"'),
    ("training: {fidelity: {generator: {width: 8}}}", 'is {class: "module:Class"'),
    ("networks: {ARCNN: {class: 5}}", "the class of ARCNN is 5"),
    (term("{x: 1}", "{}"), "would be imported"),
    (term("'qebias.losses:L1'", "[1]"), "options"),
    (term("'qebias.losses:L1'", "{}").replace("name: a", "name: a, weight: .nan"), "weight"),
    (term("'qebias.losses:VanillaGan'", "{}"), "no discriminator"),
    (term("'qebias.losses:PSNRLoss'", "{floor: x}"), "cannot be made"),
    (term("'qebias.losses:Perceptual'", "{layers: {x: 1}}"), "psi has no layer 'x'"),
    ("training: {fidelity: {schedule: {milestones: [9]}}}", "profile stranger: arcnn"),
    (ADVERSARIAL.replace("%s", "divergence: {blocks: 5}"), "profile stranger: esrgan+div"),
    (ADVERSARIAL.replace("%s", "projection: x"), "projection is 'x'"),
    ("methods: [rrdb]\nnetworks: {RRDBNet: {width: -1}}", "profile stranger: rrdb"),
    ("methods: [rrdb]\nnetworks: {RRDBNet: {blocks: 4096}}", "blocks is too large"),
    ("methods: [rbqe]\nnetworks: {RBQE: {levels: 400}}", "levels is 400"),
    (f"patch: {NINES[:39]}", "patch"),
    (f"seeds: [{SEEDS}]", "at most 1000 items"),
    ("device: evil", "device"),
    ("bank: {rows: 5}", "bank: rows is 5"),
    ("bank: {rows: [[1]]}", "bank: rows is [[1]]"),
    ("bank: {seeds: [a]}", "bank: seeds is"),
    (f"train: 'flickr2k:{NINES}-1'", "FIRST-LAST"),
    ('train: "folder:\\0x"', "holds a NUL"),
    (f"psi: random-w{NINES}-s0\nmethods: [rrdb, esrgan]", "psi has no weights"),
]


@pytest.mark.parametrize("lines, words", LATE, ids=[words for _, words in LATE])
def test_what_a_dry_run_finds_wrong_is_one_line(tmp_path, lines, words):
    "Each was a traceback, or took minutes, once the profile itself had been read"
    import time

    from qebias.study.estimate import dry_run
    from qebias.study.preflight import resolve

    path = tmp_path / "stranger.yaml"
    named = {line.partition(":")[0] for line in lines.splitlines()}
    kept = [line for line in PROFILE.strip().splitlines() if line.partition(":")[0] not in named]
    path.write_text("\n".join([*kept, lines]) + "\n")
    began = time.process_time()
    try:
        said = "\n".join(dry_run(resolve(str(path), out=tmp_path / "run"), []))
    except QebiasError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 1500 and "stranger" in said
    assert words in said
    assert time.process_time() - began < 20


def test_what_is_written_to_is_no_link(tmp_path):
    "A folder from a stranger may hold links in the places where a command writes: nobody's file changes"
    from qebias.core import OUTPUTS, Outputs

    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / OUTPUTS).symlink_to("../mine.txt")
    with pytest.raises(QebiasError, match=f"{OUTPUTS} is a link"):
        Outputs(tmp_path / "out")
    (tmp_path / "out" / OUTPUTS).unlink()
    os.mkfifo(tmp_path / "out" / OUTPUTS)
    with pytest.raises(QebiasError, match=f"{OUTPUTS} is a folder, a pipe"):
        Outputs(tmp_path / "out")
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["logs.txt", "jobs.txt", "events", ".snakemake/locks", "logs/table.ipynb"])
def test_a_study_writes_through_no_link(tmp_path, place):
    from qebias.study.store import claim_folder

    run = tmp_path / "run"
    run.mkdir()
    claim_folder(run)
    claim_folder(run)
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(tmp_path)
    with pytest.raises(QebiasError, match=f"{(run / place).name} is a link, and a study writes there"):
        claim_folder(run)


def test_pruning_removes_nothing_but_results(tmp_path):
    "A folder of results that is a link to somebody's photographs"
    from qebias.study.store import Store

    (tmp_path / "home" / "photos" / "holidays").mkdir(parents=True)
    (tmp_path / "home" / "photos" / "0123456789abcdef").symlink_to("holidays")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results").symlink_to("../home")
    assert Store(tmp_path / "run").kept() == {}


@pytest.mark.parametrize("option", ["-o", "--out"])
def test_a_place_that_is_a_loop_of_links_is_told(tmp_path, option):
    from qebias import cli

    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Exception, match="leads nowhere") as error:
        cli.app(["enhance", str(tmp_path), option, str(tmp_path / "loop")], standalone_mode=False)
    assert hasattr(error.value, "format_message")


@pytest.mark.parametrize("kind", ["bool", "int32", "complex64"])
def test_weights_that_are_no_floats_are_refused(kind):
    "Truth values were taken for weights, and the picture came out white"
    import torch

    from qebias.generators.arcnn import ARCNN
    from qebias.generators.core import load_weights

    state = {name: tensor.to(getattr(torch, kind)) for name, tensor in ARCNN().state_dict().items()}
    with pytest.raises(QebiasError, match=f"holds {kind}, no floats"):
        load_weights(ARCNN(), state)


def test_a_folder_is_no_place_for_modules_of_the_command(tmp_path):
    "python -m puts the current folder first: nothing in it is imported"
    import subprocess

    for name in ("typer", "numpy", "yaml", "PIL", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w')\n")
    root = str(Path(__file__).parents[1])
    told = {**os.environ, "PYTHONPATH": root}
    told.pop("PYTHONSAFEPATH", None)
    words = [sys.executable, "-m", "qebias", "methods"]
    done = subprocess.run(words, cwd=tmp_path, env=told, capture_output=True, text=True)
    assert done.returncode == 0 and "arcnn" in done.stdout, done.stderr
    assert not (tmp_path / "told").exists()
