"The study end to end at its smallest, through the command line, and what must hold of its notebooks"

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from qebias.claims import read_claims
from qebias.core import QebiasError, code_digest
from qebias.networks import load_state
from qebias.notebooks import parameters
from qebias.runner import _places, dry_run, plan, preflight, publishable, resolve, run, torn
from qebias.study import ITEMS, Study, code_of, load_profile

STUDY = ROOT / "nbs" / "study"
QEBIAS = [sys.executable, "-c", "from qebias.cli import main; main()"]


def qebias(*args, **more):
    return subprocess.run([*QEBIAS, *map(str, args)], capture_output=True, text=True, timeout=900, **more)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a folder" / "smoke"
    done = qebias("study", "smoke", "--out", folder, cwd=tmp_path_factory.mktemp("elsewhere"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_smoke_ends_with_a_table_of_verdicts(smoke):
    folder, text = smoke
    claims = [c for item in ITEMS for c in read_claims(folder / "items" / item / "claims.json")]
    assert len(claims) >= 20 and "VERDICT" in text
    for claim in claims:
        assert (
            claim.verdict in ("reproduced", "opposite", "within noise", "not measured")
            and claim.scale
            and "not made" not in claim.scale
        )
    assert any(c.verdict == "not measured" and c.missing for c in claims), (
        "FID without its weights is reported as not measured"
    )


def test_smoke_writes_a_report_with_pictures(smoke):
    folder, _ = smoke
    index = (folder / "report" / "index.html").read_text()
    for item in ITEMS:
        assert f'href="{item}.html"' in index
        page = (folder / "report" / f"{item}.html").read_text()
        assert "data:image/" in page and 'href="index.html"' in page
        assert str(Path.home()) not in page or Path.home() == Path("/")


def test_every_job_left_its_notebook_and_result(smoke):
    study = Study.open(run_dir=str(smoke[0]))
    for path in [study.train_path(*t) for t in study.trainings()] + [
        study.eval_path(*e) for e in study.evaluations()
    ]:
        assert (study.folder / path).exists()
    assert len(list((study.folder / "logs").glob("*.ipynb"))) == len(study.compressions()) + len(
        study.trainings()
    ) + len(study.evaluations())


def test_jobs_find_what_is_named_from_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QEBIAS_DATA", "data")
    monkeypatch.setenv("QEBIAS_WEIGHTS", "../weights")
    assert _places() == {
        "QEBIAS_DATA": str(tmp_path / "data"),
        "QEBIAS_WEIGHTS": str(tmp_path.parent / "weights"),
    }
    monkeypatch.delenv("QEBIAS_DATA")
    assert list(_places()) == ["QEBIAS_WEIGHTS"]


def test_started_again_nothing_is_stale(smoke):
    folder, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")}
    started = time.monotonic()
    done = qebias("study", "smoke", "--out", folder)
    assert done.returncode == 0 and "nothing is stale" in done.stdout
    assert time.monotonic() - started < 60
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")}


def test_a_touched_file_replans_nothing_and_a_changed_parameter_its_own_jobs(smoke):
    folder, _ = smoke
    for path in folder.rglob("result.json"):
        os.utime(path)
    assert plan(Study.open(run_dir=str(folder))) == {}
    changed = resolve("smoke", ["training.adversarial.iterations=5"], out=folder)
    jobs = plan(changed)
    gan = sum("esrgan" in m for m in changed.profile.methods)
    assert jobs == {
        "train": gan,
        "evaluate": gan,
        "item": sum(bool(known.methods) for known in ITEMS.values()),
    }  # all but those that read pictures alone


def test_a_missing_leaf_is_made_again_even_where_the_tables_exist(smoke):
    folder, _ = smoke
    study = Study.open(run_dir=str(folder))
    leaf = study.folder / study.train_path("arcnn", *study.levels[0], 0)
    kept = leaf.read_bytes()
    leaf.unlink()
    jobs = plan(study)
    leaf.write_bytes(kept)
    assert jobs["train"] == 1


@pytest.mark.slow
def test_a_failing_job_is_named_and_the_rest_is_kept(tmp_path):
    done = qebias(
        "study",
        "smoke",
        "--out",
        tmp_path / "s",
        "--only",
        "obs1",
        "--set",
        "training.fidelity.lr=1.0e30",
        "--set",
        "methods=[rrdb, realesrgan]",
    )
    assert done.returncode == 1
    assert re.search(
        r"qebias: .*train rrdb bpg-37 seed 0: train.ipynb failed: TrainingFailed: rrdb: .* is not finite",
        done.stderr,
    ), done.stderr
    assert (tmp_path / "s" / "pairs" / "train" / "bpg-37" / "manifest.json").exists()
    assert not (tmp_path / "s" / "train" / "bpg-37" / "rrdb" / "seed-0" / "result.json").exists()


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    done = qebias("study", "smoke", "--out", tmp_path / "s", "--dry-run")
    assert done.returncode == 0 and re.search(r"\d+ jobs \(.*8 train", done.stdout), done.stdout + done.stderr
    assert not (tmp_path / "s" / "train").exists()


# The notebooks of the study, as notebooks.

NOTEBOOKS = sorted(p for p in STUDY.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_contract_of_a_study_notebook(notebook):
    book = nbformat.read(notebook, 4)
    code = [c for c in book.cells if c.cell_type == "code"]
    (cell,) = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    for line in cell.source.splitlines():
        assert re.fullmatch(
            r"\w+: (str|int|float|bool|list|dict) = .+?  ?#? ?.*# .+|\w+: (str|int|float|bool|list|dict) = .+ +# .+",
            line,
        ), line
    assert {"profile", "run_dir"} <= parameters(notebook).keys()
    for c in code:
        assert len(c.source.splitlines()) <= 25, c.source
        assert "def " not in c.source and "class " not in c.source, "a study notebook defines nothing"
        assert not re.search(r"^\s*(import|from) (torch|skimage|pyiqa)", c.source, re.M), (
            "a study notebook calls qebias only"
        )


def test_every_study_notebook_is_in_the_graph_and_in_the_index():
    in_graph = {item.notebook for item in ITEMS.values()} | {
        f"run/{n}" for n in ("compress", "train", "evaluate")
    }
    assert {p.relative_to(STUDY).with_suffix("").as_posix() for p in NOTEBOOKS} == in_graph
    assert load_profile("smoke").items == list(ITEMS), (
        "the smoke study, and no other test, runs each of them once"
    )
    index = (ROOT / "README.md").read_text()
    for item in ITEMS.values():
        assert f"nbs/study/{item.notebook}.ipynb" in index, item.notebook


def test_items_are_read_in_the_order_of_their_numbers_and_mapped_in_it():
    from qebias.runner import map_markdown

    names = [item.notebook for item in ITEMS.values()]
    assert names == sorted(names) and len(set(names)) == len(names)
    rows = map_markdown().splitlines()[2:] + map_markdown(beyond=True).splitlines()[2:]
    assert len(rows) == len(ITEMS)
    for row, (name, item) in zip(rows, ITEMS.items()):
        assert (
            item.title in row
            and f"nbs/study/{item.notebook}.ipynb" in row
            and f"`qebias study {item.profile} --only {name}`" in row
        )
    for name, item in ITEMS.items():
        assert name in load_profile(item.profile).items, "publishing its profile renews the notebook"


@pytest.mark.parametrize("item", ITEMS)
def test_an_items_notebook_has_the_shape_of_the_house(item):
    book = nbformat.read(STUDY / f"{ITEMS[item].notebook}.ipynb", 4)
    code, words = ([c.source for c in book.cells if c.cell_type == kind] for kind in ("code", "markdown"))
    assert words[0].splitlines()[0] == f"# {ITEMS[item].title}", (
        "the question is the title, in the notebook and in the map"
    )
    assert words[1].startswith("## The paper says") and sum(w.startswith("## We find") for w in words) == 1
    declared = {
        name: (p["type"], p["default"])
        for name, p in parameters(STUDY / f"{ITEMS[item].notebook}.ipynb").items()
    }
    assert declared == {
        "profile": ("str", f'"{ITEMS[item].profile}"'),
        "run_dir": ("str", '""'),
        "codec": ("str", '"bpg"'),
        "level": ("int", "37"),
        "dataset": ("str", '""'),
    }, "the same parameters everywhere"
    assert f'"{item}"' in code[-1] and code[-1].startswith("write_claims("), "claims are written last"
    asked = code[-1].removeprefix("write_claims(").partition(".claims_file(")[0]
    assert any(f"{asked} = Cell(study, codec, level, dataset)" in c.splitlines() for c in code), (
        "their file is that of the cell that was asked for: the graph waits for it"
    )
    for text in code + words:
        assert len(text.splitlines()) <= 45


@pytest.mark.parametrize("profile", sorted((STUDY / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_key_of_a_profile_is_a_parameter(profile):
    import yaml

    from qebias.study import Profile

    keys = set(yaml.safe_load(profile.read_text()))
    assert keys <= set(Profile.model_fields), keys - set(Profile.model_fields)


def claims_of_an_empty_study(tmp_path, *changes):
    from qebias import evidence

    study = Study(load_profile("smoke", changes), tmp_path / "nothing")
    cell = evidence.Cell(study, *study.levels[0], "")
    return {
        item: of(cell)
        for item, of in {
            "fig1": evidence.claims_fig1,
            "obs1": evidence.claims_obs1,
            "obs2": evidence.claims_obs2,
            "sec41": evidence.claims_sec41,
            "sec42": lambda c: evidence.claims_sec42(c, {}),
            "tab3": evidence.claims_tab3,
            "tab4": evidence.claims_tab4,
            "fig8": evidence.claims_fig8,
            "fig10": evidence.claims_fig10,
            "tab5": evidence.claims_tab5,
            "flavour": lambda c: evidence.claims_flavour(
                c, pd.DataFrame(columns=["flavour", "image", "metric", "value"]), {}
            ),
            "divergence": evidence.claims_divergence,
            "codecs": evidence.claims_codecs,
            "levels": evidence.claims_levels,
            "modern": evidence.claims_modern,
        }.items()
    }


def test_no_claim_is_made_twice_and_each_says_what_is_missing(tmp_path):
    from qebias.claims import claim_row

    found = claims_of_an_empty_study(tmp_path)
    assert found.keys() == ITEMS.keys()
    for item, claims in found.items():
        lines = [(claim_row(c)["item"], claim_row(c)["claim"]) for c in claims]
        assert len(lines) == len(set(lines)), item
        assert all(c.verdict == "not measured" and c.missing and c.paper for c in claims), item
    assert all(c.missing == "needs at least 4 levels of one codec, smoke has 1" for c in found["tab4"])


def test_the_papers_numbers_stand_only_beside_its_own_codec_and_level(tmp_path):
    "Table 3 is of BPG at QP 37, Table 4 of BPG; the rest is in the supplement"

    def printed(*changes):
        return {
            item: [c.paper for c in claims if c.item in ("Tab. 3", "Tab. 4")]
            for item, claims in claims_of_an_empty_study(tmp_path, *changes).items()
            if item in ("tab3", "tab4")
        }

    here, other, jpeg = printed(), printed("codecs.bpg=[32]"), printed("codecs={jpeg: [10]}")
    assert not any("supplement" in p for p in here["tab3"] + here["tab4"] + other["tab4"])
    assert set(other["tab3"]) == set(jpeg["tab3"]) == set(jpeg["tab4"]) == {"in the supplement"}


def test_an_items_notebook_reads_no_method_that_its_graph_does_not_make():
    from qebias.methods import METHODS

    for item in ITEMS.values():
        source = "".join(
            c.source
            for c in nbformat.read(STUDY / f"{item.notebook}.ipynb", 4).cells
            if c.cell_type == "code"
        )
        read = {name for name in METHODS if f'"{name}"' in source}
        assert read <= set(item.methods), item.notebook


def test_keys_follow_the_code_that_a_job_runs(monkeypatch):
    "A changed line in one module makes exactly the jobs stale that run it"
    import qebias.study as study_module

    study = resolve("smoke")

    def keys():
        return {
            "compress": study_module.key_compress(study, "train", "bpg", 37),
            "train": study_module.key_train(study, "realesrgan", "bpg", 37, 0),
            "evaluate": study_module.key_evaluate(study, "realesrgan", "bpg", 37, 0, "sample"),
            "item": study_module.key_item(study, "tab5"),
        }

    real = study_module.code_digest

    def stale_after(module):
        code_of.cache_clear()
        monkeypatch.setattr(study_module, "code_digest", real)
        before = keys()
        text = (ROOT / "qebias" / f"{module}.py").read_text()
        code_of.cache_clear()
        monkeypatch.setattr(
            study_module, "code_digest", lambda source: real(source) + ("!" if source == text else "")
        )
        after = keys()
        code_of.cache_clear()
        return {k for k in before if before[k] != after[k]}

    assert stale_after("losses") == {"train", "evaluate", "item"}
    assert stale_after("metrics") == {"evaluate", "item"}
    assert stale_after("evidence") == stale_after("figures") == {"item"}
    assert stale_after("datasets") == {"compress", "train", "evaluate", "item"}
    assert stale_after("cli") == set()


def test_the_grid_of_several_levels_codecs_and_seeds(tmp_path):
    study = resolve(
        "smoke",
        ["codecs={bpg: [32, 37], jpeg: [10]}", "seeds=[0, 1, 2]", "methods=[rrdb, esrgan]"],
        out=tmp_path / "s",
    )
    jobs = plan(study)
    assert jobs == {"compress": 6, "train": 18, "evaluate": 21, "item": len(ITEMS)}
    assert not (tmp_path / "s").exists(), "a plan leaves nothing behind"


@pytest.mark.slow
def test_a_study_of_fidelity_methods_on_jpeg_reports_the_rest_as_not_measured(tmp_path):
    done = qebias(
        "study",
        "smoke",
        "--out",
        tmp_path / "s",
        "--set",
        "methods=[arcnn, rrdb]",
        "--set",
        "codecs={jpeg: [20]}",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    claims = read_claims(tmp_path / "s" / "items" / "obs1" / "claims.json")
    assert all(c.verdict == "not measured" for c in claims)


def test_plain_papermill_works_from_any_folder(smoke, tmp_path):
    folder, _ = smoke
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(STUDY / "03_obs2_domain_similarity.ipynb"),
            "out.ipynb",
            "-p",
            "run_dir",
            str(folder),
            "--no-progress-bar",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "out.ipynb").read_text())["metadata"]["papermill"]["exception"] is None


@pytest.mark.slow
@pytest.mark.parametrize("item", ITEMS)
def test_every_items_notebook_runs_by_plain_papermill(item, smoke, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(STUDY / f"{ITEMS[item].notebook}.ipynb"),
            "out.ipynb",
            "-p",
            "run_dir",
            str(smoke[0]),
            "--no-progress-bar",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    "A study of two codecs and two levels"
    folder = tmp_path_factory.mktemp("several") / "smoke"
    done = qebias(
        "study",
        "smoke",
        "--out",
        folder,
        "--set",
        "codecs={bpg: [32, 37], jpeg: [10]}",
        "--set",
        "methods=[rrdb, esrgan, realesrgan, realesrgan+both]",
        "--set",
        "items=[tab3, tab5]",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("codec, level", [("bpg", 32), ("jpeg", 10)])
@pytest.mark.parametrize("item", ITEMS)
def test_the_supplement_is_one_call_of_papermill_each(item, codec, level, several, tmp_path):
    before = {p: p.read_bytes() for p in several.rglob("claims.json")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(STUDY / f"{ITEMS[item].notebook}.ipynb"),
            "out.ipynb",
            "-p",
            "run_dir",
            str(several),
            "-p",
            "codec",
            codec,
            "-p",
            "level",
            str(level),
            "--no-progress-bar",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert before == {p: p.read_bytes() for p in before}, "the study's own claims stay"
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    text = "".join(
        t
        for c in cells
        if c["cell_type"] == "code"
        for o in c["outputs"]
        for t in (
            o.get("text", [])
            or o.get("data", {}).get("text/html", [])
            or o.get("data", {}).get("text/plain", [])
        )
    )
    assert f"{codec.upper()} {level}" in text or not ITEMS[item].methods or item == "tab4", text[-2000:]


@pytest.mark.parametrize(
    "changes, option",
    [(["codecs={bpg: [32, 37]}"], ("level", 32)), (["codecs={bpg: [37], jpeg: [10]}"], ("codec", "jpeg"))],
    ids=["level", "codec"],
)
def test_claims_of_another_cell_or_of_one_set_of_several_stand_beside_the_studys_own(
    changes, option, tmp_path
):
    from qebias.evidence import Cell

    study = Study(load_profile("smoke", [*changes, "evaluate={sample: sample, other: sample}"]), tmp_path)
    cell = dict(codec="bpg", level=37, dataset="")
    assert study.main == ("bpg", 37) and Cell(study, **cell).claims_file("obs1").name == "claims.json"
    assert {
        Cell(study, **cell | other).claims_file("obs1").name
        for other in (dict([option]), {"dataset": "sample"}, {"dataset": "other"})
    }.isdisjoint({"claims.json"})


def test_observations_are_made_on_every_set_beside_the_papers_numbers_for_it(tmp_path):
    from qebias.evidence import Cell, claims_obs1, claims_obs2

    study = Study(load_profile("smoke", ["evaluate={div2k: div2k, flickr2k: flickr2k}"]), tmp_path)
    one, two = claims_obs1(Cell(study, "bpg", 37, "")), claims_obs2(Cell(study, "bpg", 37, ""))
    assert [c.paper for c in one] == ["-0.48", "+0.08", "-0.46", "+0.03", "-0.47", "+0.10", "-0.48", "+0.04"]
    assert [c.text.endswith(", div2k") for c in one] == [True] * 4 + [False] * 4 and all(
        c.text.endswith(", flickr2k") for c in one[4:]
    )
    assert len(two) == 16 and len({(c.text, c.stand_in) for c in two}) == 16
    assert [c.paper for c in claims_obs1(Cell(study, "bpg", 37, "flickr2k"))] == [c.paper for c in one[4:]], (
        "a single call, one set"
    )


def test_code_has_one_name_under_every_python():
    "Python 3.12 prints a field more for every function, and 3.13 leaves empty ones out"
    source = "def f(a, *, b=[]):\n    'words'\n    class C: pass\n    return [a, [], {}], lambda: b\n"
    assert (
        code_digest(source) == code_digest(source.replace("'words'", "'other words'")) == "ebf8a538a2332ebc"
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "Pictures of noise, and a profile of one short training"
    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny")
    for part, count in (("train", 2), ("held", 2)):
        (folder / part).mkdir()
        for k in range(count):
            Image.fromarray(
                np.random.default_rng(len(part) + 10 * k).integers(0, 256, (64, 80, 3), np.uint8)
            ).save(folder / part / f"{part}{k}.png")
    (folder / "tiny.yaml").write_text(
        "codecs: {jpeg: [10]}\nmethods: [arcnn]\npatch: 32\ntraining: {fidelity: {iterations: 2, batch: 1}}\nmetrics: [psnr]\ndistances: [nlpd]\n"
        "items: [fig10]\npsi: random-w4-s0\nbootstrap: 50\nthreads: 1\n"
    )

    def asked(*changes, out="run"):
        return resolve(
            str(folder / "tiny.yaml"),
            changes,
            raw_train=folder / "train",
            raw_eval=folder / "held",
            out=folder / out,
        )

    asked.folder = folder
    return asked


@pytest.mark.parametrize(
    "change, words",
    [
        ("processes=3", "arcnn: a batch of 1 cannot be shared by 3 processes"),
        ("training.fidelity.lr=.inf", "training.fidelity.lr: Input should be a finite number"),
        ("patch=16", "nlpd needs patches of at least 32 px, not 16, since held has fewer than 10 images"),
        ('evaluate={"..": sample}', "becomes a folder's name"),
        ("methods={1: 2}", "methods"),
    ],
)
def test_what_cannot_end_well_is_said_before_anything_runs(tiny, change, words):
    with pytest.raises(QebiasError, match=words):
        preflight(tiny(change, out="never"))
    assert not (tiny.folder / "never").exists()


def test_a_profile_may_have_no_metrics_and_no_distances(tiny):
    preflight(tiny("metrics=[]", "distances=[]"))


def test_a_key_that_is_no_word_is_one_line(tmp_path):
    (tmp_path / "odd.yaml").write_text("methods: [arcnn]\n5: 3\n")
    with pytest.raises(QebiasError, match="profile odd: 5 is no key: there are name, summary"):
        load_profile(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize(
    "change, words",
    [
        ("name=photos", "this study is not the checkout's photos"),
        ("patch=32", "tiny is no profile of the checkout"),
    ],
)
def test_a_table_is_not_replaced_by_that_of_another_study(tiny, change, words):
    with pytest.raises(QebiasError, match=words):
        publishable(tiny(change))
    publishable(resolve("photos", raw_train=tiny.folder / "train", raw_eval=tiny.folder / "held"))


@pytest.mark.parametrize("where", ["train/run", "held/a/run"])
def test_a_study_does_not_write_among_the_pictures_it_reads(tiny, where):
    with pytest.raises(QebiasError, match="whose pictures the study reads: choose another folder with --out"):
        tiny(out=where)


def test_a_result_that_has_lost_a_part_is_known(tiny):
    study = tiny(out="torn")
    parts = {
        "train/jpeg-10/arcnn/seed-0": ("generator.safetensors",),
        "eval/jpeg-10/arcnn/seed-0/held/jpeg-10": ("scores.parquet", "distances.npz"),
    }
    for place, names in parts.items():
        for name in ("result.json", *names):
            (study.folder / place).mkdir(parents=True, exist_ok=True)
            (study.folder / place / name).touch()
    assert torn(study) == []
    for place, names in parts.items():
        (study.folder / place / names[-1]).unlink()
    assert [p.parent.relative_to(study.folder).as_posix() for p in torn(study)] == list(parts)


@pytest.mark.slow
def test_a_result_that_has_lost_a_part_is_made_again(tiny):
    study = tiny()
    run(study, cores=2, show=lambda line: None)
    lost = [
        study.folder / part
        for part in ("train/jpeg-10/arcnn/seed-0/generator.safetensors", "items/fig10/notebook.ipynb")
    ]
    before = load_state(lost[0])
    for part in lost:
        part.unlink()
    (study.folder / "pairs" / ".digests.json").write_text("[]")
    told = "\n".join(dry_run(study))
    assert "train/jpeg-10/arcnn/seed-0 has lost a part" in told and "items/fig10 has lost a part" in told
    run(study, cores=2, show=lambda line: None)
    assert lost[1].exists() and all(
        torch.equal(x, y) for x, y in zip(before.values(), load_state(lost[0]).values())
    )
    (study.folder / "items/fig10/claims.json").write_text("[]")
    with pytest.raises(QebiasError, match="claims.json holds no claims: remove it"):
        read_claims(study.folder / "items/fig10/claims.json")


def test_an_evaluation_is_made_again_when_its_own_code_changes(monkeypatch):
    import qebias.study as study_module

    study, real = resolve("smoke"), study_module.code_digest

    def key():
        return study_module.key_evaluate(
            study, "compressed", *study.main, 0, next(iter(study.profile.evaluate))
        )

    before, sources = key(), []

    def digest_of(source):
        sources.append(source)
        return real(source) + ("!" if source.startswith("def evaluate(") else "")

    monkeypatch.setattr(study_module, "code_digest", digest_of)
    study_module._code_of_functions.cache_clear()
    assert key() != before and any("def _enhance_all(" in s and "def _realism(" in s for s in sources)
    study_module._code_of_functions.cache_clear()


def test_an_empty_name_for_what_is_written_is_refused(tmp_path):
    for command in (
        ["compress", "x.png", "--level", "37", "-o", ""],
        ["study", "smoke", "--out", ""],
        ["score", "--images", ".", "-o", ""],
    ):
        done = subprocess.run([*QEBIAS, *command], cwd=tmp_path, capture_output=True, text=True)
        assert (
            done.returncode == 2
            and "the name is empty: name a place" in done.stderr
            and not list(tmp_path.iterdir())
        )
