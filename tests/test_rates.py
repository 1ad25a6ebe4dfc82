"BD-BR: published numbers, properties, every broken curve, and tables that are not what they should be"

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest

from qebias import rates
from qebias.core import QebiasError
from qebias.rates import POINTS, BDRate, Curve, bd_br, bd_rate, bd_rates, breaks, curves
from qebias.stats import COLUMNS, Results, difference, estimate

BPP, LEVELS = np.array([0.07, 0.13, 0.25, 0.48, 0.9]), (47, 42, 37, 32, 27)
ANCHOR = Curve(BPP, [25.6, 28.2, 30.9, 33.8, 36.9], LEVELS, "compressed")
BETTER = Curve(BPP, [26.0, 28.7, 31.5, 34.6, 37.8], LEVELS, "arcnn")


@pytest.fixture(autouse=True)
def loud():
    "No warning reaches a user"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_example_of_the_document_that_defines_the_measure():
    "VCEG-M33's curves; both results from tbr/bjontegaard_cpp, example.cpp"
    a = Curve([90.33, 181.03, 332.99, 547.79], [27.95, 31.17, 34.44, 38.11])
    b = Curve([127.1719, 186.14, 307.2924, 481.5588], [29.9286, 32.4165, 34.7013, 37.4561])
    cell = bd_br(a, b)
    assert cell.value == pytest.approx(-13.261773, abs=5e-7)
    assert (
        cell.overlap == pytest.approx((37.4561 - 29.9286) / (38.11 - 27.95)) and "74 % overlap" in cell.marks
    )


def by_trapezoid(anchor, test, sign=1):
    "BD-BR from its definition with a cubic of one's own, the integral as a sum"
    a, t = sign * anchor.value, sign * test.value
    low, high = max(a[0], t[0]), min(a[-1], t[-1])
    q = np.linspace(low, high, 20001)
    fit = [np.polynomial.Polynomial.fit(v, np.log10(c.bpp), 3)(q) for v, c in ((a, anchor), (t, test))]
    return 100 * (10 ** np.mean((fit[1] - fit[0])[:-1] + np.diff(fit[1] - fit[0]) / 2) - 1)


@pytest.mark.parametrize("levels", [4, 5, 7, 9])
def test_cubic_is_the_least_squares_fit_of_the_definition(levels):
    rng = np.random.default_rng(levels)
    bpp = 0.1 * 1.6 ** np.arange(levels)
    a, b = (
        Curve(bpp, 30 + 5 * np.log(bpp) + rng.uniform(0, 1) + 0.1 * rng.normal(size=levels)) for _ in range(2)
    )
    assert bd_br(a, b).value == pytest.approx(by_trapezoid(a, b), rel=1e-6)


@pytest.mark.parametrize("method", POINTS)
def test_the_order_of_the_points_does_not_matter(method):
    expected = bd_br(ANCHOR, BETTER, method=method).value
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 17):
        i = list(order)
        shuffled = Curve(BETTER.bpp[i], BETTER.value[i], [BETTER.levels[k] for k in i], "arcnn")
        assert (
            bd_br(ANCHOR, shuffled, method=method).value == pytest.approx(expected, abs=1e-12)
            and shuffled.levels == LEVELS
        )


@pytest.mark.parametrize("method", POINTS)
@pytest.mark.parametrize("factor", [0.01, 0.5, 0.75, 1, 3])
def test_a_scaled_rate_is_the_saving(method, factor):
    assert bd_br(ANCHOR, Curve(BPP * factor, ANCHOR.value), method=method).value == pytest.approx(
        100 * (factor - 1), abs=1e-8
    )


@pytest.mark.parametrize("method", POINTS)
def test_less_is_better_is_the_negative_and_the_sign_says_who_saves(method):
    a, b = Curve(BPP, -ANCHOR.value), Curve(BPP, -BETTER.value)
    assert bd_br(a, b, "lower", method).value == pytest.approx(
        bd_br(ANCHOR, BETTER, "higher", method).value, abs=1e-9
    )
    assert bd_br(a, b, "lower", method).value < 0 < bd_br(b, a, "lower", method).value
    assert bd_br(a, b, "higher", method).value is None


