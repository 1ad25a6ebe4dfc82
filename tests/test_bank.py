"The discriminator bank: what decides it, what a kill loses, and that its arithmetic has a version"

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from qebias import bank as b
from qebias import bank_settings
from qebias.core import QebiasError
from qebias.stats import COLUMNS, Results

PROFILE = SimpleNamespace(patch=32)
TINY = {"iterations": 2, "width": 4, "batch": 2, "seeds": [0, 1]}


class Store:
    "Pairs of made-up pictures: smooth shapes with detail, and the same without the detail"

    manifest = {"codec": {"codec": "bpg", "level": 37}}

    def __init__(self, names, size=(64, 72), seed=0):
        self.names, self.key = names, f"{names} {seed}"
        generator = np.random.default_rng(seed)
        y, x = np.mgrid[: size[0], : size[1]]
        self.pictures = []
        for i in range(len(names)):
            smooth = 128 + 60 * np.sin(y / (5 + i))[..., None] * np.cos(x / (7 + i))[..., None] * np.ones(3)
            raw = np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255)
            self.pictures.append((raw.astype(np.uint8), smooth.astype(np.uint8)))

    def __len__(self):
        return len(self.names)

    def raw(self, i):
        return self.pictures[i][0]

    def compressed(self, i):
        return self.pictures[i][1]


def stores():
    return {"train": Store(["a", "b"]), "held": Store(["d", "c"], (96, 64), 1)}


def settings(**more):
    return b.bank_settings({**TINY, **more}, PROFILE)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return b.run_bank(settings(), stores(), tmp_path_factory.mktemp("bank"))


def test_settings_are_data_and_hold_a_version():
    found = settings()
    assert json.loads(json.dumps(found)) == found
    assert type(found["version"]) is int and found["patch"] == 32


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"step": 1}, "unknown key step"),
        ({"fakes": ["odd"]}, "fakes has 'odd'"),
        ({"kinds": ["odd"]}, "kinds has 'odd'"),
        ({"projection": "odd"}, "projection is 'odd'"),
        ({"iterations": 0}, "iterations is 0"),
    ],
)
def test_bad_settings_are_one_line(wrong, said):
    with pytest.raises(QebiasError, match=said):
        b.bank_settings(wrong, PROFILE)


def test_every_kind_meets_every_fake(table):
    assert list(table.columns) == COLUMNS
    assert set(table.row) == {f"bank:{kind}:{fake}" for kind in b.KINDS for fake in b.FAKES}
    assert (
        set(table.trained_on) == {"bpg-37"} and set(table.seed) == {0, 1} and set(table.dataset) == {"held"}
    )
    assert not table.duplicated(["row", "seed", "picture", "quantity"]).any()
    assert np.isfinite(table.value).all()


def test_only_conditional_ones_are_asked_beside_another_condition(table):
    asked = {"score:raw-swapped", "score:blend-25", "score:blend-50", "score:blend-75"}
    for row, part in table.groupby("row"):
        assert asked & set(part.quantity) == (asked if ":cond:" in row else set())


def test_a_bank_is_the_same_twice(table, tmp_path):
    again = b.run_bank(settings(), stores(), tmp_path)
    pd.testing.assert_frame_equal(again, table)


