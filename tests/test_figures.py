"What a figure must hold that reads badly in a notebook: geometry, words that touch or are cut, sight, leaks"

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
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from qebias import figures as F
from qebias.core import QebiasError

NOTE = "invented numbers, for a test"


def photo(seed, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


METHODS = [
    "arcnn",
    "rrdb",
    *(f"{b}{v}" for b in ("esrgan", "realesrgan") for v in ("", "+cond", "+div", "+both")),
]
ROWS = [*METHODS, "control:noise4", "control:sharpened"]
TRIANGLES = pd.DataFrame({"row": ROWS, "ce": np.linspace(2, 9, 12), "re": np.linspace(10, 7, 12), "cr": 9.73})
DEVIATIONS = pd.DataFrame(
    {"row": ROWS, "value": np.linspace(-110, 40, 12), "paper": np.linspace(-98, 10, 12)}
)
DEVIATIONS["low"], DEVIATIONS["high"] = DEVIATIONS["value"] - 10, DEVIATIONS["value"] + 15
SCORES = pd.DataFrame(
    [
        (m, d, v, v - 0.1, v + 0.1, -0.5)
        for m in METHODS[-4:]
        for d, v in (("compressed", 0.1), ("enhanced", -0.4))
    ],
    columns=["row", "domain", "value", "low", "high", "paper"],
)
PAIRS = pd.DataFrame(
    [
        (p, m, 1 + p, (1 + p) * s)
        for p in range(30)
        for m, s in (("realesrgan", 0.5), ("realesrgan+div", 0.8))
    ],
    columns=["picture", "row", "cr", "ce"],
)
CURVES = pd.DataFrame(
    [
        (c, m, b, 30 + 3 * np.log(b) + 0.02 * k)
        for c in ("BPG", "JPEG")
        for k, m in enumerate(METHODS)
        for b in (0.1, 0.4, 1.2, 2.0)
    ],
    columns=["panel", "row", "bpp", "value"],
)
STATS = pd.DataFrame(
    {
        "iteration": np.arange(200),
        "recon": np.random.default_rng(1).random(200),
        "out_real": np.random.default_rng(2).random(200),
        "out_fake": np.random.default_rng(3).random(200),
    }
)
PICTURES = {"raw": photo(0), "compressed": photo(1), "realesrgan": photo(2), "realesrgan+both": photo(3)}

EVERY = {
    "triangle": lambda **k: F.triangle(TRIANGLES[:4].assign(low=-60, high=-40), "fd_nss", **k),
    "no triangle": lambda **k: F.triangle([dict(row="rrdb", ce=2, re=5, cr=9.73)], "fd_nss", **k),
    "triangles": lambda **k: F.triangles(
        pd.concat([TRIANGLES.assign(panel=p) for p in ("fd_nss", "fd_alex", "lpips")]), **k
    ),
    "crops": lambda **k: F.crops(PICTURES, **k),
    "residuals": lambda **k: F.residuals(
        photo(0), photo(1), {"realesrgan": photo(2), "realesrgan+both": photo(3)}, (2, 2, 30, 30), **k
    ),
    "realism": lambda **k: F.realism_differences(SCORES, **k),
    "deviations": lambda **k: F.deviations(DEVIATIONS, **k),
    "deviations, two": lambda **k: F.deviations(
        pd.concat([DEVIATIONS.assign(panel="fd_nss"), DEVIATIONS.assign(panel="fd_alex")]), **k
    ),
    "paired changes": lambda **k: F.paired_changes(PAIRS, "realesrgan", "realesrgan+div", **k),
    "rate curves": lambda **k: F.rate_curves(CURVES, "PSNR, dB", **k),
    "training": lambda **k: F.training_curves(STATS, **k),
    "causal graph": lambda **k: F.causal_graph(**k),
    "score maps": lambda **k: F.score_maps({n: (p, p[::8, ::8, 0] / 99.0) for n, p in PICTURES.items()}, **k),
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


@pytest.mark.parametrize("name", EVERY)
def test_no_word_is_cut_or_covered_by_another(drawn, name):
    assert not cut(drawn[name])
    assert not touching(drawn[name])


@pytest.mark.parametrize("name", EVERY)
def test_the_caption_is_one_line(drawn, name):
    assert NOTE.capitalize() in [t.get_text() for t in drawn[name].findobj(Text)]
    long = EVERY[name](note="a word " * 200)
    assert "\n" not in long.get_supxlabel() and long.get_supxlabel().endswith("…")
    assert not cut(long)


def test_checks_of_words_can_fail():
    figure, axes = F.panels()
    axes[0, 0].text(0.5, 0.5, "one")
    axes[0, 0].text(0.5, 0.5, "another")
    axes[0, 0].text(2, 0.5, "outside", in_layout=False)
    assert cut(figure) == ["outside"] and touching(figure) == [("one", "another")]


@pytest.mark.parametrize("name", EVERY)
def test_images_are_small_and_of_the_right_kind(drawn, name):
    kind, stored = drawn[name].image()
    assert kind == ("image/jpeg" if name in ("crops", "residuals", "score maps") else "image/png")
    assert stored[:3] == (b"\xff\xd8\xff" if kind == "image/jpeg" else b"\x89PN")
    assert len(stored) < 250_000


def test_vector_files_stand_beside_the_picture(tmp_path):
    paths = F.save(EVERY["triangle"](), tmp_path / "new" / "fig1")
    assert [p.read_bytes()[:4] for p in paths[::2]] == [b"\x89PNG", b"%PDF"]
    assert (
        "Real-ESRGAN" in F.save(EVERY["deviations"](), tmp_path / "fig8")[1].read_text()
    )  # letters stay letters


def test_the_notebook_shows_each_figure_once():
    book = json.loads((Path(__file__).parents[1] / "nbs/measurement/30_figures.ipynb").read_text())
    shown = [
        sum(any(kind.startswith("image/") for kind in out.get("data", {})) for out in cell.get("outputs", []))
        for cell in book["cells"]
    ]
    assert max(shown) == 1 and sum(shown) >= 10


def test_a_bare_installation_is_told_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom qebias.core import QebiasError\n"
        "try: import qebias.figures\nexcept QebiasError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.startswith("matplotlib is needed for figures and is not installed: pip install"), (
        found.stderr
    )


# --- triangles


def vertex(ax, marker):
    line = next(line for line in ax.lines if line.get_marker() == marker and len(line.get_xdata()) == 1)
    return np.array([line.get_xdata()[0], line.get_ydata()[0]])


@pytest.mark.parametrize("seed", range(6))
def test_a_triangle_has_the_lengths_it_was_given_and_equal_scales(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 10.0 ** rng.integers(-3, 4), (3, 2))
    ce, re, cr = (np.hypot(*(points[i] - points[j])) for i, j in ((0, 2), (1, 2), (0, 1)))
    ax = F.triangle([dict(row="arcnn", ce=ce, re=re, cr=cr)]).axes[0]
    C, R, E = vertex(ax, "s"), vertex(ax, "o"), vertex(ax, "^")
    assert (C.tolist(), R.tolist()) == ([-0.5, 0], [0.5, 0])
    np.testing.assert_allclose([np.hypot(*(E - C)), np.hypot(*(E - R))], [ce / cr, re / cr], rtol=1e-6)
    np.testing.assert_allclose(E[0], (ce**2 - re**2) / cr**2 / 2, rtol=1e-9, atol=1e-12)
    ax.figure.canvas.draw()
    pixels = ax.transData.transform([C, R, E])
    sides = [np.hypot(*(pixels[i] - pixels[j])) for i, j in ((0, 2), (1, 2), (0, 1))]
    np.testing.assert_allclose(np.array(sides) / sides[2], np.array([ce, re, cr]) / cr, rtol=1e-6)


def test_roots_of_squared_distances_always_close():
    rng = np.random.default_rng(5)
    for _ in range(200):
        points = rng.normal(size=(3, 5))
        assert F.apex(*(np.linalg.norm(points[i] - points[j]) for i, j in ((0, 2), (1, 2), (0, 1)))).triangle
    assert not F.apex(1, 1, 4).triangle  # squares of 1, 1, 2 on a line


@pytest.mark.parametrize("ce,re,cr", [(2, 5, 10), (24, 7.5, 10), (5, 30, 10)])
def test_lengths_that_form_no_triangle(ce, re, cr):
    ax = F.triangle([dict(row="arcnn", ce=ce, re=re, cr=cr)]).axes[0]
    assert vertex(ax, "^").tolist() == [pytest.approx((ce**2 - re**2) / cr**2 / 2), 0]
    words = ax.figure.axes[1].get_legend().get_texts()[0].get_text()
    assert f"no triangle; on square roots {F.percent(100 * (ce - re) / cr)}" in words
    hollow = next(line for line in ax.lines if line.get_marker() == "^")
    assert hollow.get_markerfacecolor() == "white"


def test_a_grid_has_one_scale(drawn):
    limits = {(ax.get_xlim(), ax.get_ylim()) for ax in drawn["triangles"].axes if ax.get_title()}
    assert len(limits) == 1


def test_controls_and_ideal_points_have_no_sides():
    table = [dict(row="arcnn", ce=3, re=8, cr=9), dict(row="control:noise4", ce=4, re=9, cr=9)]
    table.append(dict(row="ideal sampler", ce=9, re=8, cr=9, ideal=True))
    ax = F.triangle(pd.DataFrame(table).fillna({"ideal": False})).axes[0]
    assert len([line for line in ax.lines if len(line.get_xdata()) == 3]) == 1
    assert [t.get_text().partition(":")[0] for t in ax.figure.axes[1].get_legend().get_texts()][
        -1
    ] == "grey noise, sd 4"
    assert any(line.get_marker() == "*" for line in ax.lines)


@pytest.mark.parametrize(
    "bad,words",
    [
        (dict(cr=0), "cr is 0"),
        (dict(ce=-1), "ce is -1"),
        (dict(re=float("nan")), "re is no finite number"),
        (dict(ce="x"), "ce is no"),
    ],
)
def test_impossible_triangles_are_refused_in_one_line(bad, words):
    with pytest.raises(QebiasError, match=re.escape(words)) as error:
        F.triangle([{**dict(row="arcnn", ce=4, re=6, cr=5), **bad}])
    assert "\n" not in str(error.value)


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
    for field in ("marker", "line"):
        assert len({getattr(look, field) for look in F.DOMAINS.values()}) == 3


@pytest.mark.parametrize("base", ["esrgan", "realesrgan"])
def test_variants_darken_in_steps_and_differ_in_line(base):
    looks = list(F.method_looks([base, f"{base}+cond", f"{base}+div", f"{base}+both"]).values())
    light = [lab(linear(look.colour))[0] for look in looks]
    assert np.diff(light).max() < -10 and light[0] < 78
    assert len({look.line for look in looks}) == 4 and len({look.marker for look in looks}) == 1


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


def test_residuals_are_signed_and_share_one_scale():
    raw, compressed, enhanced = photo(0), photo(1), photo(2)
    figure = F.residuals(raw, compressed, {"arcnn": enhanced}, (5, 6, 10, 12), gain=2)
    box = np.s_[5:15, 6:18]
    images = [ax.images[0].get_array() for ax in figure.axes]
    assert len(images) == 9
    for k, (a, b) in {3: (raw, compressed), 5: (enhanced, compressed), 8: (enhanced, raw)}.items():
        wanted = np.clip(128 + 2 * (a[box].astype(float) - b[box]), 0, 255)
        np.testing.assert_array_equal(images[k], wanted.round())
    assert (images[4] == 128).all() and (images[6] == 128).all()
    assert [ax.get_title() for ax in figure.axes][:3] == ["raw", "compressed", "AR-CNN"]


def test_rows_and_columns_of_residuals_are_aligned():
    figure = EVERY["residuals"](note=NOTE)
    figure.canvas.draw()
    boxes = np.array([ax.get_position().bounds for ax in figure.axes]).reshape(3, 4, 4)
    assert np.ptp(boxes[..., 0], axis=0).max() < 1e-3 and np.ptp(boxes[..., 1], axis=1).max() < 1e-3
    assert np.ptp(boxes[..., 2:].reshape(-1, 2), axis=0).max() < 1e-3


def test_pictures_that_do_not_fit_are_named():
    for images, words in (
        ({"raw": photo(0), "esrgan": photo(0, (9, 9))}, "esrgan is 9x9, but raw is 48x40"),
        ({"raw": photo(0).astype(float)}, "crops: raw has dtype float64"),
        ({}, "no picture"),
    ):
        with pytest.raises(QebiasError, match=words):
            F.crops(images)
    with pytest.raises(QebiasError, match="leaves the picture of 48x40"):
        F.residuals(photo(0), photo(1), {}, (0, 0, 41, 5))


def test_dots_bars_and_paper_values_stand_where_the_table_says():
    ax = F.deviations(DEVIATIONS).axes[0]
    looks = F.method_looks(ROWS)
    assert [t.get_text() for t in ax.get_yticklabels()] == [look.label for look in looks.values()]
    bars = [line for line in ax.lines if line.get_linewidth() == 3]
    found = np.array([line.get_xdata() for line in bars])
    np.testing.assert_allclose(found, DEVIATIONS[["low", "high"]])
    paper = [
        line.get_xdata()[0]
        for line in ax.lines
        if line.get_marker() == "D" and line.get_markerfacecolor() == "white"
    ]
    np.testing.assert_allclose(paper, DEVIATIONS["paper"])


def test_a_number_without_an_interval_has_no_bar():
    ax = F.deviations(DEVIATIONS[["row", "value"]]).axes[0]
    assert not [line for line in ax.lines if line.get_linewidth() == 3]


def test_paired_changes_join_the_same_picture():
    ax = F.paired_changes(PAIRS, "realesrgan", "realesrgan+div").axes[0]
    arrows = [note for note in ax.texts if getattr(note, "arrow_patch", None) is not None]
    assert len(arrows) == 30
    for note in arrows:
        (x0, y0), (x1, y1) = note.xyann, note.xy
        assert x0 == x1 and y0 == pytest.approx(0.5 * x0) and y1 == pytest.approx(0.8 * x1)
    assert "0.50 of raw's" in ax.get_legend().get_texts()[0].get_text()
    ax.figure.canvas.draw()
    (a, b), (c, d) = ax.transData.transform([(0, 0), (1, 1)])
    assert c - a == pytest.approx(d - b)


def test_curves_pass_through_the_points_they_were_given():
    for ax in F.rate_curves(CURVES, "PSNR, dB").axes:
        for line, row in zip(ax.lines, F.method_looks(METHODS)):
            wanted = CURVES[(CURVES["panel"] == ax.get_title()) & (CURVES["row"] == row)]
            np.testing.assert_allclose(line.get_ydata(), wanted["value"])


def test_the_causal_graph_has_three_nodes_and_two_arrows():
    ax = F.causal_graph().axes[0]
    assert len(ax.lines) == 3 and sum(isinstance(p, FancyArrowPatch) for p in ax.patches) == 2
    assert {t.get_text() for t in ax.texts} >= {"$I_R$", "$I_C$", "$I_E$", "$f_c$", "$f_e$"}


def test_score_maps_share_one_scale(drawn):
    maps = [ax.images[1] for ax in drawn["score maps"].axes if len(ax.images) == 2]
    assert len(maps) == 4 and len({m.get_clim() for m in maps}) == 1


def test_running_mean_keeps_a_constant_and_a_gap_does_not_break_it():
    stats = pd.DataFrame({"iteration": np.arange(100), "recon": np.full(100, 2.5)})
    stats.loc[40:45, "recon"] = np.nan
    pale, smooth = F.training_curves(stats, smooth=20).axes[0].lines
    assert np.isnan(pale.get_ydata()).sum() == 6
    np.testing.assert_allclose(smooth.get_ydata(), 2.5)


@pytest.mark.parametrize(
    "draw,table,words",
    [
        (
            F.realism_differences,
            SCORES.drop(columns="domain"),
            "realism_differences: the table has no column domain",
        ),
        (F.realism_differences, SCORES[:0], "realism_differences: the table is empty"),
        (F.deviations, DEVIATIONS.assign(value=np.inf), "value is no finite number in row 0"),
        (F.training_curves, STATS[["iteration"]], "no column of numbers"),
        (F.triangles, TRIANGLES.assign(cr=0), "cr is 0"),
        (lambda t: F.rate_curves(t, "PSNR"), CURVES.drop(columns="bpp"), "no column bpp"),
        (lambda t: F.paired_changes(t, "realesrgan", "mine"), PAIRS, "no row mine"),
    ],
)
def test_tables_that_do_not_fit_end_in_one_line(draw, table, words):
    with pytest.raises(QebiasError, match=re.escape(words)) as error:
        draw(table)
    assert "\n" not in str(error.value)


def test_figures_that_are_shown_are_written_as_vectors_where_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QEBIAS_FIGURES", str(tmp_path / "figures"))
    for _ in range(2):
        F.causal_graph()._ipython_display_()
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert names == [f"{k}.{kind}" for k in ("01", "02") for kind in ("pdf", "png", "svg")]


def test_a_map_of_scores_may_be_neutral_at_a_half():
    rgb = np.zeros((8, 8, 3), np.uint8)
    found = F.score_maps({"raw": (rgb, np.full((8, 8), 0.9))}, middle=0.5)
    image = found.axes[1].images[-1]
    assert image.norm.vmin == pytest.approx(0.1) and image.norm.vmax == pytest.approx(0.9)


def test_letters_of_controls_lie_over_nothing():
    "The identity is C itself; what stands beside it, or beside one another, can be read"
    names = ("identity", "unsharp", "noise4", "other-residual")
    table = [dict(row="rrdb", ce=0.9, re=9.2, cr=9.73)]
    table += [
        dict(row=f"control:{name}", ce=0.1 * k, re=9.73 - 0.1 * k, cr=9.73) for k, name in enumerate(names)
    ]
    ax = F.triangle(table).axes[0]
    single = [line for line in ax.lines if len(line.get_xdata()) == 1]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in single]
    assert len(marks) == 2 + len(table) - 1
    letters = marks[3:]
    for k, letter in enumerate(letters):
        for other in [*marks[:3], *letters[:k]]:
            assert np.hypot(*np.subtract(letter, other)) >= F.APART - 1e-9
