"RDN: what its fingerprint sees, sizes, gradients, reach, precision, names, and what it refuses"

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators.core import count, fill, fingerprint, load_weights, macs, measured_reach, test_image
from qebias.generators.rdn import RDN, ResidualDenseBlock


def by_hand(net, x, change=None):
    "RDN written once more, from its equations, with functions only; `change` bends one rule"
    s = net.state_dict()

    def conv(name, y):
        w = s[name + ".weight"]
        return F.conv2d(y, w, s[name + ".bias"], padding=w.shape[-1] // 2)

    first = conv("sfe1", x.clamp(min=0.01) if change == "clamp" else x)
    y, kept = conv("sfe2", F.relu(first) if change == "relu after sfe1" else first), []
    second = y
    for b in range(len(net.rdbs)):
        known = [y]
        for i in range(len(net.rdbs[b].layers)):
            found = conv(
                f"rdbs.{b}.layers.{i}.conv",
                torch.cat(
                    known[::-1]
                    if change == "order" and i == len(net.rdbs[b].layers) - 1 and b == 1
                    else known,
                    1,
                ),
            )
            known.append(
                found
                if change == "no relu" and (b, i) == (1, 2)
                else F.leaky_relu(found, 1e-4)
                if change == "leaky"
                else F.relu(found)
            )
        fused = conv(f"rdbs.{b}.lff", torch.cat(known, 1))
        fused = F.relu(fused) if change == "relu after lff" else 0.2 * fused if change == "scaled" else fused
        y = fused if change == "no local skip" and b == 1 else y + fused
        kept.append(y)
    g = conv("gff.0", torch.cat(kept[::-1] if change == "blocks reversed" else kept, 1))
    g = conv("gff.1", F.relu(g) if change == "relu in gff" else g)
    out = conv(
        "output", g if change == "no global skip" else g + (second if change == "skip from sfe2" else first)
    )
    return x + out if change == "image skip" else out


CHANGES = [
    "clamp",
    "relu after sfe1",
    "order",
    "no relu",
    "leaky",
    "relu after lff",
    "scaled",
    "no local skip",
    "blocks reversed",
    "relu in gff",
    "no global skip",
    "skip from sfe2",
    "image skip",
]


@torch.no_grad()
def test_written_once_more_it_is_the_same():
    net, x = fill(RDN(8, 2, 3, 8).double()), test_image(3, (17, 22))
    assert torch.allclose(net(x), by_hand(net, x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_sees_small_changes(change):
    net, x = fill(RDN(8, 2, 3, 8).double()), test_image(3, 24)
    want = fingerprint(net(x))
    assert np.allclose(fingerprint(by_hand(net, x)), want, rtol=1e-9, atol=0)
    assert not np.allclose(fingerprint(by_hand(net, x, change)), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("h, w", [(1, 1), (1, 9), (3, 5), (9, 17), (66, 54), (127, 65)])
@pytest.mark.parametrize("sizes", [(8, 2, 2, 4), (3, 1, 1, 1)])
def test_takes_every_size(h, w, sizes):
    x = torch.rand(2, 3, h, w)
    y = RDN(*sizes)(x)
    assert y.shape == x.shape and y.dtype == x.dtype and torch.isfinite(y).all()


def conv(i, o, k=3):
    return (i * k * k + 1) * o


@pytest.mark.parametrize("w, b, l, g", [(32, 4, 4, 32), (32, 4, 8, 64), (64, 16, 8, 64), (5, 1, 2, 3)])
def test_counts_by_hand(w, b, l, g):
    with torch.device("meta"):
        net = RDN(w, b, l, g)
    rdb = sum(conv(w + i * g, g) for i in range(l)) + conv(w + l * g, w, 1)
    assert count(net) == conv(3, w) + conv(w, w) + b * rdb + conv(b * w, w, 1) + conv(w, w) + conv(w, 3)
    with torch.device("meta"):
        assert count(ResidualDenseBlock(w, l, g)) == rdb


def test_work_is_the_weights_once_a_pixel():
    net = RDN(5, 2, 2, 3)
    assert macs(net, (6, 10)) == 60 * sum(p.numel() for p in net.parameters() if p.dim() == 4)


def test_gradients_are_those_of_the_equations():
    torch.manual_seed(0)
    net, x = RDN(8, 2, 2, 4).double(), torch.rand(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    a, b = (torch.autograd.grad((f(x) * k).sum(), x)[0] for f in (net, lambda x: by_hand(net, x)))
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("w, b, l, g", [(4, 1, 1, 2), (8, 2, 3, 4), (8, 3, 2, 4), (32, 4, 4, 32)])
def test_stated_reach_is_the_measured_one(w, b, l, g):
    net = RDN(w, b, l, g)
    assert measured_reach(fill(net.double()), 2 * net.reach + 6, net.multiple) == net.reach == b * l + 4


def test_names_are_powerqe_s_and_other_sizes_are_refused():
    convs = [
        "sfe1",
        "sfe2",
        *(
            f"rdbs.{b}.{c}"
            for b in range(2)
            for c in ("layers.0.conv", "layers.1.conv", "layers.2.conv", "lff")
        ),
        "gff.0",
        "gff.1",
        "output",
    ]
    net = RDN(8, 2, 3, 4)
    assert list(net.state_dict()) == [f"{c}.{p}" for c in convs for p in ("weight", "bias")]
    for wrong in (
        RDN(16, 2, 3, 4),
        RDN(8, 1, 3, 4),
        RDN(8, 3, 3, 4),
        RDN(8, 2, 2, 4),
        RDN(8, 2, 4, 4),
        RDN(8, 2, 3, 8),
    ):
        with pytest.raises(QebiasError, match="RDN: "):
            load_weights(net, wrong.state_dict())


@pytest.mark.parametrize(
    "kwargs",
    [{"width": 0}, {"blocks": -1}, {"layers": 1.5}, {"growth": "64"}, {"blocks": True}, {"layers": 0}],
)
def test_refuses_sizes_that_are_none(kwargs):
    name, value = next(iter(kwargs.items()))
    with pytest.raises(QebiasError) as error:
        RDN(**kwargs)
    assert str(error.value) == f"RDN: {name} is {value!r}, it must be a positive integer"
