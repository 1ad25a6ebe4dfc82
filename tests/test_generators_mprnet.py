"MPRNet: what the fingerprint sees, where the pieces end, one slope for all, and inputs that are refused"

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators import mprnet
from qebias.generators.core import count, fill, fingerprint, load_weights, macs, stages, test_image
from qebias.generators.mprnet import (
    CAB,
    SAM,
    ChannelAttention,
    Decoder,
    Encoder,
    FullResolution,
    MPRNet,
    join,
    split,
)

SMALL = (8, 4, 4, 1, 4)


def found(net=None):
    return fingerprint(fill((net or MPRNet(*SMALL)).double())(test_image(3, 16)))


def swap(cls, method, monkeypatch):
    monkeypatch.setattr(cls, "forward", method)


def attention_by_maximum(self, x):
    return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.amax((2, 3), keepdim=True)))))


def attention_without_relu(self, x):
    return x * torch.sigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True))))


def cab_without_skip(self, x):
    return self.attention(self.conv2(self.act(self.conv1(x))))


def cab_attends_last(self, x):
    return self.attention(x + self.conv2(self.act(self.conv1(x))))


def sam_without_image(self, x, image):
    return x + self.features(x) * torch.sigmoid(self.mask(self.residual(x)))


def sam_without_skip(self, x, image):
    return self.features(x) * torch.sigmoid(self.mask(image + self.residual(x)))


def decoder_without_skip_block(self, encoded):
    features = [self.levels[-1](encoded[-1])]
    for i in reversed(range(2)):
        features.insert(0, self.levels[i](self.up[i](features[0]) + encoded[i]))
    return features


def encoder_fuses_before_its_blocks(self, x, encoded=None, decoded=None):
    features = []
    for i, level in enumerate(self.levels):
        x = self.down[i - 1](x) if i else x
        if self.fuse is not None:
            x = x + self.fuse[i][0](encoded[i]) + self.fuse[i][1](decoded[i])
        features.append(x := level(x))
    return features


def levels_after_the_last_block(self, x, encoded, decoded):
    for orb in self.orbs:
        x = orb(x)
    for i in range(3):
        x = x + self.of_encoder[i](encoded[i]) + self.of_decoder[i](decoded[i])
    return x


CHANGES = [
    (ChannelAttention, attention_by_maximum),
    (ChannelAttention, attention_without_relu),
    (CAB, cab_without_skip),
    (CAB, cab_attends_last),
    (SAM, sam_without_image),
    (SAM, sam_without_skip),
    (Decoder, decoder_without_skip_block),
    (Encoder, encoder_fuses_before_its_blocks),
    (FullResolution, levels_after_the_last_block),
]