def test_a_kill_loses_at_most_one_discriminator(table, tmp_path, monkeypatch):
    trained = []
    whole = b.one_discriminator

    def killed(*args):
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(args[1])
        return whole(*args)

    monkeypatch.setattr(b, "one_discriminator", killed)
    with pytest.raises(KeyboardInterrupt):
        b.run_bank(settings(), stores(), tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 5
    monkeypatch.setattr(b, "one_discriminator", lambda *args: trained.append(args[1]) or whole(*args))
    pd.testing.assert_frame_equal(b.run_bank(settings(), stores(), tmp_path), table)
    assert len(trained) == 2 * len(b.KINDS) * len(b.FAKES)


def test_other_fakes_under_the_same_name_are_trained_anew(tmp_path):
    own = settings(fakes=[], rows=["g"], kinds=["plain"], seeds=[0])
    one = b.run_bank(own, stores(), tmp_path, enhancers={"g": lambda rgb: rgb // 2})
    other = b.run_bank(own, stores(), tmp_path, enhancers={"g": lambda rgb: 255 - rgb})
    assert set(one.row) == {"bank:plain:g"}
    assert not np.array_equal(one.value, other.value)
    with pytest.raises(QebiasError, match="nothing makes the fakes 'g'"):
        b.run_bank(own, stores(), tmp_path)


def test_progress_counts_discriminators(tmp_path):
    seen = []
    b.run_bank(
        settings(kinds=["plain"], fakes=["blur"]), stores(), tmp_path, lambda i, n: seen.append((i, n))
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_a_second_fake_is_found_out():
    "Shown compressed patches as fakes, the discriminator puts them below what the plain one gives them"
    own = b.bank_settings({"iterations": 60, "width": 4, "lr": 1e-2}, PROFILE)
    held = b.chosen(Store(["a", "b"]), 2)
    fakes = b.with_fakes(held, "far", {})
    gaps = {}
    for kind in ("plain", "second"):
        discriminator = b.train_discriminator(own, kind, held, fakes, 0)
        raw, compressed = (np.mean(b.mean_scores(discriminator, x, x, 32)) for x in (held.first, held.second))
        gaps[kind] = compressed - raw
    assert gaps["second"] < gaps["plain"]


def test_conditions_and_blends():
    held = b.chosen(Store(["b", "a"]), 5)
    assert held.names == ["a", "b"]
    assert np.array_equal(b.swapped(held)[0], held.second[1])
    assert np.array_equal(b.blended(held, 0)[1], held.second[1])
    assert np.array_equal(b.blended(held, 100)[1], held.first[1])
    half = b.blended(held, 50)[0].astype(float)
    assert np.abs(half - (held.first[0].astype(float) + held.second[0]) / 2).max() <= 0.5


def test_pages_take_a_table_without_a_bank(table):
    nothing = Results(
        table[~table.row.str.startswith("bank:plain")].assign(row="compressed").drop_duplicates(COLUMNS[:-2])
    )
    gaps = b.bank_gaps(nothing, "held", "bpg", 37)
    assert gaps.empty
    assert b.bank_scores(nothing, "held", "bpg", 37).empty
    assert "Not measured" in b.gap_figure(gaps, ["compressed"]).data


# Versions: another number needs another version

STORED = Path(__file__).parent / "numbers" / "bank.json"


def fingerprint():
    "Scores after three steps in double precision, by kind"
    own = settings(iterations=3)
    held = b.chosen(Store(["a", "b"]), 2)
    found = {}
    for kind in b.KINDS:
        for fake in b.FAKES:
            fakes = b.with_fakes(held, fake, {})
            discriminator = b.train_discriminator(own, kind, held, fakes, 0, torch.float64)
            values = {}
            for _, quantity, value, _ in b.score_lines(discriminator, held, fakes, 32):
                values.setdefault(quantity, []).append(value)
            scores = {q: float(f"{np.mean(v):.5g}") for q, v in values.items() if q.startswith("score:")}
            found[f"{kind} {fake}"] = scores
    return found


def test_another_number_needs_another_version():
    stored = json.loads(STORED.read_text())
    known = stored.get(str(bank_settings.VERSION))
    assert known, (
        f"tests/numbers/bank.json has nothing of version {bank_settings.VERSION}: python -m tests.test_bank"
    )
    for name, scores in fingerprint().items():
        assert scores == pytest.approx(known[name], rel=2e-4), f"{name} changed: raise VERSION of qebias.bank"


if __name__ == "__main__":
    kept = json.loads(STORED.read_text()) if STORED.exists() else {}
    STORED.write_text(json.dumps({**kept, str(bank_settings.VERSION): fingerprint()}, indent=1) + "\n")
