"Each kind of thing is added from outside of the package by one file, and its pipeline runs"

import json
import os

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from qebias.claims import better, judge, read_claims
from qebias.codecs import codec
from qebias.core import QebiasError
from qebias.datasets import load_dataset
from qebias.measure import Evaluation, measure
from qebias.methods import method, train_config
from qebias.notebooks import execute
from qebias.pairs import build_pairs
from qebias.stats import COLUMNS
from qebias.study.keys import Keys, Study
from qebias.study.preflight import problems, resolve
from qebias.study.report import write_report
from qebias.study.results import load
from qebias.study.work import do
from qebias.training import Trainer

CODEC = '''
from dataclasses import dataclass
import zlib
import numpy as np
from qebias.codecs import Codec

@dataclass(frozen=True)
class Coarse(Codec):
    step: int
    name, levels = "coarse", (16,)
    def encode(self, rgb):
        height, width = rgb.shape[:2]
        return np.array([height, width], "<u4").tobytes() + zlib.compress((rgb // self.step).tobytes())
    def decode(self, data):
        height, width = np.frombuffer(data[:8], "<u4")
        steps = np.frombuffer(zlib.decompress(data[8:]), np.uint8)
        return steps.reshape(height, width, 3) * np.uint8(self.step)
'''
GENERATOR = '''
from torch import nn

class Three(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1))
    def forward(self, x):
        return x + self.body(x)
'''
DISCRIMINATOR = '''
from torch import nn

class Flat(nn.Module):
    def __init__(self, in_channels=3):
        super().__init__()
        self.in_channels, self.last = in_channels, nn.Conv2d(in_channels, 1, 3, padding=1)
    def forward(self, x):
        return self.last(x)
'''
TERM = '''
def smooth(given):
    return (given.enhanced[..., 1:] - given.enhanced[..., :-1]).abs().mean()
'''
METRIC = '''
from qebias.metrics import Metric

def contrast(enhanced, raw):
    return float(enhanced.std() / raw.std())

row = Metric("contrast", "contrast", "higher", "full-reference", 1, (0, 9), function="added_metric:contrast")
'''
CLAIMS = '''
effects: {psnr: 0.1}
claims:
  - {item: Ours, statement: "rrdb gains", rows: [rrdb, compressed], quantity: psnr,
     contrast: difference, side: above, paper: none, grade: hypothesis}
'''


@pytest.fixture(autouse=True)
def as_they_were():
    "Other tests find the tables of codecs and metrics without what is added here"
    from qebias.codecs import CODECS
    from qebias.metrics import METRICS

    known = [(table, dict(table)) for table in (CODECS, METRICS)]
    yield
    for table, before in known:
        table.clear()
        table.update(before)


