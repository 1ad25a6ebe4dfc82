"RBQE: a fingerprint that sees small changes, dense wiring, every size, attention, reach, and refusals"

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators import rbqe
from qebias.generators.core import (
    count,
    fill,
    fingerprint,
    load_weights,
    macs,
    measured_reach,
    stages,
    test_image,
)
from qebias.generators.rbqe import ECA, RBQE, Down, Stage, Up


def _small(levels=2, attention=False):
    return fill(RBQE(6, levels, attention).double())


def _found(net):
    return fingerprint(net(test_image(3, 14)))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    "change",
    ["order", "newest", "corner", "mix activation", "first activation", "extra activation", "residual"],
)
def test_fingerprint_sees_small_changes(change, attention, monkeypatch):
    net = _small(3, attention)
    want = _found(net)
    assert _found(net) == want
    cat = torch.cat
    if change == "order":
        monkeypatch.setattr(torch, "cat", lambda maps, dim: cat([maps[0], *maps[:0:-1]], dim))
    if change == "newest":
        monkeypatch.setattr(torch, "cat", lambda maps, dim: cat([*maps[1:], maps[0]], dim))
    if change == "corner":
        monkeypatch.setattr(
            rbqe,
            "fitted",
            lambda x, like: F.pad(
                x, (0, like.shape[3] - x.shape[3], 0, like.shape[2] - x.shape[2]), value=1e-4
            ),
        )
    if change == "mix activation":
        net.unets[0].ups[0].mix[2 if attention else 1] = nn.Identity()
    if change == "first activation":
        net.first[1] = nn.Identity()
    if change == "extra activation":
        net.first.append(nn.ReLU())
    if change == "residual":
        monkeypatch.setattr(RBQE, "forward", lambda self, x, f=RBQE.forward: f(self, x) - x)
    assert not np.allclose(_found(net), want, rtol=1e-8, atol=0)


def test_fingerprint_sees_attention():
    assert not np.allclose(_found(_small(2, True)), _found(_small(2, False)), rtol=1e-8, atol=0)


@pytest.mark.parametrize("width, levels", [(4, 1), (6, 3), (32, 5), (64, 5)])
def test_count_by_hand(width, levels):
    def conv(i, o):
        return (9 * i + 1) * o

    w = width
    want, units = conv(3, w) + conv(w, w) + conv(w, 3), 1
    for u in range(levels):
        want, units = want + 3 * conv(w, w), units + 2
        for j in range(u + 1):
            want, units = want + conv(w, w) + conv((2 + j) * w, w) + conv(w, w), units + 2
    with torch.device("meta"):
        nets = RBQE(w, levels), RBQE(w, levels, attention=True)
    assert [count(net) for net in nets] == [want, want + 3 * units]


def test_stages_add_up():
    net = RBQE(6, 3)
    assert sum(r["parameters"] for r in stages(net, 16)) == count(net)
    assert sum(r["mmac"] for r in stages(net, 16)) == pytest.approx(macs(net, 16) / 1e6, abs=0.01)


def test_each_up_sees_all_earlier_maps_of_its_level_oldest_first(monkeypatch):
    "Maps are replaced by names, so that the wiring itself is read off"
    net, log = RBQE(1, 3), []
    for u, unet in enumerate(net.unets):
        monkeypatch.setattr(
            unet,
            "_modules",
            {
                "down": lambda y, u=u: (log.append((f"down{u}", y)), f"{u}:{u + 1}")[1],
                "ups": [
                    lambda y, level, u=u, l=u - j: (log.append((f"up{u}{l}", y, *level)), f"{u}:{l}")[1]
                    for j in range(u + 1)
                ],
            },
        )
    known = [["x"]]
    for unet in net.unets:
        known = Stage.forward(unet, known)
    assert log == [
        ("down0", "x"),
        ("up00", "0:1", "x"),
        ("down1", "0:1"),
        ("up11", "1:2", "0:1"),
        ("up10", "1:1", "x", "0:0"),
        ("down2", "1:2"),
        ("up22", "2:3", "1:2"),
        ("up21", "2:2", "0:1", "1:1"),
        ("up20", "2:1", "x", "0:0", "1:0"),
    ]
    assert known == [["x", "0:0", "1:0", "2:0"], ["0:1", "1:1", "2:1"], ["1:2", "2:2"], ["2:3"]]


def test_a_stage_leaves_the_list_it_was_given_alone():
    known = [[torch.rand(1, 4, 5, 5)]]
    assert len(Stage(4, 0)(known)) == 2 and len(known) == 1 and len(known[0]) == 1


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("h, w", [(1, 1), (1, 40), (2, 2), (3, 5), (9, 17), (66, 54), (127, 65)])
def test_takes_every_size_and_gives_finite_gradients(h, w, attention):
    torch.manual_seed(0)
    net, x = RBQE(4, 5, attention), torch.rand(1, 3, h, w, requires_grad=True)
    y = net(x)
    y.square().mean().backward()
    assert y.shape == x.shape and y.isfinite().all() and x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("n", range(1, 14))
