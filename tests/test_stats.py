"The one way from a table to a number: what an interval holds, what is paired, and why something is missing"

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from qebias import stats
from qebias.core import QebiasError
from qebias.stats import COLUMNS, DRAWS, Estimate, Results, Values, combine, difference, estimate, holm

AT = dict(dataset="d", codec="bpg", level=37)


def lines(row, values, quantity="psnr", trained="bpg-37", unit="dB"):
    "Lines of a table from an array (seeds, pictures)"
    return [
        ("d", f"p{i:02d}", "bpg", 37, row, trained, seed, quantity, value, unit)
        for seed, of_seed in enumerate(values)
        for i, value in enumerate(of_seed)
    ]


def table(**rows):
    return pd.DataFrame(sum((lines(row, v) for row, v in rows.items()), []), columns=COLUMNS)


def crossed(generator, k, n, of_training, of_picture, both):
    x = generator.normal(0, of_training, (k, 1)) + generator.normal(0, of_picture, (1, n))
    return x + generator.normal(0, both, (k, n))


@pytest.mark.parametrize(
    "world", [(0.1, 0.3, 0.1, 3, 12), (0.1, 0.05, 0.1, 5, 24), (0.02, 0.3, 0.02, 8, 24)], ids=str
)
def test_the_interval_holds_the_truth_95_times_in_a_hundred(world):
    *spreads, k, n = world
    generator, drawn = np.random.default_rng(1), stats.resamples([f"p{i:02d}" for i in range(n)])
    hits = []
    for _ in range(1500):
        x = crossed(generator, k, n, *spreads)
        array = np.concatenate([x.mean(1, keepdims=True), x[:, drawn].mean(2)], 1)
        found = estimate(Values(array, tuple(range(k)), n, trained=True))
        hits.append(found.low < 0 < found.high)
    assert 93.5 <= 100 * np.mean(hits) <= 98, 100 * np.mean(hits)


def test_both_variances_are_in_it():
    generator = np.random.default_rng(0)
    x = crossed(generator, 5, 30, 0.5, 1.0, 0.01)
    found = estimate(Results(table(a=x)).values("a", "psnr", **AT))
    of_seeds = x.mean(1).var(ddof=1) / 5
    of_pictures = x.mean(0).var(ddof=1) / 30
    assert found.error**2 == pytest.approx(of_seeds + of_pictures, rel=0.15)
    assert found.value == pytest.approx(x.mean())
    assert (found.seeds, found.n, found.unit, found.across) == (5, 30, "dB", "5 seeds and 30 pictures")
    assert 4 < found.df < 33


def test_pictures_that_two_rows_share_cancel():
    "Hard and easy pictures widen each row's interval and not that of the difference"
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 3, 20)
    a, b = (30 + hard + generator.normal(0, 0.1, (4, 20)) + gain for gain in (0.5, 0))
    results = Results(table(a=a, b=b))
    own, other = (results.values(row, "psnr", **AT) for row in "ab")
    gap = estimate(difference(own, other))
    assert gap.error < 0.1 < 0.5 < estimate(own).error
    assert gap.value == pytest.approx((a - b).mean())


def test_trainings_are_paired_by_their_seeds():
    results = Results(table(a=np.ones((5, 4)), b=np.zeros((3, 4))))
    gap = difference(results.values("a", "psnr", **AT), results.values("b", "psnr", **AT))
    assert gap.seeds == (0, 1, 2)
    other = table(b=np.zeros((1, 4))).assign(seed=7)
    apart = Results(pd.concat([table(a=np.ones((1, 4))), other]))
    gap = difference(apart.values("a", "psnr", **AT), apart.values("b", "psnr", **AT))
    assert "share no seed" in gap.missing


def test_a_row_that_is_not_trained_stands_beside_every_training():
    untrained = pd.DataFrame(lines("compressed", np.zeros((1, 4)), trained=""), columns=COLUMNS)
    results = Results(pd.concat([table(a=np.ones((3, 4))), untrained]))
    gap = difference(results.values("a", "psnr", **AT), results.values("compressed", "psnr", **AT))
    assert gap.array[:, 0].tolist() == [1, 1, 1]
    assert estimate(results.values("compressed", "psnr", **AT)).seeds == 0


def test_below_three_seeds_it_is_flagged():
    one, two, three = (
        estimate(Results(table(a=np.random.default_rng(0).normal(size=(k, 9)))).values("a", "psnr", **AT))
        for k in (1, 2, 3)
    )
    assert one.few_seeds and two.few_seeds and not three.few_seeds
    assert one.across == "9 pictures, one seed" and one.df == 8


def test_a_set_quantity_takes_its_own_resamples():
    names = [f"~{k:03d}" for k in range(DRAWS)]
    values = np.random.default_rng(0).normal(5, 1, DRAWS)
    rows = [("d", "", "bpg", 37, "a", "bpg-37", 0, "re:fid", 5.0, "")]
    rows += [("d", name, "bpg", 37, "a", "bpg-37", 0, "re:fid", v, "") for name, v in zip(names, values)]
    results = Results(pd.concat([pd.DataFrame(rows, columns=COLUMNS), table(a=np.ones((1, 6)))]))
    found = results.values("a", "re:fid", **AT)
    assert found.array.shape == (1, 1 + DRAWS) and found.pictures == 6
    assert found.array[0, 1:].tolist() == values.tolist()
    assert estimate(found).value == 5