@pytest.mark.parametrize("cls, method", CHANGES, ids=[m.__name__ for _, m in CHANGES])
def test_fingerprint_sees_another_block(cls, method, monkeypatch):
    want = found()
    assert found() == want
    swap(cls, method, monkeypatch)
    assert not np.allclose(found(), want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("change", ["nearest", "corners", "order", "uncut", "slope"])
def test_fingerprint_sees_other_arithmetic(change, monkeypatch):
    want, interpolate, cut, put = found(), F.interpolate, split, join
    if change == "nearest":
        monkeypatch.setattr(
            F,
            "interpolate",
            lambda x, scale_factor, mode: interpolate(x, scale_factor=scale_factor, mode="nearest"),
        )
    if change == "corners":
        monkeypatch.setattr(
            F,
            "interpolate",
            lambda x, scale_factor, mode: interpolate(
                x, scale_factor=scale_factor, mode=mode, align_corners=True
            ),
        )
    if change == "order":  # halves are left and right instead of top and bottom
        monkeypatch.setattr(mprnet, "split", lambda x, axis: cut(x, 5 - axis))
        monkeypatch.setattr(mprnet, "join", lambda x, axis: put(x, 5 - axis))
    if change == "uncut":
        monkeypatch.setattr(mprnet, "split", lambda x, axis: x)
        monkeypatch.setattr(mprnet, "join", lambda x, axis: x)
    net = MPRNet(*SMALL)
    if change == "slope":
        nn.init.constant_(net.act.weight, 0.2501)
    assert not np.allclose(found(net), want, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "width, step, orb_step, cabs, reduction",
    [(16, 16, 16, 4, 4), (8, 4, 6, 1, 4), (10, 3, 5, 2, 3), (80, 48, 32, 8, 4), (40, 20, 16, 8, 4)],
)
def test_count_by_hand(width, step, orb_step, cabs, reduction):
    def cab(c):
        return 18 * c * c + 2 * c * (c // reduction)

    c, wide = [width, width + step, width + 2 * step], width + orb_step
    between = c[0] * c[1] + c[1] * c[2]
    encoder = 2 * sum(map(cab, c)) + between
    decoder = encoder + cab(c[0]) + cab(c[1])
    fusion = 2 * sum(n * n for n in c)
    shallow, sam = 27 * width + cab(width), width * width + 6 * width
    third = 3 * (cabs * cab(wide) + 9 * wide * wide) + 2 * (3 * width * wide + 2 * c[0] * c[1] + c[1] * c[2])
    total = (
        3 * shallow
        + 2 * encoder
        + fusion
        + 2 * decoder
        + 2 * sam
        + 18 * width * (width + wide)
        + third
        + 27 * wide
        + 1
    )
    with torch.device("meta"):
        net = MPRNet(width, step, orb_step, cabs, reduction)
    assert count(net) == total


def test_stages_add_up():
    net = MPRNet(*SMALL)
    assert sum(r["parameters"] for r in stages(net, 32)) == count(net)
    assert sum(r["mmac"] for r in stages(net, 32)) == pytest.approx(macs(net, 32) / 1e6, abs=0.02)


def test_pieces_by_hand_on_other_shapes():
    x = torch.rand(3, 5, 8, 12)
    quarters = split(split(x, 2), 3)
    want = [x[:, :, r, c] for c in (slice(0, 6), slice(6, 12)) for r in (slice(0, 4), slice(4, 8))]
    assert torch.equal(quarters, torch.cat(want))
    assert torch.equal(join(join(quarters, 3), 2), x)


def test_stage_one_is_blind_across_the_cut():
    """Nothing of another quarter reaches the first encoder, also through the attentions: their means are
    those of the quarter"""
    torch.manual_seed(0)
    net, seen = MPRNet(*SMALL).double(), []
    net.encoder1.register_forward_hook(lambda m, i, o: seen.append([f.clone() for f in o]))
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    y = x.clone()
    y[..., 8:, 8:] = 0
    with torch.no_grad():
        net(x), net(y)
    same = [[torch.equal(a[i], b[i]) for i in range(4)] for a, b in zip(*seen)]
    assert same == [[True, True, True, False]] * 3


def test_one_slope_for_all_blocks():
    net = MPRNet(*SMALL)
    cabs = [m for m in net.modules() if isinstance(m, CAB)]
    assert (
        len(cabs) == 3 + 2 * (6 + 8) + 3
        and all(m.act is net.act for m in cabs)
        and net.act.weight.numel() == 1
    )
    slopes = {k: v for k, v in net.state_dict().items() if k.endswith("act.weight")}
    assert len(slopes) == len(cabs) + 1 and len({v.data_ptr() for v in slopes.values()}) == 1
    copied = copy.deepcopy(net)
    assert (
        all(m.act is copied.act for m in copied.modules() if isinstance(m, CAB)) and copied.act is not net.act
    )
    nn.init.constant_(net.act.weight, 0.1)
    other = load_weights(MPRNet(*SMALL), net.state_dict())
    assert other.act.weight.item() == pytest.approx(0.1) and count(other) == count(net)


def test_it_learns():
    torch.manual_seed(0)
    net, raw = MPRNet(*SMALL), torch.rand(2, 3, 16, 16)
    x = (raw + 0.1 * torch.randn_like(raw)).clamp(0, 1)
    optimiser, losses = torch.optim.Adam(net.parameters(), 2e-3), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.l1_loss(net(x), raw)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * F.l1_loss(x, raw).item() and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("h, w", [(8, 8), (8, 40), (24, 16), (72, 56)])
def test_multiples_of_eight_are_taken(h, w):
    with torch.no_grad():
        assert MPRNet(*SMALL)(torch.rand(1, 3, h, w)).shape == (1, 3, h, w)


@pytest.mark.parametrize("h, w", [(1, 1), (3, 5), (9, 17), (66, 54), (127, 65), (12, 8), (8, 4), (0, 8)])
def test_other_sizes_are_refused_in_one_line(h, w):
    with pytest.raises(QebiasError) as error:
        MPRNet(*SMALL)(torch.rand(1, 3, h, w))
    assert (
        f"{h} x {w}" in str(error.value)
        and "multiples of 8" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize(
    "kwargs",
    [{"width": 0}, {"step": -1}, {"orb_step": 1.5}, {"cabs": "4"}, {"reduction": True}, {"reduction": 17}],
)
def test_refused_arguments(kwargs):
    with pytest.raises(QebiasError, match=f"MPRNet: {next(iter(kwargs))} is "):
        MPRNet(**kwargs)


@pytest.mark.parametrize(
    "other", [(12, 4, 4, 1, 4), (8, 8, 4, 1, 4), (8, 4, 8, 1, 4), (8, 4, 4, 2, 4), (8, 4, 4, 1, 2)]
)
def test_weights_of_another_width_are_refused(other):
    net = MPRNet(*SMALL)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(QebiasError, match="MPRNet: "):
        load_weights(net, MPRNet(*other).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
