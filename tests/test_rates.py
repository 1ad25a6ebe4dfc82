"BD-BR: published numbers, properties, every broken curve, and tables that are not what they should be"

import itertools
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from qebias import rates
from qebias.core import QebiasError
from qebias.rates import POINTS, BDRate, Curve, bd_br, bd_br_notes, bd_br_rows, bd_br_table, breaks, curves

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
    bpp = np.sort(rng.uniform(0.05, 1.5, levels))
    a, b = (Curve(bpp, np.sort(rng.uniform(25, 37, levels))) for _ in range(2))
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
    swing = Curve([2014.65, 3014.7, 4012.23, 5012.39], [96.622, 99.51432, 99.91607, 99.97751])
    assert (
        not bd_br(swing, swing).steady
        and bd_br(swing, swing, method="pchip").steady
        and bd_br(swing, swing).value == pytest.approx(0)
    )


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


def long(
    images=12,
    methods=("compressed", "arcnn"),
    seeds=(0,),
    levels=LEVELS,
    noise=0.3,
    dent=None,
    metric="psnr",
    gain=0.6,
):
    "An invented table of scores; rates and values differ from image to image"
    rng, rows = np.random.default_rng(0), []
    ease = dict(zip(range(images), rng.normal(0, 1.5, images)))
    for m, name in enumerate(methods):
        for seed, i, (k, q) in itertools.product(
            seeds if name != "compressed" else (0,), range(images), enumerate(levels)
        ):
            value = 26 + 2.8 * k + ease[i] + gain * m + 0.05 * seed + rng.normal(0, noise) * (name == dent)
            rows.append(
                (
                    "set",
                    f"i{i:02}",
                    "bpg",
                    q,
                    "" if name == "compressed" else f"bpg-{q}",
                    seed,
                    BPP[k] * np.exp(-0.2 * ease[i]),
                    name,
                    metric,
                    value,
                )
            )
    return pd.DataFrame(rows, columns=list(rates.COLUMNS))


def test_a_point_is_the_mean_over_seeds_and_images():
    df = long(seeds=(0, 1, 2))
    c = curves(df, "psnr")["arcnn"]
    at = df[(df.method == "arcnn") & (df.level == 32)]
    assert (
        c.value[3] == pytest.approx(at.value.mean())
        and c.bpp[3] == pytest.approx(at[at.seed == 0].bpp.mean())
        and c.levels == LEVELS
    )
    one = curves(df[(df.seed == 1) | (df.method == "compressed")], "psnr")["arcnn"]
    assert one.value == pytest.approx(c.value)  # seed 1 lies in the middle of 0, 1, 2


def test_a_draw_takes_rates_and_values_of_the_same_images():
    df = long()
    sample, wide = (
        rates._sample(df, "psnr", "arcnn"),
        df[df.method == "arcnn"].pivot(index="image", columns="level", values=["bpp", "value"]),
    )
    drawn = sample.curve(np.eye(12)[3] * 0.75 + np.eye(12)[7] * 0.25)
    for column, found in (("bpp", drawn.bpp), ("value", drawn.value)):
        assert found == pytest.approx(
            wide[column][list(LEVELS)].loc[["i03", "i07"]].to_numpy().T @ [0.75, 0.25]
        )


def test_the_cell_is_the_bd_br_of_the_mean_curves():
    df = long()
    of, cell = curves(df, "psnr"), bd_br_table(df, draws=50).loc["arcnn", ("psnr", "cubic")]
    assert (
        cell.value == bd_br(of["compressed"], of["arcnn"]).value
        and cell.low <= cell.value <= cell.high
        and cell.draws == 50
    )


def test_the_lines_may_come_in_any_order():
    df = long(methods=("compressed", "arcnn", "esrgan"), seeds=(0, 1))
    a, b = (
        bd_br_rows(bd_br_table(x, methods=["arcnn", "esrgan"], draws=20))
        for x in (df, df.sample(frac=1, random_state=1))
    )
    pd.testing.assert_frame_equal(a, b)


