"What the paper leaves open: rows with another divergence, rows that were trained elsewhere, a third codec; on a study as small as can be"

import pytest

from qebias import evidence
from qebias.core import QebiasError
from qebias.methods import METHODS, kin, method
from qebias.runner import plan, resolve
from qebias.study import Study, compress, config_of, evaluate, key_train, load_profile, train

GRID = {
    "codecs": "{bpg: [32, 37], jpeg: [10], avif: [20]}",
    "methods": "[rrdb, rrdb@all, rrdb@bpg-37, rrdb@jpeg-10, realesrgan]",
    "metrics": "[psnr]",
    "distances": "[nlpd]",
    "bootstrap": "50",
    "cells": "{rrdb@all: [bpg-32], rrdb@bpg-37: [bpg, jpeg], rrdb@jpeg-10: [bpg-37], rrdb: [bpg, jpeg, avif], realesrgan: [avif]}",
    "training.fidelity.iterations": "2",
    "training.adversarial.iterations": "1",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "Every job of the grid, in this process"
    study = Study(
        load_profile("smoke", [f"{k}={v}" for k, v in GRID.items()]), tmp_path_factory.mktemp("grid")
    )
    for cell in study.compressions():
        compress(study, *cell, workers=1, progress=False)
    for cell in sorted(study.trainings(), key=lambda t: t[0] != "rrdb"):
        train(study, *cell)
    for cell in study.evaluations():
        evaluate(study, *cell)
    return study


def cell(study):
    return evidence.Cell(study, *study.main, "")


def test_a_row_stands_only_where_the_profile_says(study):
    rows = [e[:3] for e in study.evaluations() if e[0] != "compressed"]
    assert [r for r in rows if r[0] == "realesrgan"] == [("realesrgan", "avif", 20)]
    assert [r for r in rows if "@" in r[0]] == [
        ("rrdb@all", "bpg", 32),
        ("rrdb@bpg-37", "bpg", 32),
        ("rrdb@jpeg-10", "bpg", 37),
        ("rrdb@bpg-37", "jpeg", 10),
    ]
    assert ("rrdb@bpg-37", "bpg", 37, 0, "sample") in study.cells(), "there it is rrdb's own evaluation"
    assert cell(study).has("rrdb@bpg-37") and not cell(study).has("realesrgan")
    assert cell(study).absent("realesrgan") == "realesrgan not evaluated at BPG 37 in smoke"
    assert cell(study).absent("esrgan", "realesrgan") == "esrgan, realesrgan not in smoke"


def test_transfer_compares_each_stranger_with_the_model_that_was_trained_there(study):
    found = evidence.claims_codecs(cell(study))
    assert [c.text.partition(":")[0] for c in found[::2]] == [
        "RRDB, stage 1, trained on jpeg-10, at BPG 37",
        "RRDB, stage 1, trained on bpg-37, at JPEG 10",
    ]
    psnr, lean = found[0], found[1]
    own, other = (cell(study).mean(n, "psnr") for n in ("rrdb", "rrdb@jpeg-10"))
    assert psnr.ours == pytest.approx(other - own) and psnr.verdict == (
        "holds" if psnr.interval[1] < 0 else "opposite" if psnr.interval[0] > 0 else "within noise"
    )
    deviations = [cell(study).measured(n, 0)["nlpd"].deviation for n in ("rrdb@jpeg-10", "rrdb")]
    assert (
        lean.ours == pytest.approx(deviations[0] - deviations[1])
        and lean.unit == "points"
        and lean.stand_in == "nlpd"
    )
    assert all(c.between_trainings and c.paper == "hypothesis" for c in found)
    gains = evidence.gains_table(cell(study).everywhere(), ["rrdb", "rrdb@jpeg-10"])
    assert list(gains) == ["BPG 32", "BPG 37", "JPEG 10", "AVIF 20"] and gains.notna().sum(
        axis=1
    ).tolist() == [4, 1]


def test_levels_hold_the_blind_row_and_the_one_of_another_level(study):
    found = [(c.text, c.holds) for c in evidence.claims_levels(cell(study))]
    assert found == [
        ("RRDB, stage 1, blind, at BPG 32: PSNR below the model that was trained there", "below"),
        ("RRDB, stage 1, trained on bpg-37, at BPG 32: PSNR below the model that was trained there", "below"),
        ("RRDB, stage 1, trained on bpg-37, at BPG 32: leans less towards compressed than that", "above"),
    ], "QP 37 is stronger than QP 32, and nothing is expected of a blind model's bias"


def test_what_is_expected_of_a_bias_follows_the_strength_of_compression():
    class Of:
        def __init__(self, codec, level, trained):
            self.codec, self.level, self.study = codec, level, self
            self.trained = trained

        def training_of(self, name, codec, level, seed):
            return name, *self.trained, seed

    for here, trained, side in (
        (("bpg", 42), ("bpg", 37), "below"),
        (("bpg", 32), ("bpg", 37), "above"),
        (("jpeg", 10), ("jpeg", 50), "below"),
        (("jpeg", 50), ("jpeg", 10), "above"),
        (("jpeg", 10), ("bpg", 47), "below"),
        (("avif", 60), ("avif", 20), "above"),
    ):
        assert evidence._lean_of(Of(*here, trained), "rrdb@x", "x")[1] == side, (here, trained)
    assert evidence._lean_of(Of("bpg", 32, ("bpg", "all")), "rrdb@all", "x") is None


def test_gains_are_counted_in_words_and_a_row_that_repeats_another_is_left_out(study):
    cells = {
        c: ["rrdb"] if c.where == "BPG 37" else ["rrdb", "rrdb@bpg-37"]
        for c in cell(study).everywhere()
        if c.codec != "avif"
    }
    gains = evidence.gains_table(cells, ["rrdb", "rrdb@bpg-37"])
    assert gains.notna().sum(axis=1).tolist() == [3, 2]
    assert evidence.harm(gains.abs()) == "0 of 5 gains are losses." and evidence.harm(
        -gains.abs()
    ).startswith("5 of 5 gains are losses: there")
    assert evidence.harm(gains.iloc[:0]) == "No row was scored."


def test_a_modern_codec_is_found_and_judged(study):
    there = evidence.modern(cell(study))
    assert (there.codec, there.level) == ("avif", 20) and evidence.modern(there) is there
    found = {c.text: c for c in evidence.claims_modern(cell(study))}
    assert found["AVIF 20: Real-ESRGAN scores compressed above raw"].verdict != "not measured"
    assert found["AVIF 20: Real-ESRGAN leans towards compressed"].ours == pytest.approx(
        there.measured("realesrgan", 0)["nlpd"].deviation
    )
    assert (
        found["AVIF 20: Real-ESRGAN +both: less bias than Real-ESRGAN"].missing
        == "realesrgan+both not in smoke"
    )
    assert evidence.codecs_table(cell(study)).index.tolist() == ["BPG 32", "BPG 37", "JPEG 10", "AVIF 20"]


def test_a_name_carries_its_divergence_into_training_keys_paths_and_the_graph(tmp_path):
    names = ["realesrgan+div", "realesrgan+div.l2", "realesrgan+div.l2.batch", "realesrgan+both.l5.element"]
    s = resolve(
        "smoke",
        [
            f"methods=[rrdb, {', '.join(names)}]",
            "divergence={blocks: [4], reduction: element}",
            "training.realesrgan+div={iterations: 3}",
        ],
        out=tmp_path / "s",
    )
    assert [
        (config_of(s, n, 0).divergence.blocks, config_of(s, n, 0).divergence.reduction) for n in names
    ] == [((4,), "element"), ((2,), "element"), ((2,), "batch"), ((5,), "element")]
    assert [config_of(s, n, 0).iterations for n in names] == [3, 3, 3, 4], (
        "what holds for a method holds for its rows with another divergence"
    )
    assert (
        len({key_train(s, n, "bpg", 37, 0) for n in names}) == 4
        and len({s.train_path(n, "bpg", 37, 0) for n in names}) == 4
    )
    assert plan(s, ["divergence"]) == {"compress": 2, "train": 4, "evaluate": 4, "item": 1}
    other = resolve(
        "smoke",
        [
            f"methods=[rrdb, {', '.join(names)}]",
            "divergence={blocks: [1], reduction: sample}",
            "training.realesrgan+div={iterations: 3}",
        ],
        out=tmp_path / "s",
    )
    assert [n for n in names if key_train(other, n, "bpg", 37, 0) == key_train(s, n, "bpg", 37, 0)] == [
        "realesrgan+div.l2.batch",
        "realesrgan+both.l5.element",
    ]


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.divergence])
def test_a_method_without_divergence_takes_no_block(name):
    with pytest.raises(QebiasError, match="has no divergence to take elsewhere"):
        method(f"{name}.l3")


def test_kin():
    assert (
        kin("arcnn@all", ["arcnn"])
        and kin("esrgan+div.l3@bpg-37", ["esrgan+div.l3"])
        and not kin("esrgan+both", ["esrgan"])
    )


def test_the_profile_is_of_the_demonstrations_size():
    small, demo = load_profile("beyond"), load_profile("demo")
    assert (small.train, small.evaluate, small.psi, small.device, small.precision, small.threads) == (
        demo.train,
        demo.evaluate,
        demo.psi,
        demo.device,
        demo.precision,
        demo.threads,
    )
    s = Study(small)
    assert len(s.trainings()) < 20 and len(s.evaluations()) < 35
    assert {"divergence", "codecs", "levels", "modern"} == set(small.items)