@pytest.mark.parametrize("method", POINTS)
@pytest.mark.parametrize("scale, shift", [(1e-6, 0.9999), (1e6, -5), (1, 1e4)])
def test_the_unit_of_quality_does_not_matter(method, scale, shift):
    a, b = (Curve(BPP, shift + scale * c.value) for c in (ANCHOR, BETTER))
    assert bd_br(a, b, method=method).value == pytest.approx(
        bd_br(ANCHOR, BETTER, method=method).value, rel=1e-5
    )


BROKEN = {
    "dent": (BPP, [25.6, 28.4, 30.9, 30.7, 36.9], "level 32 .* is no better than level 37"),
    "plateau": (BPP, [25.6, 28.4, 30.9, 30.9, 36.9], "level 32"),
    "falling": (BPP, [36, 34, 32, 30, 28], "level 42 .* is no better than level 47"),
    "nan": (BPP, [25, np.nan, 30, 33, 36], "no finite value or rate at level 42"),
    "inf": (BPP, [25, 28, 30, 33, np.inf], "no finite value or rate at level 27"),
    "no rate": ([np.nan, 0.13, 0.25, 0.48, 0.9], ANCHOR.value, "no finite value or rate"),
    "zero rate": ([0, 0.13, 0.25, 0.48, 0.9], ANCHOR.value, "rate without a logarithm at level 47"),
    "negative rate": ([-1, 0.13, 0.25, 0.48, 0.9], ANCHOR.value, "rate without a logarithm"),
    "one rate twice": (
        [0.07, 0.13, 0.13, 0.48, 0.9],
        ANCHOR.value,
        "one rate twice: level 42 .* and level 37",
    ),
    "above": (BPP, ANCHOR.value + 11.3, "do not overlap: compressed from 25.6 to 36.9, odd from 36.9 to"),
    "below": (BPP, ANCHOR.value - 20, "do not overlap"),
}


@pytest.mark.parametrize("method", POINTS)
@pytest.mark.parametrize("kind", BROKEN)
def test_every_broken_curve_is_an_empty_cell_with_its_reason(kind, method):
    bpp, value, words = BROKEN[kind]
    odd = Curve(bpp, value, LEVELS, "odd")
    for pair in ((ANCHOR, odd), (odd, ANCHOR)):
        cell = bd_br(*pair, method=method)
        assert (
            cell.value is None
            and str(cell) == ""
            and not cell.marks
            and "\n" not in cell.reason
            and "odd" in cell.reason
        )
    assert re.search(words, bd_br(ANCHOR, odd, method=method).reason), bd_br(
        ANCHOR, odd, method=method
    ).reason


@pytest.mark.parametrize("points", range(6))
def test_as_many_points_as_an_interpolation_needs(points):
    few = Curve(BPP[:points], BETTER.value[:points], LEVELS[:points], "few")
    for method, least in POINTS.items():
        cell = bd_br(ANCHOR, few, method=method)
        assert (cell.value is not None) == (points >= least), (method, points)
        if points < least:
            assert cell.reason == f"{method} needs {least} levels, and few has {points}"


def test_two_points_by_pchip_are_straight_lines():
    a, b = Curve([1, 10], [0.0, 1]), Curve([0.1, 1], [0.0, 1])
    assert bd_br(a, b, method="pchip").value == pytest.approx(-90)


def test_marks():
    shifted = Curve(BPP, ANCHOR.value + 6, LEVELS)
    cell = bd_br(ANCHOR, shifted)
    assert (
        cell.overlap == pytest.approx((36.9 - 31.6) / (42.9 - 25.6))
        and cell.marks == ["30 % overlap"]
        and str(cell).endswith("(30 % overlap)")
    )
    assert BDRate(-1.0, overlap=0.75).marks == [] and BDRate(-1.0, overlap=0.7499).marks == ["74 % overlap"]


