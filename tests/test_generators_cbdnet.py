"CBDNet: a fingerprint that sees small changes, every size, the arithmetic of odd sides, reach, and refusals"

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators import cbdnet
from qebias.generators.cbdnet import CBDNet, conv_relu, fitted
from qebias.generators.core import (
    count,
    crop_to,
    fill,
    fingerprint,
    load_weights,
    macs,
    measured_reach,
    pad_to_multiple,
    stages,
    test_image,
)


def _found():
    return fingerprint(fill(CBDNet(8, 4).double())(test_image(3, 16)))


@pytest.mark.parametrize("name", ["estimator", "enc0", "enc1", "enc2", "dec1", "dec0"])
def test_fingerprint_sees_a_missing_activation(name):
    net = fill(CBDNet(8, 4).double())
    getattr(net, name)[-1] = nn.Identity()
    assert not np.allclose(fingerprint(net(test_image(3, 16))), _found(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("change", ["order", "pooling", "nearest", "corner", "skip", "residual"])
def test_fingerprint_sees_small_changes(change, monkeypatch):
    want = _found()
    assert _found() == want
    cat, pad = torch.cat, F.pad
    if change == "order":
        monkeypatch.setattr(torch, "cat", lambda parts, dim: cat(parts[::-1], dim))
    if change == "pooling":
        monkeypatch.setattr(F, "avg_pool2d", F.max_pool2d)
    if change == "nearest":
        monkeypatch.setattr(cbdnet, "fitted", lambda x, like: pad(x, (0, 1, 0, 1), mode="replicate"))
    if change == "corner":
        monkeypatch.setattr(cbdnet, "fitted", lambda x, like: pad(x, (1, 0, 1, 0)))
    if change == "skip":
        monkeypatch.setattr(cbdnet, "fitted", lambda x, like, f=fitted: f(x, like) * 1.0001)
    if change == "residual":
        monkeypatch.setattr(CBDNet, "forward", lambda self, x, f=CBDNet.forward: f(self, x) - x)
    assert not np.allclose(_found(), want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("width, estimator", [(8, 4), (5, 3), (64, 32)])
def test_count_by_hand(width, estimator):
    def conv(i, o):
        return (9 * i + 1) * o

    w, e = width, estimator
    want = (
        conv(3, e)
        + 3 * conv(e, e)
        + conv(e, 3)
        + conv(6, w)
        + conv(w, 2 * w)
        + 2 * conv(2 * w, 2 * w)
        + conv(2 * w, 4 * w)
        + 4 * conv(4 * w, 4 * w)
    )
    want += conv(4 * w, 2 * w) + 3 * conv(2 * w, 2 * w) + conv(2 * w, w) + 2 * conv(w, w) + conv(w, 3)
    with torch.device("meta"):
        net = CBDNet(w, e)
    assert count(net) == want


def test_stages_add_up():
    net = CBDNet(8, 4)
    assert sum(r["parameters"] for r in stages(net, 16)) == count(net)
    assert sum(r["mmac"] for r in stages(net, 16)) == pytest.approx(macs(net, 16) / 1e6, abs=0.01)


@pytest.mark.parametrize("h, w", [(1, 1), (1, 40), (2, 2), (3, 5), (4, 4), (9, 17), (66, 54), (127, 65)])
def test_takes_every_size_and_gives_finite_gradients(h, w):
    torch.manual_seed(0)
    net, x = CBDNet(8, 4), torch.rand(1, 3, h, w, requires_grad=True)
    y = net(x)
    y.square().mean().backward()
    assert y.shape == x.shape and y.isfinite().all() and x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_short_sides_take_only_the_levels_that_exist():
    net = fill(CBDNet(8, 4).double())

    def changed_by(name, h, w):
        x = test_image(3, (h, w))
        with torch.no_grad():
            before = net(x)
            part = getattr(net, name)
            kept = part.weight.clone()
            part.weight.add_(0.1)
            after = net(x)
            part.weight.copy_(kept)
        return not torch.equal(before, after)

    assert [changed_by("up0", 1, 9), changed_by("up1", 1, 9)] == [False, False]
    assert [changed_by("up0", 3, 9), changed_by("up1", 3, 9)] == [True, False]
    assert [changed_by("up0", 4, 9), changed_by("up1", 4, 9)] == [True, True]


@pytest.mark.parametrize("n", range(2, 14))
def test_arithmetic_of_sides(n):
    below = n // 2
    up = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1)
    with torch.no_grad():
        y = up(F.avg_pool2d(torch.rand(1, 1, n, n), 2))
    assert y.shape[2] == 2 * below - 1 and n - y.shape[2] == (2 if n % 2 else 1)
    filled = fitted(torch.ones(1, 1, *y.shape[2:]), torch.zeros(1, 1, n, n))[0, 0].amax(1)
    want = [0.0] + [1.0] * (n - 2) + [0.0] if n % 2 else [1.0] * (n - 1) + [0.0]
    assert filled.tolist() == want


def test_an_odd_side_shifts_the_coarse_levels_by_one_pixel():
    """Only up0 works: the picture of the coarse level lies one pixel further right and below when the side is
    odd"""
    net = fill(CBDNet(4, 4).double())
    with torch.no_grad():
        y1 = torch.rand(1, 8, 6, 6, dtype=torch.float64)
        up = net.up0(y1)
        even, odd = (fitted(up, torch.zeros(1, 4, n, n)) for n in (12, 13))
    assert (
        torch.equal(even[..., :11, :11], odd[..., 1:12, 1:12])
        and not odd[..., 0, :].any()
        and not odd[..., 12, :].any()
    )


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_padding_to_the_grid_keeps_other_sizes_in_step(cut):
    net, x = fill(CBDNet(4, 4).double()), test_image(3, (8, 128))
    with torch.no_grad():
        whole, narrow = net(x)[..., :72], net(x[..., :-cut])[..., :72]
        padded = crop_to(net(pad_to_multiple(x[..., :-cut], CBDNet.grid)), x[..., :-cut])[..., :72]
    assert torch.allclose(padded, whole, rtol=0, atol=1e-12) and (narrow - whole).abs().max() > 1e-3


def test_reach_is_exact():
    assert measured_reach(fill(CBDNet(4, 4).double()), 104, phases=CBDNet.grid) == CBDNet.reach == 47


def test_each_phase_of_the_grid_looks_as_far_as_worked_out():
    """Followed through the layers with intervals, column 4q sees 4q - 44 to 4q + 47, the three after it 4q -
    40 to 4q + 47"""
    net, x = fill(CBDNet(4, 4).double()), test_image(3, (8, 128)).requires_grad_()
    y, seen = net(x), []
    for at in range(64, 68):
        (g,) = torch.autograd.grad(y[..., at].sum(), x, retain_graph=True)
        columns = (g != 0).any(1).any(1)[0].nonzero()
        seen.append((64 - columns.min().item(), columns.max().item() - 64))
    assert seen == [(44, 47), (40, 47), (40, 47), (40, 47)]


@pytest.mark.parametrize("width", [105, 106, 107])
def test_the_shift_of_other_sizes_stays_within_the_reach(width):
    net, x = fill(CBDNet(4, 4).double()), test_image(3, (8, width)).requires_grad_()
    y = net(x)
    for at in range(50, 54):
        (g,) = torch.autograd.grad(y[..., at].sum(), x, retain_graph=True)
        assert ((g != 0).any(1).any(1)[0].nonzero() - at).abs().max() <= CBDNet.reach


@pytest.mark.parametrize(
    "kwargs", [{"width": 0}, {"width": "64"}, {"estimator": -1}, {"estimator": True}, {"estimator": 2.0}]
)
def test_refuses_arguments_that_are_no_counts(kwargs):
    with pytest.raises(QebiasError, match=f"^CBDNet: {next(iter(kwargs))} is .*positive integer$"):
        CBDNet(**kwargs)


def test_weights_of_another_width_are_refused_by_name():
    with pytest.raises(
        QebiasError,
        match=r"CBDNet: enc0.0.weight has shape \(8, 6, 3, 3\) in the weights, expected \(16, 6, 3, 3\)",
    ):
        load_weights(CBDNet(16, 4), CBDNet(8, 4).state_dict())
    other = CBDNet(8, 4)
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_weights(CBDNet(8, 4), other.state_dict()).parameters(), other.parameters())
    )


def test_rows_of_convolutions():
    assert [type(m).__name__ for m in conv_relu(2, 3, 2)] == ["Conv2d", "ReLU"] * 2
    assert [(m.in_channels, m.out_channels) for m in conv_relu(2, 3, 2) if isinstance(m, nn.Conv2d)] == [
        (2, 3),
        (3, 3),
    ]
