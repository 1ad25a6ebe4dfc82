"""What every generator must keep: names, sizes, padding, weights that fit, and fingerprints that see small
changes"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qebias.core import QebiasError
from qebias.generators import core
from qebias.generators.arcnn import ARCNN
from qebias.generators.cbdnet import CBDNet
from qebias.generators.core import (
    check_input,
    count,
    crop_to,
    evaluating,
    fill,
    fingerprint,
    hashed,
    load_weights,
    macs,
    measured_reach,
    pad_to_multiple,
    stages,
)
from qebias.generators.dcad import DCAD
from qebias.generators.dncnn import DnCNN
from qebias.generators.mprnet import MPRNet
from qebias.generators.rbqe import RBQE
from qebias.generators.rdn import RDN
from qebias.generators.rrdb import RDB, RRDB, RRDBNet

SIZES = [(1, 1), (3, 5), (9, 17), (66, 54), (127, 65)]
SMALL = {
    "arcnn": ARCNN,
    "dcad": lambda: DCAD(8, 4),
    "dncnn": lambda: DnCNN(8, 4),
    "cbdnet": lambda: CBDNet(8, 8),
    "rdn": lambda: RDN(8, 2, 2, 8),
    "rbqe": lambda: RBQE(16, 2),
    "mprnet": MPRNet,
    "rrdb": lambda: RRDBNet(8, 2, 4),
    "dncnn, norm": lambda: DnCNN(8, 4, norm=True),
    "rbqe, attention": lambda: RBQE(16, 2, attention=True),
}
PAPERS = {
    "arcnn": (ARCNN, 117_731, 1.93),
    "dcad": (DCAD, 298_947, 4.89),
    "dncnn": (DnCNN, 557_443, 9.12),
    "cbdnet": (CBDNet, 3_944_710, 8.42),
    "rdn": (RDN, 414_147, 6.77),
    "rbqe": (RBQE, 888_451, 5.30),
    "mprnet": (MPRNet, 887_217, 6.58),
    "rrdb": (RRDBNet, 16_723_907, 18.38),
}


def test_hash_follows_32_bit_arithmetic():
    def one(k):
        x = k * 2654435761 % 2**32
        x ^= x >> 16
        x = x * 2246822519 % 2**32
        return (x ^ x >> 13) / 2**32

    ks = [1, 2, 3, 1000, 65537, 16_000_000]
    u = hashed(max(ks))
    assert [u[k - 1] for k in ks] == [one(k) for k in ks]


@pytest.mark.parametrize(
    "layer, fan",
    [
        (nn.Conv2d(4, 6, 3), 36),
        (nn.Conv1d(4, 6, 5), 20),
        (nn.Linear(7, 6), 7),
        (nn.ConvTranspose2d(6, 4, 3), 36),
    ],
)
def test_fill_scales_by_numel_over_first_axis(layer, fan):
    bound = (6 / fan) ** 0.5
    weights = fill(layer).weight
    assert weights.abs().max() <= bound and torch.allclose(
        weights.flatten()[0], torch.tensor((2 * hashed(1)[0] - 1) * bound, dtype=torch.float32)
    )


@pytest.mark.parametrize("change", ["slope", "residual", "skip", "nearest", "order"])
def test_fingerprint_sees_small_changes_of_rrdb(change, monkeypatch):
    def found():
        return fingerprint(fill(RRDBNet(8, 2, 4).double())(core.test_image(3, 16)))

    want = found()
    assert found() == want
    leaky, interpolate, unshuffle = F.leaky_relu, F.interpolate, F.pixel_unshuffle
    if change == "slope":
        monkeypatch.setattr(F, "leaky_relu", lambda x, slope, inplace=False: leaky(x, 0.201))
    if change == "residual":
        monkeypatch.setattr(RDB, "forward", lambda self, x, f=RDB.forward: x + (f(self, x) - x) * 1.001)
    if change == "skip":
        monkeypatch.setattr(RRDB, "forward", lambda self, x: 0.2 * self.rdb3(self.rdb2(self.rdb1(x))))
    if change == "nearest":
        monkeypatch.setattr(
            F,
            "interpolate",
            lambda x, scale_factor, mode: interpolate(x, scale_factor=scale_factor, mode="bilinear"),
        )
    if change == "order":
        monkeypatch.setattr(F, "pixel_unshuffle", lambda x, r: unshuffle(x, r).flip(1))
    assert not np.allclose(found(), want, rtol=1e-8, atol=0)


def test_fingerprint_sees_a_missing_activation_of_arcnn(monkeypatch):
    def found():
        return fingerprint(fill(ARCNN().double())(core.test_image(3, 16)))

    want, relu, calls = found(), F.relu, []

    def last_missing(x):
        calls.append(1)
        return x if len(calls) == 3 else relu(x)

    monkeypatch.setattr(F, "relu", last_missing)
    assert not np.allclose(found(), want, rtol=1e-8, atol=0) and len(calls) == 3


def test_names_of_rrdb_are_basicsr_s():
    convs = [
        "conv_first",
        *(f"body.{b}.rdb{r}.conv{c}" for b in range(2) for r in (1, 2, 3) for c in range(1, 6)),
        "conv_body",
        "conv_up1",
        "conv_up2",
        "conv_hr",
        "conv_last",
    ]
    assert list(RRDBNet(8, 2, 4).state_dict()) == [f"{c}.{p}" for c in convs for p in ("weight", "bias")]


@pytest.mark.parametrize("width, blocks, growth", [(8, 1, 4), (12, 2, 6), (32, 4, 16)])
def test_count_of_rrdb_by_hand(width, blocks, growth):
    def conv(i, o):
        return (9 * i + 1) * o

    rdb = sum(conv(width + k * growth, growth) for k in range(4)) + conv(width + 4 * growth, width)
    net = RRDBNet(width, blocks, growth)
    assert count(net) == conv(48, width) + 3 * blocks * rdb + 4 * conv(width, width) + conv(width, 3)
    assert sum(r["parameters"] for r in stages(net, 16)) == count(net)
    assert sum(r["mmac"] for r in stages(net, 16)) == pytest.approx(macs(net, 16) / 1e6, abs=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_weight_and_shape_is_kept(name):
    torch.manual_seed(0)
    net, x = SMALL[name](), torch.rand(2, 3, 16, 24, requires_grad=True)
    y = net(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    (y * torch.rand_like(y)).sum().backward()
    assert (
        all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
        and x.grad.abs().sum() > 0
    )


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_same_seed_same_network_and_pictures_do_not_mix(name):
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(SMALL[name]().eval())
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    assert torch.equal(nets[0](x), nets[1](x)) and torch.equal(x, kept)
    assert torch.allclose(nets[0](x)[1:], nets[0](x[1:]), atol=1e-6)
    if not list(nets[0].buffers()):
        assert torch.equal(nets[0].train()(x), nets[1](x)), "a mode without statistics changes nothing"
    y = nets[0].eval()(x + 5)
    assert y.min() < 0 or y.max() > 1, "the output is not clamped"
    assert nets[0].multiple in (1, 4, 8) and isinstance(nets[0].residual_input, bool)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 6, 8, 8), (1, 3, 0, 8), (8, 8)])
@pytest.mark.parametrize("name", SMALL)
def test_refuses_other_batches_in_one_line(name, shape):
    net = SMALL[name]()
    with pytest.raises(QebiasError, match=f"^{type(net).__name__} takes") as error:
        net(torch.rand(*shape))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_networks_have_their_size(name):
    made, parameters, gmacs = PAPERS[name]
    net = made()
    assert count(net) == parameters and round(macs(net, 128) / 1e9, 2) == gmacs
    assert net.residual_input == (name not in ("rdn", "rrdb"))


@pytest.mark.parametrize("name", SMALL)
def test_every_network_works_in_bf16_channels_last_and_on_no_device(name):
    torch.manual_seed(0)
    net, x = SMALL[name]().eval(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        want = net(x)
        last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x)
    assert torch.allclose(last, want, atol=1e-5) and (half.float() - want).abs().max() < 0.1
    with torch.device("meta"):
        assert SMALL[name]()(torch.empty(2, 3, 16, 24)).shape == (2, 3, 16, 24)


def test_residual_networks_start_near_the_input_and_rrdb_does_not():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        near, far = ((net(x) - x).abs().mean().item() for net in (ARCNN(), RRDBNet(32, 4, 32)))
    assert near < 0.1 < 0.3 < far


@pytest.mark.parametrize("h, w", [s for s in SIZES if s[0] % 4 or s[1] % 4])
def test_rrdb_refuses_other_sizes_in_one_line(h, w):
    with pytest.raises(QebiasError) as error:
        RRDBNet(8, 1, 4)(torch.rand(1, 3, h, w))
    assert (
        f"{h} x {w}" in str(error.value)
        and "multiples of 4" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("h, w", SIZES)
def test_arcnn_takes_every_size(h, w):
    assert ARCNN()(torch.rand(1, 3, h, w)).shape == (1, 3, h, w)


@pytest.mark.parametrize(
    "kwargs", [{"width": 0}, {"blocks": -1}, {"growth": 1.5}, {"width": "64"}, {"blocks": True}]
)
def test_rrdb_refuses_sizes_that_are_none(kwargs):
    with pytest.raises(QebiasError, match=f"RRDBNet: {next(iter(kwargs))} is "):
        RRDBNet(**kwargs)


@pytest.mark.parametrize(
    "net", [RRDBNet(4, 1, 2), RRDBNet(4, 2, 2), ARCNN()], ids=["rrdb1", "rrdb2", "arcnn"]
)
def test_stated_reach_is_the_measured_one(net):
    size = -(-(2 * net.reach + 8) // 4) * 4
    assert measured_reach(fill(net.double()), size, net.multiple) == net.reach


@pytest.mark.parametrize("h, w", SIZES)
@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
def test_padding_mirrors_where_it_can(h, w, multiple):
    x = torch.rand(2, 3, h, w)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[2] == -(-h // multiple) * multiple and padded.shape[3] == -(-w // multiple) * multiple
    assert torch.equal(crop_to(padded, x), x)
    want = x.numpy()
    for axis in (2, 3):
        size, more = x.shape[axis], -x.shape[axis] % multiple
        want = np.pad(
            want, [(0, more if a == axis else 0) for a in range(4)], "reflect" if more < size else "edge"
        )
    assert np.array_equal(padded.numpy(), want)


def test_measuring_leaves_no_trace():
    net = nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
    ).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    macs(net, 8), stages(net, 8), measured_reach(net, 16)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(m.training for m in net.modules()) and not any(m._forward_hooks for m in net.modules())


def test_modes_come_back_after_an_error():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1)).train()
    net[0].eval()
    with pytest.raises(ZeroDivisionError):
        with evaluating(net):
            1 / 0
    assert [m.training for m in net.modules()] == [True, False, True]


def test_weights_of_another_network_change_nothing():
    net = RRDBNet(8, 2, 4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for other, what in [
        (
            RRDBNet(16, 2, 4),
            "conv_first.weight has shape (16, 48, 3, 3) in the weights, expected (8, 48, 3, 3)",
        ),
        (RRDBNet(8, 3, 4), "the weights hold body.2.rdb1.conv1.weight"),
        (RRDBNet(8, 1, 4), "the weights lack body.1.rdb1.conv1.weight"),
        (ARCNN(), "the weights lack conv_first.weight"),
    ]:
        with pytest.raises(QebiasError) as error:
            load_weights(net, other.state_dict())
        assert what in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("keys, taken", [(("params", "params_ema"), "params_ema"), (("params",), "params")])
def test_basicsr_checkpoints_load(tmp_path, keys, taken):
    nets = {k: RRDBNet(8, 1, 4) for k in keys}
    torch.save({k: n.state_dict() for k, n in nets.items()}, tmp_path / "net_g.pth")
    net = load_weights(RRDBNet(8, 1, 4), torch.load(tmp_path / "net_g.pth", weights_only=True))
    assert all(torch.equal(v, nets[taken].state_dict()[k]) for k, v in net.state_dict().items())


def test_check_input_names_what_it_got():
    for shape, what in [((3, 8, 8), "(3, 8, 8)"), ((1, 6, 8, 8), "(1, 6, 8, 8)"), ((1, 3, 0, 8), "0 x 8")]:
        with pytest.raises(QebiasError) as error:
            check_input(torch.zeros(shape), "Net", 3, 4)
        assert what in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("net, size", [(ARCNN, 64), (lambda: RRDBNet(32, 16, 32), 64)], ids=["arcnn", "rrdb"])
def test_fingerprint_is_the_same_on_cuda(net, size):
    with torch.no_grad():
        want = fingerprint(fill(net().double())(core.test_image(3, size)))
        found = fingerprint(fill(net().double()).cuda()(core.test_image(3, size).cuda()))
    np.testing.assert_allclose(found, want, rtol=1e-8)


def test_several_threads_evaluate_one_network():
    "The first to end must not put the network back to training under the others"
    import threading

    net, inside, go = ARCNN().train(), threading.Event(), threading.Event()
    seen = []

    def other():
        with core.evaluating(net):
            inside.set()
            go.wait(10)
            seen.append(net.training)

    thread = threading.Thread(target=other)
    with core.evaluating(net):
        thread.start()
        inside.wait(10)
    go.set()
    thread.join()
    assert seen == [False] and net.training and all(m.training for m in net.modules())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"params_ema": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": s, "epoch": 3},
    ],
)
def test_checkpoints_of_parallel_trainings_are_read(wrap):
    one, other = ARCNN(), ARCNN()
    load_weights(other, wrap(one.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("make", [ARCNN, lambda: DnCNN(4, 3, unshuffle=2), lambda: RRDBNet(4, 1, 4)])
def test_an_empty_batch_is_one_line(make):
    "Pixels that become channels once made torch complain of groups and weights"
    with pytest.raises(QebiasError, match="this batch is empty"):
        make()(torch.zeros(0, 3, 16, 16))