@pytest.fixture
def add(tmp_path, monkeypatch):
    "Put one file beside the package"
    monkeypatch.syspath_prepend(tmp_path)

    def put(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return put


def step(**more):
    "Two steps of a training of the smallest size"
    config = train_config(
        method("realesrgan"), iterations=2, batch=1, patch=32, psi="random-w4-s0", lr=1e-3, **more
    )
    trainer = Trainer(config)
    raw, compressed = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return trainer, [trainer.step(i, raw, compressed) for i in range(2)]


SMALL = {"RRDBNet": {"width": 4, "blocks": 1, "growth": 4}, "UNetSN": {"width": 4}}


def test_a_codec(add, tmp_path):
    add("added_codec.py", CODEC)
    found = codec("added_codec:Coarse", 16)
    pairs = build_pairs(load_dataset("sample", "eval"), found, tmp_path / "coarse", progress=False)
    assert pairs.manifest["codec"]["codec"] == "coarse"
    assert np.abs(pairs.raw(0).astype(int) - pairs.compressed(0)).max() == 15


def test_a_generator(add):
    add("added_generator.py", GENERATOR)
    networks = {**SMALL, "RRDBNet": {"class": "added_generator:Three", "width": 5}}
    trainer, records = step(networks=networks)
    assert trainer.generator.body[0].out_channels == 5
    assert all(np.isfinite(float(v)) for record in records for v in record.values())


def test_a_discriminator(add):
    add("added_discriminator.py", DISCRIMINATOR)
    networks = {**SMALL, "UNetSN": {"class": "added_discriminator:Flat"}}
    trainer, records = step(networks=networks)
    assert type(trainer.discriminator.network).__name__ == "Flat" and float(records[1]["d_real"]) > 0


def test_a_loss_term(add):
    add("added_term.py", TERM)
    _, records = step(
        networks=SMALL, terms=[{"name": "smooth", "weight": 0.1, "function": "added_term:smooth"}]
    )
    assert float(records[0]["smooth"]) > 0


def test_a_metric(add):
    add("added_metric.py", METRIC)
    raw = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    lines = measure("added_metric:row", Evaluation(["a"], [raw], [raw], [raw // 2], [1.0]))
    assert len(lines) == 1 and lines[0][0] == "a" and 0.4 < lines[0][2] < 0.6
    assert better("added_metric:row") == "higher" and better("re:added_metric:row") == "higher"


def test_a_metric_whose_direction_is_not_known_is_not_guessed(add):
    own = CLAIMS.replace("quantity: psnr", "quantity: 'else:row'").replace("side: above", "side: better")
    with pytest.raises(QebiasError, match="else:row.* say above or below"):
        judge(read_claims(add("added_claims.yaml", own)), table())


def table():
    import pandas as pd

    lines = []
    for i in range(6):
        at = ("sample", f"p{i}", "bpg", 37)
        lines.append((*at, "compressed", "", 0, "psnr", 30.0 + i, "dB"))
        lines += [
            (*at, "rrdb", "bpg-37", seed, "psnr", 31.0 + i + 0.01 * seed * i, "dB") for seed in range(3)
        ]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_a_claim(add):
    rows = judge(read_claims(add("added_claims.yaml", CLAIMS)), table())
    assert [row["verdict"] for row in rows] == ["holds"]


def notebook(*more):
    "A notebook that prints the scale of the results that it is told of"
    cells = [
        new_code_cell(
            'profile: str = "photos"  # whose results are read\nrun_dir: str = ""  # a study\'s folder\n'
            'codec: str = ""\nlevel: int = 0'
        ),
        new_code_cell("from qebias.study.results import load\nprint(load(profile, run_dir).scale())"),
        *(new_code_cell(source) for source in more),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = new_notebook(cells=cells, metadata=kernel)
    book.cells[0].metadata["tags"] = ["parameters"]
    return nbformat.writes(book)


def test_a_study_notebook(add, tmp_path):
    path = add("added.ipynb", notebook())
    execute(path, tmp_path / "out.ipynb", {"profile": "photos"})
    shown = json.loads((tmp_path / "out.ipynb").read_text())["cells"][-1]["outputs"]
    assert "".join(shown[-1]["text"]).strip()


PROFILE = """
items: [PATH]
methods: [rrdb]
networks: {RRDBNet: {width: 4, blocks: 1, growth: 4}}
patch: 64
training: {fidelity: {iterations: 2, batch: 1}}
psi: random-w4-s0
metrics: [psnr]
distances: [rmse]
threads: 1
"""


def test_a_notebook_from_outside_is_an_item_of_a_study(add, tmp_path, monkeypatch):
    path = add("added.ipynb", notebook("open('ran', 'w').close()"))
    add("own.yaml", PROFILE.replace("PATH", "added.ipynb") + "trust: [added.ipynb]\n")
    monkeypatch.chdir(tmp_path)
    study = resolve("own.yaml", out=tmp_path / "run", trust=True)
    assert study.items == ["added"] and study.known_items()["added"].path == path
    assert problems(study, ["added"]) == [] and not list(tmp_path.rglob("ran"))  # nothing was executed
    study.save()
    for name in Keys(study).jobs:
        do(study, name)
    shown = json.loads((study.store.named("item/added") / "notebook.ipynb").read_text())["cells"]
    assert any("own: trained on sample" in str(cell.get("outputs")) for cell in shown)
    page = write_report(study).read_text()
    assert 'href="added.html"' in page and (study.folder / "report" / "added.html").exists()


OWN = """
items: [added.ipynb]
methods: [rrdb, realesrgan]
codecs: {"added_codec:Coarse": 16}
networks: {RRDBNet: {class: "added_generator:Three"}, UNetSN: {class: "added_discriminator:Flat"}}
patch: 64
training:
  fidelity: {iterations: 2, batch: 1}
  adversarial:
    iterations: 2
    batch: 1
    terms: [{name: smooth, weight: 0.1, function: "added_term:smooth"}]
psi: random-w4-s0
metrics: [psnr, "added_metric:row"]
distances: [rmse]
threads: 1
trust:
  - added.ipynb
  - added_codec:Coarse
  - added_generator:Three
  - added_discriminator:Flat
  - added_term:smooth
  - added_metric:row
"""
JUDGES = """
from qebias.claims import judge, read_claims
from qebias.study.pages import open_page, quality, score_gaps
page = open_page(profile, run_dir)
told = judge(read_claims("CLAIMS"), page.results.table)
print([row["verdict"] for row in told], sorted(set(page.lines().quantity)))
print(quality(page, page.rows()).to_string(), len(score_gaps(page, page.rows())))
"""


def test_a_study_in_which_everything_is_from_outside(add, tmp_path, monkeypatch):
    "Codec, generator, discriminator, loss term, metric, claim and notebook, through every job of a study"
    for name, text in (
        ("added_codec.py", CODEC),
        ("added_generator.py", GENERATOR),
        ("added_discriminator.py", DISCRIMINATOR),
        ("added_term.py", TERM),
        ("added_metric.py", METRIC),
        ("own.yaml", OWN),
    ):
        add(name, text)
    claims = add("added_claims.yaml", CLAIMS)
    add("added.ipynb", notebook(JUDGES.replace("CLAIMS", str(claims))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    study = resolve("own.yaml", out=tmp_path / "run", trust=True)
    assert problems(study, ["added"]) == []
    study.save()
    for name in Keys(study).jobs:
        do(study, name)
    table = load("own", str(study.folder)).table
    scores = table[(table.row == "realesrgan") & (table.quantity == "score:enhanced")]
    assert len(scores) and scores["value"].between(0, 1).all() and set(table.codec) == {"added_codec:Coarse"}
    cells = json.loads((study.store.named("item/added") / "notebook.ipynb").read_text())["cells"]
    said = "".join("".join(output.get("text", "")) for output in cells[-1]["outputs"])
    assert "['direction only']" in said and "added_metric:row" in said


def test_what_would_be_executed_or_imported_is_asked_for_by_name(add, tmp_path, monkeypatch):
    add("added.ipynb", notebook("open('ran', 'w').close()"))
    add("added_codec.py", "open('ran', 'w').close()\n" + CODEC)
    monkeypatch.chdir(tmp_path)
    text = PROFILE.replace("PATH", "added.ipynb")
    for name, own in (
        ("added.ipynb", text),
        ("added_codec:Coarse", text + "codecs: {'added_codec:Coarse': 16}"),
    ):
        known = "" if name == "added.ipynb" else "\ntrust: [added.ipynb]"
        add("own.yaml", own + known)
        with pytest.raises(QebiasError, match=f"{name} would be .* say trust"):
            resolve("own.yaml", out=tmp_path / "run", trust=True)
    both = text.replace("[psnr]", "['added_metric:row']") + "codecs: {'added_codec:Coarse': 16}"
    add("own.yaml", both)
    with pytest.raises(QebiasError) as error:  # all of it at once
        resolve("own.yaml", out=tmp_path / "run", trust=True)
    assert "say trust: ['added.ipynb', 'added_codec:Coarse', 'added_metric:row']" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_strangers_profile_cannot_trust_itself(add, tmp_path, monkeypatch):
    "Nor is anything imported when a profile, or a run folder with its profile, is read"
    add("added_codec.py", "open('ran', 'w').close()\n" + CODEC)
    own = "codecs: {'added_codec:Coarse': 16}\ntrust: ['added_codec:Coarse']\n"
    add("own.yaml", PROFILE.replace("PATH", "fig1") + own)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QebiasError, match="own.yaml wants code .* say --trust"):
        resolve("own.yaml", out=tmp_path / "run")
    study = resolve("own.yaml", out=tmp_path / "run", trust=True)
    study.save()
    assert Study.open("own", str(tmp_path / "run")).profile == study.profile
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "item, text, words",
    [
        ("fig1.ipynb", None, "fig1 is another item's name too"),
        ("no-such.ipynb", None, "no-such.ipynb"),
        ("broken.ipynb", "{", "broken.ipynb"),
        ("bare.ipynb", '{"cells": [{"cell_type": "code", "source": []}]}', "no cell tagged parameters"),
    ],
)
def test_a_notebook_that_cannot_be_an_item_is_one_line(add, tmp_path, monkeypatch, item, text, words):
    monkeypatch.chdir(tmp_path)
    if text:
        add(item, text)
    add("own.yaml", PROFILE.replace("PATH", f"fig1, {item}") + f"trust: [{item}]\n")
    try:
        found = "; ".join(problems(resolve("own.yaml", out=tmp_path / "run", trust=True)))
    except QebiasError as error:
        found = str(error)
    assert words in found