def test_all_methods_see_the_same_draws():
    "A twin under another name has the very same interval, and a method equal to the anchor one of no width"
    df = long(methods=("compressed", "arcnn"))
    more = pd.concat(
        [
            df,
            df[df.method == "arcnn"].assign(method="twin"),
            df[df.method == "compressed"].assign(method="same"),
        ]
    )
    table = bd_br_table(more, draws=40, interpolations=["pchip"])
    a, twin, same = (table.loc[name, ("psnr", "pchip")] for name in ("arcnn", "twin", "same"))
    assert (a.low, a.high) == (twin.low, twin.high) and a.low < a.high
    assert (same.low, same.value, same.high) == (0, 0, 0) and str(same) == "0.00 % [0.00, 0.00]"


def test_the_interval_against_resampling_by_hand():
    df = long(dent="arcnn")
    cell = bd_br_table(df, draws=300, interpolations=["cubic"]).iloc[0, 0]
    rng, wide = (
        np.random.default_rng(5),
        {
            m: part.pivot(index="image", columns="level", values=["bpp", "value"])
            for m, part in df.groupby("method")
        },
    )

    def once(rows):
        return bd_br(
            *(
                Curve(*(wide[m][column].to_numpy()[rows].mean(0) for column in ("bpp", "value")))
                for m in ("compressed", "arcnn")
            )
        ).value

    low, high = np.quantile([once(rng.integers(0, 12, 12)) for _ in range(300)], [0.025, 0.975])
    assert abs(cell.low - low) < 0.25 * (high - low) and abs(cell.high - high) < 0.25 * (high - low)


def test_a_broken_majority_of_draws_has_no_interval():
    cell = rates._with_interval(BDRate(-5.0, overlap=1), [None] * 6 + [-4.0, -5, -6, -5], 0.95)
    assert cell.low is None and cell.empty == 6 and str(cell) == "-5.00 % (6 of 10 draws empty)"
    cell = rates._with_interval(BDRate(-5.0, overlap=1), [None] * 5 + [-4.0, -5, -6, -5, -5], 0.95)
    assert -6 <= cell.low < cell.high <= -4 and "5 of 10 draws empty" in str(cell)


def test_some_draws_break_a_curve_that_holds_as_a_whole():
    df = long(images=10, gain=0)
    hit = (df.method == "arcnn") & (df.level == 32) & df.image.isin(["i00", "i01", "i02"])
    cell = bd_br_table(df.assign(value=df.value - 7 * hit), draws=200, interpolations=["cubic"]).iloc[0, 0]
    assert (
        cell.value is not None
        and 0 < cell.empty < 100
        and cell.low is not None
        and f"{cell.empty} of 200 draws empty" in str(cell)
    )


@pytest.mark.parametrize("how", ["mean", "image"])
def test_below_ten_images_there_is_no_interval(how):
    nine, ten = (
        bd_br_table(long(images=n), draws=20, how=how, interpolations=["pchip"]).iloc[0, 0] for n in (9, 10)
    )
    assert nine.value is not None and nine.low is None and ten.low is not None
    assert bd_br_table(long(), draws=0, how=how).iloc[0, 0].low is None


def test_mean_of_images():
    df = long()
    own = [
        bd_br_table(df[df.image == i], interpolations=["cubic"]).iloc[0, 0].value for i in df.image.unique()
    ]
    assert bd_br_table(df, how="image", draws=30).loc["arcnn", ("psnr", "cubic")].value == pytest.approx(
        np.mean(own)
    )
    dent = (df.method == "arcnn") & (df.level == 32) & (df.image == "i03")
    cell = bd_br_table(df.assign(value=df.value - 5 * dent), how="image").iloc[0, 0]
    assert cell.value is None and cell.reason.startswith(
        "1 of 12 images have no BD-BR, first i03: arcnn is not monotone: level 32"
    )