def test_a_set_quantity_without_resamples_has_a_value_and_no_interval():
    rows = [("d", "", "bpg", 37, "a", "bpg-37", 0, "fid", 5.0, "")]
    results = Results(pd.concat([pd.DataFrame(rows, columns=COLUMNS), table(a=np.ones((1, 6)))]))
    found = estimate(results.values("a", "fid", **AT))
    assert found.value == 5 and found.low is None and "resamples" in found.missing


@pytest.mark.parametrize(
    "where, words",
    [
        (dict(row="b"), "no row b among the results"),
        (dict(quantity="fid"), "no quantity fid among the results"),
        (dict(codec="jpeg"), "no codec jpeg"),
        (dict(level=32), "no level 32"),
        (dict(dataset="x"), "no dataset x"),
    ],
)
def test_what_is_missing_says_why(where, words):
    results = Results(table(a=np.ones((1, 4))))
    found = results.values(**(dict(row="a", quantity="psnr") | AT | where))
    assert words in found.missing
    assert words in estimate(found).missing and estimate(found).value is None
    assert words in difference(found, results.values("a", "psnr", **AT)).missing


def test_a_value_that_a_picture_lacks_is_said_with_its_reason():
    t = table(a=np.ones((1, 4)))
    t.loc[2, ["value", "unit"]] = [np.nan, "niqe has no value for a flat picture"]
    found = Results(t).values("a", "psnr", **AT)
    assert found.missing == "psnr of a, p02: niqe has no value for a flat picture"


def test_seeds_that_saw_other_pictures_are_not_averaged():
    t = table(a=np.ones((2, 4))).iloc[:-1]
    assert "not measured on the same pictures" in Results(t).values("a", "psnr", **AT).missing


def test_rows_that_saw_other_pictures_are_not_compared():
    results = Results(table(a=np.ones((1, 4)), b=np.ones((1, 3))))
    gap = difference(results.values("a", "psnr", **AT), results.values("b", "psnr", **AT))
    assert "different pictures (4, 3)" in gap.missing


def test_tables_that_are_none():
    with pytest.raises(QebiasError, match="no column seed"):
        Results(table(a=np.ones((1, 4))).drop(columns="seed"))
    t = table(a=np.ones((1, 4)))
    with pytest.raises(QebiasError, match="several values of one picture and seed"):
        Results(pd.concat([t, t.assign(trained_on="jpeg-20")])).values("a", "psnr", **AT)


def test_one_picture_has_no_interval():
    found = estimate(Results(table(a=np.ones((3, 1)))).values("a", "psnr", **AT))
    assert found.value == 1 and found.low is None and "two pictures" in found.missing
    assert found.p_value() == 1


def test_resamples_are_a_function_of_the_names_alone():
    a, b = stats.resamples(["x", "y", "z"]), stats.resamples(["z", "x", "y"])
    assert (a == b).all() and a.shape == (DRAWS, 3)
    assert (a != stats.resamples(["x", "y", "w"])).any()


def test_the_lines_may_come_in_any_order():
    t = table(a=np.random.default_rng(0).normal(size=(3, 8)))
    one, other = (Results(x).values("a", "psnr", **AT).array for x in (t, t.sample(frac=1, random_state=1)))
    assert one == pytest.approx(other, abs=1e-12)


def test_deviation_ratio_and_share():
    sides = [Values(np.full((1, 3), x), (0,), 4) for x in (1.0, 2.0, 2.5)]
    assert stats.deviation_of(*sides).array == pytest.approx(100 * (1 - 4) / 6.25)
    assert stats.ratio(*sides[:2]).array == pytest.approx(0.5)
    assert stats.share(*sides[:2]).array == pytest.approx(-50)
    none = stats.deviation_of(sides[0], sides[1], Values(np.zeros((1, 3)), (0,), 4))
    assert "no finite value" in none.missing
    assert combine(lambda a, b, c: a + b + c, *sides).array == pytest.approx(5.5)


def test_p_values_agree_with_the_interval():
    found = Estimate(1.0, 0.2, 1.8, 20, 5, error=0.8 / scipy_stats.t.ppf(0.975, 6), df=6)
    assert found.p_value(found.low) == pytest.approx(0.05)
    assert found.p_value(1.0) == 1 and found.p_value(5) < 0.05
    assert Estimate(1.0, 1.0, 1.0, error=0.0, df=3).p_value(0) == 0


def test_holm_against_its_definition():
    p = [0.001, 0.04, 0.03, 0.2]
    assert holm(p) == pytest.approx([0.004, 0.09, 0.09, 0.2])
    assert holm([0.9, 0.9]) == [1, 1]


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_none(level):
    with pytest.raises(QebiasError, match="level lies between 0 and 1"):
        estimate(Values(np.ones((1, 201)), (0,), 5), level)
