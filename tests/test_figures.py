"What a figure must hold that reads badly in a notebook: geometry in bulk, words that touch or are cut, grey and colour-blind sight, leaks"

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from qebias import figures as F
from qebias.core import QebiasError
from qebias.rates import COLUMNS

NOTE = "invented numbers, for a test"
rng = np.random.default_rng(5)

# --- one of everything


def _photo(seed, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def _patches(n=60, slope=0.6):
    d_cr = np.random.default_rng(n).gamma(6, 0.8, n)
    return pd.DataFrame({"d_cr": d_cr, "d_ce": slope * d_cr + 0.1, "image": np.arange(n) % 12})


METHODS = [
    "arcnn",
    "rrdb",
    "esrgan",
    "esrgan+cond",
    "esrgan+div",
    "esrgan+both",
    "realesrgan",
    "realesrgan+cond",
    "realesrgan+div",
    "realesrgan+both",
]
TRIANGLES = pd.DataFrame(
    {"method": METHODS, "ce": np.linspace(2, 9, 10), "re": np.linspace(10, 7, 10), "cr": 9.73}
)
DEVIATIONS = pd.DataFrame(
    {
        "method": METHODS,
        "deviation": np.linspace(-110, 40, 10),
        "low": np.linspace(-120, 20, 10),
        "high": np.linspace(-95, 55, 10),
        "paper": np.linspace(-98, 10, 10),
    }
)
SCORES = pd.DataFrame(
    [(m, d, s, s - 0.02, s + 0.02, 0.5) for m in METHODS[-4:] for d, s in zip(F.DOMAINS, (0.8, 0.3, 0.9))],
    columns=["method", "domain", "score", "low", "high", "paper"],
)
POINTS = pd.DataFrame(
    [
        ("set", f"i{n}", c, l, "", 0, b, m, k, (10 + i + b + n) if k == "psnr" else 1 / (10 + i + b + n))
        for i, m in enumerate(METHODS)
        for k in ("psnr", "lpips-alex")
        for c in ("bpg", "jpeg")
        for l, b in enumerate((0.1, 0.4, 1.2, 2.0))
        for n in range(2)
    ],
    columns=list(COLUMNS),
)
STATS = pd.DataFrame(
    {
        "iteration": np.arange(200),
        "recon": rng.random(200),
        "percept": rng.random(200) * 30,
        "D(raw)": rng.random(200),
        "D(enhanced)": rng.random(200),
    }
)

EVERY = {
    "triangle": lambda **k: F.triangle(
        7, 9, 9.73, title="Real-ESRGAN", interval=(-40, -25), distance="fd_nss", **k
    ),
    "no triangle": lambda **k: F.triangle(2, 5, 9.73, title="RRDB, stage 1", distance="fd_nss", **k),
    "triangles": lambda **k: F.triangles(TRIANGLES, ncols=4, distance="fd_nss", **k),
    "crops": lambda **k: F.crops(
        {"raw": _photo(0), "compressed": _photo(1), "realesrgan+both": _photo(2)},
        (3, 4, 20, 24),
        context="raw",
        **k,
    ),
    "residuals": lambda **k: F.residuals(
        _photo(0),
        _photo(1),
        {"realesrgan": _photo(2), "realesrgan+both": _photo(3)},
        crop=(2, 2, 30, 30),
        **k,
    ),
    "realism_bars": lambda **k: F.realism_bars(SCORES, **k),
    "realism_bars, two sets": lambda **k: F.realism_bars(
        pd.concat([SCORES.assign(dataset="DIV2K"), SCORES.assign(dataset="Flickr2K")]), **k
    ),
    "disparity_scatter": lambda **k: F.disparity_scatter(
        {"realesrgan": _patches(), "realesrgan+both": _patches(80, 0.9)}, title="pixel-wise", **k
    ),
    "training_curves": lambda **k: F.training_curves(
        STATS, {"recon": "recon", "percept": "percept", "scores": ["D(raw)", "D(enhanced)"]}, **k
    ),
    "training_curves, all": lambda **k: F.training_curves(
        pd.DataFrame(
            {
                "iteration": np.arange(60),
                **{c: np.random.default_rng(1).random(60) for columns in F.TERMS.values() for c in columns},
            }
        ),
        **k,
    ),
    "rd_curves": lambda **k: F.rd_curves(POINTS, "psnr", codec="bpg", **k),
    "rd_curves, lower is better": lambda **k: F.rd_curves(
        POINTS, "lpips-alex", codec="jpeg", title="JPEG", **k
    ),
    "deviation_bars": lambda **k: F.deviation_bars(
        pd.concat([DEVIATIONS.assign(distance="fd_nss"), DEVIATIONS.assign(distance="nlpd")]), **k
    ),
}


def words(figure):
    "Visible texts of a figure with their boxes, as laid out"
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [
        t
        for t in figure.findobj(Text)
        if t.get_visible() and t.get_text().strip() and (t.axes is None or t.axes.get_visible())
    ]
    ticks = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    return [
        (t.get_text(), Text.get_window_extent(t, renderer)) for t in texts if id(t) not in ticks
    ], ticks  # of an annotation without its line


def cut(figure):
    "Texts that leave the figure"
    found, _ = words(figure)
    width, height = figure.canvas.get_width_height()
    return [
        text
        for text, box in found
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]


def touching(figure):
    "Pairs of texts whose boxes overlap by more than a pixel in both directions"
    found, _ = words(figure)
    return [
        (a, b)
        for (a, p), (b, q) in itertools.combinations(found, 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
    ]


@pytest.fixture(scope="module")
def drawn():
    "All of them, drawn once; they leave nothing in pyplot and the settings as they were"
    before = dict(mpl.rcParams)
    figures = {name: draw(note=NOTE) for name, draw in EVERY.items()}
    assert dict(mpl.rcParams) == before and plt.get_fignums() == []
    return figures


# --- every figure


@pytest.mark.parametrize("name", EVERY)
def test_no_word_is_cut_or_covered_by_another(drawn, name):
    assert not cut(drawn[name])
    assert not touching(drawn[name])


@pytest.mark.parametrize("name", EVERY)
def test_the_note_is_there_and_axes_have_units(drawn, name):
    assert NOTE in [t.get_text() for t in drawn[name].findobj(Text)]
    for ax in drawn[name].axes:
        if not ax.get_visible() or ax.images or "triangle" in name:
            continue
        assert (
            ax.get_xlabel()
            or not any(t.get_visible() and t.get_text() for t in ax.get_xticklabels())
            or name.startswith("realism")
        )


def test_checks_of_words_can_fail():
    figure, axes = F.panels()
    axes[0, 0].text(0.5, 0.5, "one")
    axes[0, 0].text(0.5, 0.5, "another")
    axes[0, 0].text(2, 0.5, "outside", in_layout=False)
    assert cut(figure) == ["outside"] and touching(figure) == [("one", "another")]


def test_figures_are_ours(drawn):
    assert all(isinstance(figure, F.Picture) for figure in drawn.values())


@pytest.mark.parametrize("name", ["triangle", "realism_bars"])
def test_a_figure_is_the_same_under_foreign_settings_and_twice(name):
    image = EVERY[name]().image()
    with mpl.rc_context(
        {"font.size": 25, "axes.grid": False, "lines.linewidth": 7, "axes.labelsize": 30, "figure.dpi": 40}
    ):
        assert EVERY[name]().image() == image


@pytest.mark.parametrize("name", EVERY)
def test_images_are_small_and_of_the_right_kind(drawn, name):
    kind, data = drawn[name].image()
    assert kind == ("image/jpeg" if name in ("crops", "residuals") else "image/png")
    assert data[:3] == (b"\xff\xd8\xff" if kind == "image/jpeg" else b"\x89PN")
    assert len(data) < 80_000


def test_the_notebook_shows_each_figure_once():
    book = json.loads((Path(__file__).parents[1] / "nbs/measurement/30_figures.ipynb").read_text())
    shown = [
        sum(any(kind.startswith("image/") for kind in out.get("data", {})) for out in cell.get("outputs", []))
        for cell in book["cells"]
    ]
    assert max(shown) == 1 and sum(shown) >= 11


def test_a_bare_installation_is_told_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None\nfrom qebias.core import QebiasError\ntry: import qebias.figures\nexcept QebiasError as error: print(error)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.startswith("matplotlib is needed for figures and is not installed: pip install"), (
        found.stderr
    )


# --- triangles


def vertices(ax):
    found = {
        line.get_marker(): np.array([line.get_xdata()[0], line.get_ydata()[0]])
        for line in ax.lines
        if line.get_marker() not in ("None", None, "")
    }
    return [found[F.DOMAINS[name].marker] for name in ("compressed", "raw", "enhanced")]


@pytest.mark.parametrize("seed", range(6))
def test_a_triangle_has_the_lengths_it_was_given_and_equal_scales(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 10.0 ** rng.integers(-3, 4), (3, 2))
    ce, re, cr = (np.hypot(*(points[i] - points[j])) for i, j in ((0, 2), (1, 2), (0, 1)))
    figure = F.triangle(ce, re, cr)
    C, R, E = vertices(figure.axes[0])
    np.testing.assert_allclose(
        [np.hypot(*(E - C)), np.hypot(*(E - R)), np.hypot(*(R - C))], [ce, re, cr], rtol=1e-6
    )
    np.testing.assert_allclose(
        (E[0] - (C[0] + R[0]) / 2) / cr, 100 * (ce**2 - re**2) / cr**2 / 200, rtol=1e-9, atol=1e-12
    )
    pixels = figure.axes[0].transData.transform([C, R, E])
    sides = [np.hypot(*(pixels[i] - pixels[j])) for i, j in ((0, 2), (1, 2), (0, 1))]
    np.testing.assert_allclose(np.array(sides) / sides[2], np.array([ce, re, cr]) / cr, rtol=1e-6)


def test_roots_of_squared_distances_always_close():
    for _ in range(200):
        points = rng.normal(size=(3, 5))
        assert F.apex(*(np.linalg.norm(points[i] - points[j]) for i, j in ((0, 2), (1, 2), (0, 1)))).triangle
    assert not F.apex(1, 1, 4).triangle  # squares of 1, 1, 2 on a line


@pytest.mark.parametrize(
    "ce,re,cr,why,offset",
    [
        (2, 5, 10, "CE + RE < CR", -21 / 200),
        (0, 0, 5, "CE + RE < CR", 0),
        (24, 7.5, 10, "|CE − RE| > CR", (24**2 - 7.5**2) / 200),
        (5, 30, 10, "|CE − RE| > CR", (25 - 900) / 200),
    ],
)
def test_lengths_that_form_no_triangle(ce, re, cr, why, offset):
    figure = F.triangle(ce, re, cr, interval=(100 * offset * 2 - 5, 100 * offset * 2 + 5))
    text = figure.axes[0].get_xlabel()
    assert f"no triangle: {why}" in text and f"on square roots {F.percent(100 * (ce - re) / cr)}" in text
    assert f"deviation {F.percent(200 * offset)}" in text
    E = vertices(figure.axes[0])[2]
    np.testing.assert_allclose(E, [offset * cr, 0], atol=1e-12)
    assert "on square roots −12.3 %" in F.triangle(ce, re, cr, deviation_sqrt=-12.3).axes[0].get_xlabel()
    assert "square" not in F.triangle(7, 8, 9, deviation_sqrt=-12.3).axes[0].get_xlabel()


SHAPES = [
    (7, 9, 9.73),
    (5, 9.4, 10),
    (3, 7, 5),
    (7, 3, 5),
    (1, 8, 7.5),
    (20, 20, 3),
    (50, 52, 3),
    (0.2, 9.9, 10),
    (1, 3, 4),
    (0, 5, 5),
    (2, 5, 10),
    (0.1, 3, 10),
    (3, 0.1, 10),
    (4.9, 5, 10),
    (24, 7.5, 10),
    (30, 5, 10),
    (200, 5, 10),
    (4900, 5200, 6000),
    (0.001, 0.002, 0.0025),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_words_around_a_triangle_stay_apart(shape):
    deviation = F.apex(*shape).deviation
    figure = F.triangle(
        *shape,
        title="Real-ESRGAN +both",
        interval=(deviation - 9, deviation + 7),
        distance="fd_nss",
        note=NOTE,
    )
    assert not cut(figure) and not touching(figure)


def test_a_grid_has_one_scale_and_all_words_stay_apart():
    figure = F.triangles(
        [
            {
                "title": str(k),
                "ce": a,
                "re": b,
                "cr": 9.73,
                "low": F.apex(a, b, 9.73).deviation - 9,
                "high": F.apex(a, b, 9.73).deviation + 9,
            }
            for k, (a, b) in enumerate([(3, 10), (7, 9), (9, 7), (2, 5), (9.7, 0.4), (12, 12), (1, 10.7)])
        ],
        distance="FID",
        note=NOTE,
    )
    assert not cut(figure) and not touching(figure)
    lengths = [
        np.hypot(*np.subtract(*ax.transData.transform([(0, 0), (9.73, 0)])))
        for ax in figure.axes
        if ax.get_visible()
    ]
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    assert len(lengths) == 7


@pytest.mark.parametrize(
    "bad,words",
    [
        (dict(cr=0), "cr is 0"),
        (dict(ce=-1), "ce is -1"),
        (dict(re=float("nan")), "re is nan"),
        (dict(ce="4"), "ce is 4"),
        (dict(deviation=60), "check their order"),
        (dict(interval=(5, -5)), "pass (low, high)"),
        (dict(interval=(1,)), "pass (low, high)"),
    ],
)
def test_impossible_triangles_are_refused_in_one_line(bad, words):
    with pytest.raises(QebiasError, match=re.escape(words)) as error:
        F.triangle(**{**dict(ce=4, re=6, cr=5), **bad})
    assert "\n" not in str(error.value)


def test_a_deviation_from_unrounded_data_is_believed_within_rounding():
    ce, re, cr = 7.1649, 10.6451, 9.7349
    exact = F.apex(ce, re, cr).deviation
    F.triangle(7.16, 10.6, 9.73, deviation=exact)
    with pytest.raises(QebiasError):
        F.triangle(10.6, 7.16, 9.73, deviation=exact)


def test_an_interval_that_could_not_be_measured_is_left_out():
    assert (
        F.triangle(7, 9, 9.73, interval=(np.nan, np.nan)).axes[0].get_xlabel()
        == F.triangle(7, 9, 9.73).axes[0].get_xlabel()
    )
    bars = F.deviation_bars(DEVIATIONS.assign(low=np.nan, high=np.nan)).axes[0]
    assert not [
        segment
        for c in bars.containers[1:]
        for segment in c.lines[2][0].get_segments()
        if segment.size and np.isfinite(segment).all()
    ]


def test_missing_values_of_a_table_are_like_arguments_left_out():
    frame = TRIANGLES.assign(deviation=np.nan, deviation_sqrt=np.nan, low=np.nan, high=np.nan)
    texts = [ax.get_xlabel() for ax in F.triangles(frame).axes]
    assert texts == [ax.get_xlabel() for ax in F.triangles(TRIANGLES).axes] and "nan" not in "".join(texts)


# --- sight


def lab(colour):
    "CIE L*a*b* (D65) of linear RGB"
    xyz = (
        np.array(
            [
                [0.4124564, 0.3575761, 0.1804375],
                [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041],
            ]
        )
        @ colour
        / np.array([0.95047, 1, 1.08883])
    )
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


DICHROMATS = {  # Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("sight", DICHROMATS)
def test_domains_stay_apart_for_every_sight(sight):
    seen = [lab(np.clip(DICHROMATS[sight] @ linear(look.colour), 0, 1)) for look in F.DOMAINS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 25


def test_domains_stay_apart_in_grey_and_without_colour():
    light = sorted(lab(linear(look.colour))[0] for look in F.DOMAINS.values())
    assert np.diff(light).min() > 20 and light[-1] < 80
    for field in ("marker", "line", "hatch"):
        assert len({getattr(look, field) for look in F.DOMAINS.values()}) == 3


@pytest.mark.parametrize("base", ["esrgan", "realesrgan"])
def test_variants_darken_in_steps_and_differ_in_line_and_hatch(base):
    looks = list(F.method_looks([base, f"{base}+cond", f"{base}+div", f"{base}+both"]).values())
    light = [lab(linear(look.colour))[0] for look in looks]
    assert np.diff(light).max() < -10 and light[0] < 78
    assert (
        len({look.line for look in looks}) == len({look.hatch for look in looks}) == 4
        and len({look.marker for look in looks}) == 1
    )


def test_all_methods_of_the_study_look_different():
    names = [
        "compressed",
        *["arcnn", "dcad", "dncnn", "cbdnet", "rdn", "rbqe", "mprnet", "rrdb"],
        *(f"{b}{v}" for b in ("esrgan", "realesrgan") for v in ("", "+cond", "+div", "+both")),
        "mine",
        "yours",
    ]
    looks = F.method_looks(reversed(names))
    assert list(looks)[: len(names) - 2] == names[:-2]
    assert (
        len({(look.colour, look.marker, look.line) for look in looks.values()})
        == len({look.colour for look in looks.values()})
        == len(names)
    )


# --- the others


def test_residuals_are_the_differences_and_share_one_scale():
    raw, compressed, enhanced = _photo(0), _photo(1), _photo(2)
    figure = F.residuals(raw, compressed, {"arcnn": enhanced}, crop=(5, 6, 10, 12), gain=4)
    cut = np.s_[5:15, 6:18]
    images = [ax.images[0] for ax in figure.axes if ax.images]
    for k, (a, b) in {3: (raw, compressed), 5: (enhanced, compressed), 8: (enhanced, raw)}.items():
        np.testing.assert_allclose(
            images[k].get_array(), np.abs(a[cut].astype(int) - b[cut]).mean(-1), rtol=1e-5
        )
    assert {image.get_clim() for image in images[3:]} == {(0, 255 / 4)}
    assert [ax.get_title() for ax in figure.axes][:3] == ["raw", "compressed", "AR-CNN"]
    assert "grey levels" in figure.axes[-1].get_ylabel()


def test_pictures_that_do_not_fit_are_named():
    for images, words in (
        ({"raw": _photo(0), "esrgan": _photo(0, (9, 9))}, "esrgan is 9x9, but raw is 48x40"),
        ({"raw": _photo(0).astype(float)}, "crops: raw has dtype float64"),
        ({}, "no picture"),
    ):
        with pytest.raises(QebiasError, match=words):
            F.crops(images, None)
    with pytest.raises(QebiasError, match="leaves the picture of 48x40"):
        F.residuals(_photo(0), _photo(1), {}, crop=(0, 0, 41, 5))
    with pytest.raises(QebiasError, match="context is blurred"):
        F.crops({"raw": _photo(0)}, None, context="blurred")


def test_bars_whiskers_and_paper_values_stand_where_the_table_says():
    figure = F.deviation_bars(DEVIATIONS, order="method")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        look.label for look in F.method_looks(METHODS).values()
    ]
    assert [bar.get_width() for bar in ax.patches] == list(DEVIATIONS["deviation"])
    whiskers = np.array([segment for segment in ax.containers[-1].lines[2][0].get_segments()])
    np.testing.assert_allclose(whiskers[:, :, 0], DEVIATIONS[["low", "high"]])
    paper = next(line for line in ax.lines if line.get_marker() == "D")
    np.testing.assert_allclose(paper.get_xdata(), DEVIATIONS["paper"])


def test_bars_without_intervals_or_paper_have_neither():
    ax = F.deviation_bars(DEVIATIONS[["method", "deviation"]]).axes[0]
    assert (
        not [line for line in ax.lines if line.get_marker() == "D"]
        and ax.get_legend() is None
        and len(ax.containers) == 1
    )
    partly = DEVIATIONS.assign(low=[np.nan, *DEVIATIONS["low"][1:]], paper=np.nan)
    assert F.deviation_bars(partly).axes[0].get_legend() is None


def test_ax_is_returned_and_several_panels_do_not_fit_one():
    figure, axes = F.panels()
    assert F.deviation_bars(DEVIATIONS, ax=axes[0, 0], note=NOTE) is axes[0, 0]
    assert NOTE in [t.get_text() for t in figure.findobj(Text)]
    with pytest.raises(QebiasError, match="2 distances do not fit one ax"):
        F.deviation_bars(pd.concat([DEVIATIONS.assign(distance=d) for d in "ab"]), ax=axes[0, 0])
    with pytest.raises(QebiasError, match="2 data sets do not fit one ax"):
        F.realism_bars(pd.concat([SCORES.assign(dataset=d) for d in "ab"]), ax=axes[0, 0])


def test_the_drawn_regression_is_least_squares_and_its_band_covers():
    "The 95 % interval of the slope covers the truth about as often as it says"
    hits = 0
    for seed in range(60):
        r = np.random.default_rng(seed)
        x = r.gamma(6, 0.8, 120)
        frame = pd.DataFrame({"d_cr": x, "d_ce": 0.5 * x + 1 + r.normal(0, 0.5, 120)})
        slopes, intercepts, _ = F._lines(frame)
        np.testing.assert_allclose(
            [slopes[0], intercepts[0]], np.polyfit(frame["d_cr"], frame["d_ce"], 1), rtol=1e-6
        )
        low, high = np.quantile(slopes[1:], (0.025, 0.975))
        hits += low <= 0.5 <= high
    assert 50 <= hits <= 60


def test_patches_of_one_image_do_not_count_as_independent():
    x = np.repeat(np.random.default_rng(0).gamma(6, 0.8, 15), 40)
    shift = np.repeat(np.random.default_rng(1).normal(0, 0.5, 15), 40)
    frame = pd.DataFrame({"d_cr": x, "d_ce": 0.5 * x + shift, "image": np.repeat(np.arange(15), 40)})
    spread = lambda frame: np.std(F._lines(frame)[0][1:])
    assert spread(frame) > 3 * spread(frame.drop(columns="image"))


def test_axes_of_the_scatter_are_equal():
    ax = F.disparity_scatter({"esrgan": _patches()}).axes[0]
    (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), (1, 1)])
    assert (
        ax.get_xlim() == ax.get_ylim()
        and x1 - x0 == pytest.approx(y1 - y0)
        and list(ax.get_xticks()) == list(ax.get_yticks())
    )


def test_running_mean_keeps_a_constant_and_a_gap_does_not_break_it():
    stats = pd.DataFrame({"iteration": np.arange(100), "recon": np.full(100, 2.5)})
    stats.loc[40:45, "recon"] = np.nan
    raw, smooth = F.training_curves(stats, smooth=20).axes[0].lines
    assert np.isnan(raw.get_ydata()).sum() == 6
    np.testing.assert_allclose(smooth.get_ydata(), 2.5)


@pytest.mark.parametrize(
    "draw,table,words",
    [
        (F.realism_bars, SCORES.drop(columns="domain"), "realism_bars: the table has no column domain"),
        (F.realism_bars, SCORES[:0], "realism_bars: the table is empty"),
        (F.deviation_bars, DEVIATIONS.assign(deviation=np.inf), "deviation is inf in row 0"),
        (F.deviation_bars, DEVIATIONS.assign(low=200), "does not hold its value"),
        (lambda t: F.rd_curves(t, "vmaf", codec="bpg"), POINTS, "there is no vmaf to draw"),
        (F.training_curves, STATS[["iteration"]], "no column of numbers"),
        (F.triangles, TRIANGLES.assign(cr=0), "cr is 0"),
        (F.disparity_scatter, {}, "no method"),
        (
            F.disparity_scatter,
            {"esrgan": {"d_cr": [1, 2]}},
            "disparity_scatter: esrgan: the table has no column d_ce",
        ),
        (F.disparity_scatter, {"esrgan": {"d_cr": [1, 2], "d_ce": [1, -2]}}, "distances are >= 0"),
        (
            F.disparity_scatter,
            {"esrgan": _patches().assign(measure=["pixel", "feature"] * 30)},
            "pixel and feature disparities",
        ),
        (F.triangles, TRIANGLES.assign(distance=["fid", "nlpd"] * 5), "fid and nlpd have no common scale"),
    ],
)
def test_tables_that_do_not_fit_end_in_one_line(draw, table, words):
    with pytest.raises(QebiasError, match=re.escape(words)) as error:
        draw(table)
    assert "\n" not in str(error.value)
