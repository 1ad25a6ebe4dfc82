"DCAD: what its fingerprint sees, sizes, gradients, reach, precision, names, and what it refuses"

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators.core import count, fill, fingerprint, load_weights, macs, measured_reach, test_image
from qebias.generators.dcad import DCAD

WANT = [-3.14931876e-03, 7.13372222e-01, -2.97601850e-01, 9.78451099e-01, 8.63413336e-01, 7.60867957e-01]


def changed(change):
    net = fill(DCAD(depth=11 if change == "deeper" else 9 if change == "shallower" else 10).double())
    convs = [m for m in net.layers if isinstance(m, nn.Conv2d)]
    if change == "no first relu":
        net.layers[1] = nn.Identity()
    if change == "no last relu":
        net.layers[-2] = nn.Identity()
    if change == "relu at the end":
        net.layers.append(nn.ReLU())
    if change == "leaky":
        net.layers[5] = nn.LeakyReLU(1e-4)
    if change == "padding":
        convs[4].padding_mode, convs[4]._reversed_padding_repeated_twice = "replicate", [1, 1, 1, 1]
    if change == "bias":
        convs[5].bias.data.zero_()
    if change == "no skip":
        return lambda x: net.layers(x)
    if change == "sign":
        return lambda x: x - net.layers(x)
    return net


@torch.no_grad()
def test_fingerprint_of_the_unchanged_network():
    assert np.allclose(fingerprint(changed(None)(test_image())), WANT, rtol=1e-8, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        "no first relu",
        "no last relu",
        "relu at the end",
        "leaky",
        "padding",
        "bias",
        "no skip",
        "sign",
        "deeper",
        "shallower",
    ],
)
def test_fingerprint_sees_small_changes(change):
    assert not np.allclose(fingerprint(changed(change)(test_image())), WANT, rtol=1e-6, atol=0)


@pytest.mark.parametrize("h, w", [(1, 1), (1, 9), (3, 5), (9, 17), (66, 54), (127, 65)])
@pytest.mark.parametrize("width, depth", [(8, 10), (3, 2)])
def test_takes_every_size(h, w, width, depth):
    x = torch.rand(2, 3, h, w)
    y = DCAD(width, depth)(x)
    assert y.shape == x.shape and y.dtype == x.dtype and torch.isfinite(y).all()


@pytest.mark.parametrize("width, depth", [(64, 10), (8, 2), (5, 3), (64, 20)])
def test_count_and_work_by_hand(width, depth):
    with torch.device("meta"):
        meta = DCAD(width, depth)
    weights = 2 * 27 * width + (depth - 2) * 9 * width**2
    assert count(meta) == weights + (depth - 1) * width + 3
    assert macs(DCAD(width, depth), (6, 10)) == 60 * weights


def test_gradients_reach_every_weight_and_a_hand_made_convolution_agrees():
    torch.manual_seed(0)
    net, x = DCAD().double(), torch.rand(2, 3, 12, 16, dtype=torch.float64, requires_grad=True)
    y = net(x)
    (y * torch.rand_like(y)).sum().backward()
    assert (
        all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
        and x.grad.abs().sum() > 0
    )
    z = x.detach()
    for i in range(10):
        z = F.conv2d(
            F.pad(z, (1, 1, 1, 1)), *(net.state_dict()[f"layers.{2 * i}.{p}"] for p in ("weight", "bias"))
        )
        if i < 9:
            z = z.clamp(min=0)
    assert torch.allclose(y, x + z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width, depth", [(8, 2), (8, 5), (16, 10), (8, 13)])
def test_stated_reach_is_the_measured_one(width, depth):
    net = DCAD(width, depth)
    assert measured_reach(fill(net.double()), 2 * depth + 6, net.multiple) == net.reach == depth


def test_names_are_powerqe_s_and_other_widths_are_refused():
    net = DCAD(8)
    assert list(net.state_dict()) == [f"layers.{2 * i}.{p}" for i in range(10) for p in ("weight", "bias")]
    other = DCAD(8)
    load_weights(other, net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))
    for wrong in (DCAD(16), DCAD(8, 9), DCAD(8, 11)):
        with pytest.raises(QebiasError, match="DCAD: "):
            load_weights(net, wrong.state_dict())


@pytest.mark.parametrize(
    "kwargs, says",
    [
        ({"width": 0}, "width is 0"),
        ({"width": 64.0}, "width is 64.0"),
        ({"width": True}, "width is True"),
        ({"depth": -1}, "depth is -1"),
        ({"depth": 1}, "depth is 1, it must be 2 or more"),
        ({"depth": "10"}, "depth is '10'"),
    ],
)
def test_refuses_sizes_that_are_none(kwargs, says):
    with pytest.raises(QebiasError) as error:
        DCAD(**kwargs)
    assert str(error.value).startswith("DCAD: " + says) and "\n" not in str(error.value)