def test_arithmetic_of_sides(n):
    down, up = Down(2), nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1)
    with torch.no_grad():
        y = down(torch.rand(1, 2, n, n))
    assert y.shape[2] == -(-n // 2) and up(y).shape[2] == n - (n % 2 == 0)


def test_the_last_column_of_an_even_side_is_zero_before_the_maps_are_joined(monkeypatch):
    up, seen, cat = Up(2, 1), [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda maps, dim: (seen.append(maps[0]), cat(maps, dim))[1])
    for n in (6, 7):
        up(torch.rand(1, 2, 3 + n % 2, 3 + n % 2), [torch.rand(1, 2, n, n)])
    assert (
        not seen[0][..., 5, :].any()
        and not seen[0][..., 5].any()
        and seen[0][..., :5, :5].all()
        and seen[1].all()
    )


def test_attention_by_hand_and_per_picture():
    eca = ECA().double()
    x = torch.rand(2, 5, 3, 4, dtype=torch.float64)
    k, m = eca.conv.weight.flatten(), F.pad(x.mean((2, 3)), (1, 1))
    want = torch.stack(
        [
            x[:, c] * torch.sigmoid(k[0] * m[:, c] + k[1] * m[:, c + 1] + k[2] * m[:, c + 2])[:, None, None]
            for c in range(5)
        ],
        1,
    )
    assert torch.allclose(eca(x), want, rtol=1e-12) and torch.allclose(eca(x[1:]), want[1:], rtol=1e-12)
    assert [type(m).__name__ for m in Down(4, True)] == ["ECA", "Conv2d", "Conv2d", "ECA", "Conv2d"]
    assert [type(m).__name__ for m in Up(4, 1, True).mix] == ["ECA", "Conv2d", "ReLU", "ECA", "Conv2d"]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_reach_is_exact(levels):
    net = fill(RBQE(4, levels).double())
    assert measured_reach(net, 16 * 2**levels, phases=net.grid) == net.reach == 7 * 2**levels - 4


def test_reach_of_the_full_depth():
    """Five levels on a strip, without the ReLUs, which would hide single pixels: 220 pixels for the column
    that looks furthest"""
    net = fill(RBQE(4, 5).double())
    for part in net.modules():
        for name, layer in part.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(part, name, nn.Identity())
    x = test_image(3, (4, 512)).requires_grad_()
    y = net(x)
    reach = []
    for at in range(256, 256 + net.grid):
        (g,) = torch.autograd.grad(y[..., at].sum(), x, retain_graph=True)
        reach.append((((g != 0).any(1).any(1)[0]).nonzero() - at).abs().max().item())
    assert max(reach) == net.reach == 220 and min(reach) < 220


@pytest.mark.parametrize("width", range(120, 129))
def test_tiles_on_the_grid_are_the_whole_picture_at_any_size(width):
    net = fill(RBQE(4, 2).double())
    x = test_image(3, (7, width))
    halo = -(-net.reach // net.grid) * net.grid
    with torch.no_grad():
        whole = net(x)
        first, last = net(x[..., : 60 + halo])[..., :60], net(x[..., 60 - halo :])[..., halo:]
    assert torch.allclose(torch.cat([first, last], 3), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"width": 0}, "positive integer"),
        ({"levels": 2.0}, "positive integer"),
        ({"levels": True}, "positive integer"),
        ({"attention": 1}, "True or False"),
        ({"attention": None}, "True or False"),
    ],
)
def test_refuses_arguments(kwargs, message):
    with pytest.raises(QebiasError, match=f"^RBQE: {next(iter(kwargs))} is .*{message}$"):
        RBQE(**kwargs)


def test_weights_of_another_width_depth_or_variant_are_refused_by_name():
    own = RBQE(4, 2)
    with pytest.raises(
        QebiasError,
        match=r"RBQE: first.0.weight has shape \(8, 3, 3, 3\) in the weights, expected \(4, 3, 3, 3\)",
    ):
        load_weights(own, RBQE(8, 2).state_dict())
    with pytest.raises(QebiasError, match=r"RBQE: the weights hold unets.2.down.0.weight"):
        load_weights(own, RBQE(4, 3).state_dict())
    with pytest.raises(QebiasError, match=r"RBQE: (the weights lack|unets.0.down.0)"):
        load_weights(own, RBQE(4, 2, attention=True).state_dict())
    other = RBQE(4, 2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_weights(own, other.state_dict()).parameters(), other.parameters())
    )