def test_the_value_of_a_set_takes_the_rate_of_its_images_and_no_interval():
    df = long()
    fid = df.drop_duplicates(["method", "level"]).assign(
        image="", bpp=np.nan, metric="fid", value=lambda d: 60 - d.value
    )
    for image in ("", None):
        table = bd_br_table(pd.concat([df, fid.assign(image=image)]), draws=30)
        cell = table.loc["arcnn", ("fid", "cubic")]
        assert (
            cell.value is not None
            and cell.low is None
            and table.loc["arcnn", ("psnr", "cubic")].low is not None
        )
    assert curves(pd.concat([df, fid]), "fid")["arcnn"].bpp == pytest.approx(curves(df, "psnr")["arcnn"].bpp)
    assert bd_br_table(fid).iloc[0, 0].reason.startswith("compressed has no finite value or rate")
    own = fid.assign(bpp=fid.level.map(dict(zip(LEVELS, BPP))))
    assert curves(own, "fid")["arcnn"].bpp == pytest.approx(BPP)  # a rate of its own is kept


def test_what_is_missing_is_said():
    df = long(methods=("compressed", "arcnn", "esrgan"), seeds=(0, 1))

    def reason(table, name="arcnn"):
        return (
            bd_br_table(table, draws=0, methods=["arcnn", "esrgan", "rdn"])
            .loc[name, ("psnr", "cubic")]
            .reason
        )

    assert reason(df, "rdn") == "the table has no psnr of rdn"
    assert (
        reason(df[~((df.method == "arcnn") & (df.level == 42) & (df.seed == 1))])
        == "arcnn has no finite value or rate at level 42"
    )
    assert (
        reason(df[~((df.method == "arcnn") & (df.image == "i04") & (df.seed == 1))])
        == "arcnn has no finite value or rate at level 27"
    )
    assert (
        reason(df[~((df.method == "arcnn") & (df.image == "i04"))])
        == "arcnn was scored on other images than compressed (11 and 12)"
    )
    assert (
        reason(df[(df.method == "compressed") | (df.level > 36)]) == "cubic needs 4 levels, and arcnn has 3"
    )
    assert not reason(df)
    empty = bd_br_table(df[df.method != "esrgan"], methods=["esrgan"], draws=0)
    assert (
        bd_br_notes(empty) == ["esrgan, psnr: empty: the table has no psnr of esrgan"]
        and np.isnan(bd_br_rows(empty).value).all()
    )


def test_ambiguous_tables_are_refused():
    df = long()
    for table, kwargs, words in (
        (pd.concat([df, df.assign(dataset="other")]), {}, "2 datasets, set, other: pass dataset="),
        (df, dict(codec="jpeg"), "no codec jpeg: there are bpg"),
        (pd.concat([df, df]), {}, "several values of psnr for i00 at level 47, seed 0"),
        (df.drop(columns="seed"), {}, "no column seed"),
        (df, dict(anchor="vtm"), "no scores of vtm"),
        (df, dict(how="median"), "how is 'median'"),
        (df, dict(level=95), "between 0 and 1"),
        (df, dict(interpolations=["spline"]), "no interpolation is called 'spline'"),
        (df.assign(metric="vmaf"), {}, "more or less of 'vmaf'"),
        (df, dict(better={"psnr": "up"}), "no direction is called 'up'"),
        (df.iloc[:0], {}, "no scores of compressed"),
    ):
        with pytest.raises(QebiasError, match=words) as error:
            bd_br_table(table, **kwargs)
        assert "\n" not in str(error.value)
    assert bd_br_table(df.assign(metric="vmaf"), better={"vmaf": "higher"}, draws=0).iloc[0, 0].value < 0
    both = pd.concat([df, df.assign(codec="jpeg", value=df.value + (df.method == "arcnn"))])
    assert (
        bd_br_table(both, codec="jpeg", draws=0).iloc[0, 0].value
        < bd_br_table(both, codec="bpg", draws=0).iloc[0, 0].value
        < 0
    )


def test_import_needs_neither_torch_nor_tables(root):
    code = "import sys, qebias.rates; print([m for m in ('torch', 'pandas', 'matplotlib', 'bjontegaard') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout.strip()
        == "[]"
    )