def test_a_metric_that_saturates_has_a_reason_and_no_number():
    "The published accident: both curves rise, and a cubic makes +100421 % of them"
    a = Curve([5012.39, 4012.23, 3014.7, 2014.65], [99.97751, 99.91607, 99.51432, 96.622])
    b = Curve([5096.02, 4000.03, 3067.89, 2054.35], [99.98146, 99.94996, 99.66744, 97.1181])
    cell = bd_br(a, b)
    assert cell.value is None and "saturates" in cell.reason and "pchip" in cell.reason
    assert -5 < bd_br(a, b, method="pchip").value < 0
    better = Curve([0.1, 0.2, 0.4, 0.8], [0.90, 0.9990, 0.9999, 0.99999])
    worse = Curve([0.1, 0.2, 0.4, 0.8], [0.80, 0.9980, 0.9998, 0.99998])
    for method in POINTS:
        found = bd_br(worse, better, method=method)
        assert found.value is None and found.reason or -90 < found.value < 0


@pytest.mark.parametrize("levels", [4, 5])
def test_a_number_never_leaves_the_rates_of_its_curves(levels):
    "With fits that rise, the mean log ratio of rates is bounded by the rates themselves"
    rng = np.random.default_rng(levels)
    for _ in range(300):
        bpp = np.sort(rng.uniform(0.05, 1.5, levels))
        curves_ = [Curve(bpp, 1 - np.sort(rng.exponential(0.05, levels))[::-1]) for _ in range(2)]
        value = bd_br(*curves_).value
        assert value is None or abs(np.log1p(value / 100)) <= 1.5 * np.log(bpp[-1] / bpp[0])


def test_points_that_nearly_coincide_are_no_bare_warning():
    tight = Curve(BPP, [25.0, 25 + 1e-14 * 1, 25 + 2e-14, 25 + 4e-14, 25 + 6e-14], LEVELS, "tight")
    for method in POINTS:
        cell = bd_br(ANCHOR, tight, method=method)
        assert cell.value is None and cell.reason or np.isfinite(cell.value)


def test_breaks_by_direction():
    c = Curve(BPP, [5.0, 4, 4, 3, 3.5])
    assert (
        breaks(c, "lower") == (2, 4)
        and breaks(c) == (1, 2, 3)
        and breaks(Curve([1, 2, 3], [1, np.nan, 3])) == (1, 2)
    )


def table(gain=0.6, seeds=3, pictures=10, levels=LEVELS, spread=0.05, own=1.5):
    "An invented study; rates and values differ from picture to picture"
    rng, lines = np.random.default_rng(0), []
    ease = rng.normal(0, own, pictures)
    for (k, level), i in itertools.product(enumerate(levels), range(pictures)):
        place, value = ("set", f"i{i:02}", "bpg", level), 26 + 2.8 * k + ease[i]
        lines.append((*place, "compressed", "", 0, "bpp", BPP[k] * np.exp(-0.2 * ease[i]), "bpp"))
        lines.append((*place, "compressed", "", 0, "psnr", value, "dB"))
        for seed in range(seeds):
            got = value + gain + 0.1 * seed + rng.normal(0, spread)
            lines.append((*place, "arcnn", f"bpg-{level}", seed, "psnr", got, "dB"))
    return pd.DataFrame(lines, columns=COLUMNS)


AT = dict(dataset="set", codec="bpg", better="higher")


def test_a_point_is_the_mean_over_seeds_and_pictures():
    df = table()
    found = curves(Results(df), "psnr")["arcnn"]
    at = df[(df.row == "arcnn") & (df.level == 32)]
    rates = df[(df.quantity == "bpp") & (df.level == 32)]
    assert found.value[3] == pytest.approx(at.value.mean()) and found.levels == LEVELS
    assert found.bpp[3] == pytest.approx(rates.value.mean())


def test_each_training_has_the_bd_br_of_its_mean_curve():
    df = table()
    found = bd_rate(Results(df), "arcnn", "psnr", **AT)
    assert found.array.shape == (3, 201) and found.unit == "%"
    for seed in range(3):
        one = curves(Results(df[(df.seed == seed) | (df.row == "compressed")]), "psnr")
        assert found.array[seed, 0] == pytest.approx(bd_br(one["compressed"], one["arcnn"]).value)


