"""DnCNN with and without normalisation: what its fingerprint sees, sizes, gradients, reach, precision, names,
and what it refuses"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators.core import count, fill, fingerprint, load_weights, macs, measured_reach, test_image
from qebias.generators.dcad import DCAD
from qebias.generators.dncnn import DnCNN

SMALL = dict(width=16, depth=6)
NORM = [False, True]


def changed(change, norm):
    "A small DnCNN with weights by the fill rule and uneven running statistics, one thing changed"
    net = fill(DnCNN(16, 5 if change == "shallower" else 6, norm=norm).double()).eval()
    convs, norms, relus = (
        [i for i, m in enumerate(net.layers) if isinstance(m, kind)]
        for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
    )
    for i in norms:
        net.layers[i].running_mean.copy_(torch.linspace(-0.3, 0.3, 16))
        net.layers[i].running_var.copy_(torch.linspace(0.5, 2, 16))
    if change == "no first relu":
        net.layers[relus[0]] = nn.Identity()
    if change == "no last relu":
        net.layers[relus[-1]] = nn.Identity()
    if change == "relu at the end":
        net.layers.append(nn.ReLU())
    if change == "leaky":
        net.layers[relus[2]] = nn.LeakyReLU(1e-4)
    if change == "no skip":
        return lambda x: net.layers(x)
    if change == "sign":
        return lambda x: x - net.layers(x)
    if change == "eps":
        net.layers[norms[1]].eps = 1e-5
    if change == "norm after relu":
        i = norms[1]
        net.layers[i], net.layers[i + 1] = net.layers[i + 1], net.layers[i]
    if change == "norm missing":
        net.layers[norms[-1]] = nn.Identity()
    if change == "norm after the first":
        net.layers.insert(1, nn.BatchNorm2d(16, eps=1e-4).double().eval())
    if change == "bias":
        net.layers[convs[2]].bias.data.zero_()
    return net


@torch.no_grad()
@pytest.mark.parametrize(
    "norm, change",
    [
        (n, c)
        for n in NORM
        for c in ("no first relu", "no last relu", "relu at the end", "leaky", "no skip", "sign", "shallower")
    ]
    + [(False, "bias")]
    + [(True, c) for c in ("eps", "norm after relu", "norm missing", "norm after the first")],
)
def test_fingerprint_sees_small_changes(norm, change):
    x = test_image(3, 24)
    want = fingerprint(changed(None, norm)(x))
    assert fingerprint(changed(None, norm)(x)) == want
    assert not np.allclose(fingerprint(changed(change, norm)(x)), want, rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("width, depth", [(8, 2), (8, 3), (16, 17)])
def test_without_normalisation_it_is_dcad_of_that_depth(width, depth):
    x = test_image(3, 20)
    assert torch.equal(fill(DnCNN(width, depth).double())(x), fill(DCAD(width, depth).double())(x))
    torch.manual_seed(1)
    a = DnCNN(width, depth)
    torch.manual_seed(1)
    b = DCAD(width, depth)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("h, w", [(1, 1), (1, 9), (3, 5), (9, 17), (66, 54), (127, 65)])
@pytest.mark.parametrize("norm", NORM)
def test_takes_every_size(h, w, norm):
    x = torch.rand(2, 3, h, w)
    y = DnCNN(8, norm=norm).eval()(x)
    assert y.shape == x.shape and y.dtype == x.dtype and torch.isfinite(y).all()


@pytest.mark.parametrize("width, depth", [(64, 17), (64, 20), (8, 2), (5, 3)])
def test_counts_and_work_by_hand(width, depth):
    weights, middle = 2 * 27 * width + (depth - 2) * 9 * width**2, depth - 2
    with torch.device("meta"):
        plain, normed = DnCNN(width, depth), DnCNN(width, depth, norm=True)
    assert count(plain) == weights + (depth - 1) * width + 3
    assert count(normed) == weights + width + 3 + 2 * middle * width
    assert sum(b.numel() for b in normed.buffers()) == middle * (2 * width + 1) and not list(plain.buffers())
    assert macs(DnCNN(width, depth, norm=True), (6, 10)) == macs(DnCNN(width, depth), (6, 10)) == 60 * weights


def test_a_hand_made_normalised_network_agrees_in_both_modes():
    torch.manual_seed(0)
    net, x = DnCNN(6, 4, norm=True).double(), torch.rand(3, 3, 9, 7, dtype=torch.float64)
    s = {k: v.clone() for k, v in net.state_dict().items()}

    def by_hand(statistics):
        y = F.conv2d(x, s["layers.0.weight"], s["layers.0.bias"], padding=1).clamp(min=0)
        for conv, norm in ((2, 3), (5, 6)):
            y = F.conv2d(y, s[f"layers.{conv}.weight"], padding=1)
            mean, var = statistics(y, norm)
            y = ((y - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-4).sqrt()).clamp(min=0)
        return x + F.conv2d(y, s["layers.8.weight"], s["layers.8.bias"], padding=1)

    of_batch = {}

    def batch(y, norm):
        of_batch[norm] = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=True)
        return y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)

    assert torch.allclose(net.train()(x), by_hand(batch), rtol=0, atol=1e-12)
    for norm, (mean, var) in of_batch.items():
        assert torch.allclose(net.layers[norm].running_mean, 0.9 * mean) and torch.allclose(
            net.layers[norm].running_var, 0.1 + 0.9 * var
        )
    s = {k: v.clone() for k, v in net.state_dict().items()}
    assert torch.allclose(
        net.eval()(x),
        by_hand(lambda y, n: (s[f"layers.{n}.running_mean"], s[f"layers.{n}.running_var"])),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("norm", NORM)
@pytest.mark.parametrize("width, depth", [(8, 2), (8, 5), (16, 17)])
def test_stated_reach_is_the_measured_one(width, depth, norm):
    net = DnCNN(width, depth, norm)
    assert measured_reach(fill(net.double()), 2 * depth + 6, net.multiple) == net.reach == depth


def test_names_are_powerqe_s_and_other_variants_are_refused():
    assert list(DnCNN(8).state_dict()) == [
        f"layers.{2 * i}.{p}" for i in range(17) for p in ("weight", "bias")
    ]
    middle = (
        [f"layers.{3 * i + 2}.weight" for i in range(2)],
        [
            f"layers.{3 * i + 3}.{p}"
            for i in range(2)
            for p in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ],
    )
    assert set(DnCNN(8, 4, norm=True).state_dict()) == {
        f"layers.{i}.{p}" for i in (0, 8) for p in ("weight", "bias")
    }.union(*middle)
    net = DnCNN(8)
    for wrong in (DnCNN(16), DnCNN(8, 16), DnCNN(8, 18), DnCNN(8, norm=True)):
        with pytest.raises(QebiasError, match="DnCNN: "):
            load_weights(net, wrong.state_dict())
    with pytest.raises(QebiasError, match="DnCNN: "):
        load_weights(DnCNN(8, norm=True), net.state_dict())


@pytest.mark.parametrize(
    "kwargs, says",
    [
        ({"width": 0}, "width is 0"),
        ({"width": 64.0}, "width is 64.0"),
        ({"depth": True}, "depth is True"),
        ({"depth": 1}, "depth is 1, it must be 2 or more"),
        ({"norm": 1}, "norm is 1"),
        ({"norm": "batch"}, "norm is 'batch'"),
        ({"norm": None}, "norm is None"),
    ],
)
def test_refuses_arguments_that_are_none(kwargs, says):
    with pytest.raises(QebiasError) as error:
        DnCNN(**kwargs)
    assert str(error.value).startswith("DnCNN: " + says) and "\n" not in str(error.value)
