"The formulas of bias: the geometry of Eq. 1, the line of Fig. 6, the chain of Fig. 5"

import numpy as np
import pytest

from qebias import bias
from qebias.bias import causal_chain, dependence, deviation, is_triangle, mutual_information, slope
from qebias.core import QebiasError

RNG = np.random.default_rng(0)


def test_deviation_is_the_abscissa_of_the_vertex():
    c, r, e = RNG.normal(size=(3, 200, 2))
    ce, re, cr = (np.linalg.norm(a - b, axis=1) for a, b in ((c, e), (r, e), (c, r)))
    along = ((e - (c + r) / 2) * (r - c)).sum(1) / cr
    assert np.allclose(deviation(ce, re, cr), 100 * along / (cr / 2))
    assert all(is_triangle(*sides) for sides in zip(ce, re, cr))


@pytest.mark.parametrize("sides", [(1, 2, 4), (1, 4, 2), (4, 1, 2), (0, 3, 2)])
def test_what_is_no_triangle_is_told_whichever_side_is_too_long(sides):
    assert not is_triangle(*sides)


@pytest.mark.parametrize("sides", [(0, 2, 2), (1, 1, 2), (2, 3, 4), (1e-3, 1e-3, 1e-3)])
def test_degenerate_triangles_count(sides):
    assert is_triangle(*sides)


@pytest.mark.parametrize(
    "arguments", [(1, 1, 0), (-1, 1, 1), (1, np.inf, 1), (np.nan, 1, 1), ([1, 1], [1, 1], [1, 0])]
)
def test_deviation_refuses_in_one_line(arguments):
    with pytest.raises(QebiasError) as error:
        deviation(*arguments)
    assert "\n" not in str(error.value)


def test_slope_is_least_squares_with_an_intercept():
    x, y = RNG.uniform(1, 3, 40), RNG.uniform(0, 2, 40)
    steep, intercept, ratio = slope(x, y)
    assert (steep, intercept) == pytest.approx(np.polyfit(x, y, 1))
    assert ratio == pytest.approx(y.mean() / x.mean())


def test_slopes_of_many_resamples_at_once():
    x, y = RNG.uniform(1, 3, (7, 40)), RNG.uniform(0, 2, (7, 40))
    found = slope(x, y)
    for k in range(7):
        assert [part[k] for part in found] == pytest.approx(slope(x[k], y[k]))


@pytest.mark.parametrize("x, y", [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 2])])
def test_slope_refuses_what_carries_no_line(x, y):
    with pytest.raises(QebiasError, match="needs three with different"):
        slope(x, y)


def test_raw_and_enhanced_are_independent_given_compressed():
    "Eq. 3, for any codec and any enhancer that sees the compressed value alone"
    for _ in range(20):
        raw = RNG.dirichlet(np.ones(5))
        chain = causal_chain(raw, RNG.dirichlet(np.ones(3), 5), RNG.dirichlet(np.ones(5), 3))
        assert chain.sum() == pytest.approx(1)
        free, given = dependence(chain)
        assert free > 0 and given == pytest.approx(0, abs=1e-9)


def test_an_enhancer_that_sees_raw_breaks_the_chain():
    given = [
        dependence(causal_chain([0.25] * 4, np.ones((4, 1)), np.full((1, 4), 0.25), leak))[1]
        for leak in (0, 0.5, 1)
    ]
    assert given[0] == pytest.approx(0) and given[0] < given[1] < given[2] == pytest.approx(2)


def test_mutual_information_by_hand():
    assert mutual_information(np.eye(4) / 4) == pytest.approx(2)
    assert mutual_information(np.full((2, 2), 0.25)) == pytest.approx(0)


def test_an_audit_answers_to_its_old_name():
    import qebias.audit

    assert bias.audit is qebias.audit.audit
    with pytest.raises(AttributeError, match="no attribute 'measured'"):
        _ = bias.measured


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: deviation([1, 2], [1, 2, 3], 1), "pass as many of each"),
        (lambda: deviation("1", 1, 1), "CE holds"),
        (lambda: deviation(1, 1j, 1), "RE holds complex128"),
        (lambda: deviation(None, 1, 1), "CE holds object"),
        (lambda: slope(1, 2), "needs three"),
        (lambda: slope([1, 2, 3], [1, 2, np.nan]), "must be finite"),
        (lambda: causal_chain([0.5, 0.6], np.eye(2), np.eye(2)), "raw holds no probabilities"),
        (lambda: causal_chain([0.5, 0.5], np.ones((2, 2)), np.eye(2)), "codec holds no probabilities"),
    ],
)
def test_what_is_no_number_is_one_line(call, words):
    with pytest.raises(QebiasError, match=words):
        call()


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_deviation_has_no_unit(unit):
    assert deviation(unit, unit / 2, unit) == pytest.approx(75)
    assert deviation(np.array([unit]), np.array([unit / 2]), unit) == pytest.approx(75)