def test_a_resample_takes_rates_and_values_of_the_same_pictures():
    df = table(seeds=1)
    found = bd_rate(Results(df), "arcnn", "psnr", **AT)
    from qebias.stats import resamples

    drawn = [f"i{i:02}" for i in resamples(df.picture.unique())[4]]
    wide = {
        key: df[(df.row == key[0]) & (df.quantity == key[1])].pivot(
            index="picture", columns="level", values="value"
        )
        for key in (("compressed", "bpp"), ("compressed", "psnr"), ("arcnn", "psnr"))
    }
    bpp, anchor, test = (part.loc[drawn].mean()[list(LEVELS)].to_numpy() for part in wide.values())
    assert found.array[0, 5] == pytest.approx(bd_br(Curve(bpp, anchor), Curve(bpp, test)).value)


def test_a_row_equal_to_the_anchor_saves_nothing_with_certainty():
    found = estimate(bd_rate(Results(table()), "compressed", "psnr", **AT))
    assert (found.low, found.value, found.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_the_difference_of_two_rows_is_sharper_than_either():
    df = table(spread=0.3)
    other = df[df.row == "arcnn"].assign(row="esrgan", value=lambda d: d.value + 0.3)
    results = Results(pd.concat([df, other]))
    a, b = (bd_rate(results, row, "psnr", **AT) for row in ("esrgan", "arcnn"))
    gap = estimate(difference(a, b))
    assert gap.high < 0 and gap.error < min(estimate(a).error, estimate(b).error)


def test_one_rate_is_computed_once_and_another_direction_or_anchor_is_another(monkeypatch):
    results, made = Results(table()), []
    monkeypatch.setattr(rates, "rate_between", lambda _, *asked: made.append(asked) or asked)
    for row, better, anchor in [("arcnn", "higher", "compressed"), ("arcnn", "lower", "compressed")] * 2:
        assert rates.bd_rate(results, row, "psnr", "set", "bpg", better, anchor)[4:6] == (better, anchor)
    assert rates.bd_rate(results, "arcnn", "psnr", "set", "bpg", "higher", "dncnn")[5] == "dncnn"
    assert len(made) == 3
    rates.bd_rate(Results(table()), "arcnn", "psnr", "set", "bpg", "higher")
    assert len(made) == 4  # of other results


def test_what_is_missing_is_said():
    df = table()

    def reason(table, row="arcnn"):
        return bd_rate(Results(table), row, "psnr", **AT).missing

    assert reason(df, "rdn") == "cubic needs 4 levels, and rdn has 0 of psnr"
    assert reason(df[df.level > 36]) == "cubic needs 4 levels, and arcnn has 3 of psnr"
    hole = (df.row == "arcnn") & (df.picture == "i04") & (df.seed == 1) & (df.level == 32)
    assert "not measured on the same pictures" in reason(df[~hole])
    assert "different pictures" in reason(df[~((df.row == "arcnn") & (df.picture == "i04"))])
    assert "no quantity bpp" in reason(df[df.quantity != "bpp"])
    dent = (df.row == "arcnn") & (df.level == 32)
    assert "arcnn is not monotone: level 32" in reason(df.assign(value=df.value - 7 * dent))
    assert not reason(df)


def test_a_broken_majority_of_resamples_has_no_interval():
    bpp = np.tile(BPP, (40, 1))
    anchor = np.tile(ANCHOR.value, (40, 1))
    test = np.tile(BETTER.value, (40, 1))
    test[1:30, 3] -= 9
    found = bd_rates(bpp, anchor, test)
    assert np.isnan(found[1:30]).all() and np.isfinite(found[30:]).all()
    from qebias.stats import Values

    told = estimate(Values(found[None], (0,), 12))
    assert told.value == pytest.approx(found[0]) and told.low is None and "resamples" in told.missing


def test_words_that_are_none():
    for words in (dict(better="up"), dict(better="higher", method="spline")):
        with pytest.raises(QebiasError, match="is called"):
            bd_br(ANCHOR, BETTER, **words)


def test_levels_that_do_not_match_are_one_line():
    with pytest.raises(QebiasError, match="pass as many levels of each"):
        bd_rates(np.ones((3, 4)), np.ones((2, 4)), np.ones(4))
