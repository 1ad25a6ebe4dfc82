"Ways in that strangers' files have tried: what a name in them may lead to"

import os
import re
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
    for name in ("qebias.losses:find_term", "qebias.losses:_same", "qebias.core:require"):
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


def test_notebooks_and_profiles_are_the_packages_own_wherever_one_is(tmp_path, monkeypatch):
    "Another checkout in the current folder, above it or around a run folder: none of it is read or executed"
    import qebias.core
    from qebias.core import project_root
    from qebias.study.keys import items
    from qebias.study.profile import profiles

    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    (tmp_path / "nbs" / "study" / "profiles").mkdir(parents=True)
    (tmp_path / "nbs" / "study" / "profiles" / "stranger.yaml").write_text(PROFILE)
    own = Path(qebias.core.__file__).parents[1]
    for place in (tmp_path, run):
        monkeypatch.chdir(place)
        assert project_root() == own and "stranger" not in profiles()
        assert all(item.path.is_relative_to(own) for item in items().values())


def test_workers_of_a_codec_import_nothing_from_the_current_folder(tmp_path, monkeypatch):
    "A worker of BPG begins with `import pickle`, and a folder of pictures may hold a pickle.py"
    import numpy as np

    from qebias.codecs import Bpg, code_many

    for name in ("pickle", "numpy", "PIL"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    images = [np.full((16, 16, 3), value, np.uint8) for value in (0, 99)]
    coded = list(code_many(images, Bpg(42), workers=2, progress=False))
    assert len(coded) == 2 and not (tmp_path / "told").exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
BOMB += "".join(f"{k}: &{k} [{', '.join([f'*{j}'] * 10)}]\n" for j, k in zip("abcd", "bcde"))
TEXTS = [  # what is written, as YAML or as JSON, and what the one line says
    ("yaml", BOMB, "stands for more than 100,000 values"),
    ("yaml", "[" * 80 + "]" * 80, "nested too deep"),
    ("yaml", "patch: 64\npatch: 128", "'patch' occurs twice, again in line 2"),
    ("yaml", "a: {<<: {b: 1}, <<: {b: 2}}", "'<<' occurs twice"),
    ("yaml", f"patch: {'9' * 41}", "a number of 41 digits"),
    ("yaml", f"patch: 1e{'9' * 500}", "no number"),
    ("yaml", "a: !!python/name:os.system", "the tag tag:yaml.org,2002:python/name:os.system is not read"),
    ("yaml", "a: !!python/object/apply:os.system [true]", "is not read"),
    ("yaml", "a: 1\n---\na: 2", "more than one document"),
    ("yaml", "a: *b", "*b stands for nothing"),
    ("yaml", "a: &a [*a]", "*a stands for nothing that is complete"),
    ("yaml", "#" * (2**20 + 1), "1,048,57"),
    ("json", "[" * 80 + "]" * 80, "nested too deep"),
    ("json", '{"a": 1, "a": 2}', "'a' occurs twice"),
    ("json", "9" * 41, "a number of 41 digits"),
    ("json", "NaN", "nan"),
]


@pytest.mark.parametrize("kind, text, words", TEXTS, ids=[f"{kind} {words}" for kind, _, words in TEXTS])
def test_a_text_that_no_reader_expects_is_one_line_at_once(tmp_path, kind, text, words):
    "Each limit by itself: a library's own, or another of ours, would say something else, or nothing"
    import time

    from qebias.core import read_json, read_yaml

    path = tmp_path / f"stranger.{kind}"
    path.write_text(text)
    readers = [read_json] if kind == "json" else [read_yaml, lambda path: read_yaml(path.read_text(), "it")]
    for read in readers:
        began = time.process_time()
        with pytest.raises(QebiasError) as error:
            read(path)
        assert words.lower() in str(error.value).lower() and "\n" not in str(error.value)
        assert time.process_time() - began < 2


def test_a_text_of_more_bytes_than_any_is_told_at_the_door(tmp_path):
    from qebias.core import read_json

    (tmp_path / "a.json").write_text("1")
    os.truncate(tmp_path / "a.json", 2**26 + 1)  # a hole, which takes no room on disk
    with pytest.raises(QebiasError, match="a JSON file has at most 67,108,864 here"):
        read_json(tmp_path / "a.json")


def test_an_impossible_date_is_a_text():
    from qebias.core import read_yaml

    assert read_yaml("when: 2020-99-99") == {"when": "2020-99-99"}


def test_a_checkpoint_of_the_models_that_come_along_runs_nothing(tmp_path):
    import torch

    from qebias import pretrained

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'told'}",)

    torch.save({"key": "k", "step": Evil()}, tmp_path / "last.pt")
    with pytest.raises(QebiasError, match="last.pt cannot be read"):
        pretrained._restored(tmp_path, "k", None)
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("header", ["overlap", "gap", "twice", "beyond", "of another size"])
def test_tensors_that_do_not_lie_one_behind_the_other_are_refused(tmp_path, header):
    import json
    import struct

    from qebias.core import tensors_header
    from qebias.weights import tensors

    spans = {
        "overlap": ([0, 16], [8, 24]),
        "gap": ([0, 16], [24, 40]),
        "twice": ([0, 16], [0, 16]),
        "beyond": ([0, 16], [16, 10**12]),
        "of another size": ([0, 16], [16, 40]),
    }[header]
    said = {f"w{i}": {"dtype": "F32", "shape": [4], "data_offsets": span} for i, span in enumerate(spans)}
    text = json.dumps(said).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(40))
    for read in (tensors_header, tensors):
        with pytest.raises(QebiasError, match="a.safetensors is no readable .*(fill it|fit its place)"):
            read(path)


def listed(column):
    "What stands in a column of the tables of SECURITY.md, in backquotes"
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "`qebias." in line]
    return [name for row in rows for name in re.findall("`([^`]+)`", row[column])]


def test_guards_that_are_told_are_there():
    import pkgutil

    told = listed(1)
    assert len(told) > 40
    for guard in told:
        assert pkgutil.resolve_name(guard), guard


def test_tests_that_are_told_are_there():
    root = Path(__file__).parents[1]
    told = listed(2)
    assert len(told) > 30
    for place in told:
        file, _, name = place.partition("::")
        assert f"def {name}(" in (root / file).read_text(), place
