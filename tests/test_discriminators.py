"Discriminators and the condition: shapes, names, state, and refusals"

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from qebias.core import QebiasError
from qebias.discriminators import ConditionalDiscriminator, UNetSN, VGGStyle, load_weights
from qebias.generators.core import count, fill, fingerprint, stages
from qebias.generators.core import test_image as image_of


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [3, 6])
def test_vgg_goes_down_to_4_by_4(size, channels):
    w, n = 2, {32: 3, 64: 4, 128: 5, 256: 6}[size]
    net = VGGStyle(channels, w, size).eval()
    assert net(torch.rand(2, channels, size, size)).shape == (2, 1)
    rows = {r["stage"]: r["output"] for r in stages(net, size, channels)}
    widths = [2, 4, 8, 16, 16, 16][:n]
    assert [rows[f"conv{i}_1"] for i in range(n)] == [
        (c, size >> i + 1, size >> i + 1) for i, c in enumerate(widths)
    ]
    assert rows[f"conv{n - 1}_1"][1:] == (4, 4) and f"conv{n}_0" not in rows


def test_names_of_vgg_are_basicsr_s():
    names = ["conv0_0.weight", "conv0_0.bias"]
    bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    for i in range(5):
        if i:
            names += [f"conv{i}_0.weight", *(f"bn{i}_0.{b}" for b in bn)]
        names += [f"conv{i}_1.weight", *(f"bn{i}_1.{b}" for b in bn)]
    names += [f"linear{k}.{p}" for k in (1, 2) for p in ("weight", "bias")]
    assert list(VGGStyle(3, 2).state_dict()) == names
    assert set(VGGStyle(3, 2, 256).state_dict()) - set(names) == {
        "conv5_0.weight",
        "conv5_1.weight",
        *(f"bn5_{k}.{b}" for k in (0, 1) for b in bn),
    }


def test_names_of_unet_are_basicsr_s():
    names = {f"conv{i}.{p}" for i in (0, 9) for p in ("weight", "bias")} | {
        f"conv{i}.weight_{p}" for i in range(1, 9) for p in ("orig", "u", "v")
    }
    assert set(UNetSN(3, 2).state_dict()) == names


@pytest.mark.parametrize("make", [lambda c: VGGStyle(c, 4, 32), lambda c: UNetSN(c, 4)], ids=["vgg", "unet"])
@pytest.mark.parametrize(
    "shape", [(1, 3, 66, 54), (1, 3, 9, 17), (2, 3, 31, 32), (2, 1, 32, 32), (3, 32, 32)]
)
def test_other_shapes_are_refused_in_one_line(make, shape):
    with pytest.raises(QebiasError) as error:
        make(3)(torch.rand(shape))
    assert "\n" not in str(error.value) and (
        f"{shape[-2]} x {shape[-1]}" in str(error.value) or str(shape) in str(error.value)
    )


@pytest.mark.parametrize("size", [0, 16, 96, 127, 512, 128.0, "128"])
def test_vgg_of_another_size_is_refused(size):
    with pytest.raises(QebiasError, match="32, 64, 128 or 256"):
        VGGStyle(size=size)


@pytest.mark.parametrize("h, w", [(8, 8), (16, 40), (64, 24)])
def test_unet_gives_a_logit_a_pixel(h, w):
    assert UNetSN(6, 2)(torch.rand(2, 6, h, w)).shape == (2, 1, h, w)


@pytest.mark.parametrize("make", [lambda: VGGStyle(3, 4, 32), lambda: UNetSN(3, 4)], ids=["vgg", "unet"])
def test_a_resumed_discriminator_goes_on_bit_for_bit(make):
    def steps(net, start, n):
        optimiser = torch.optim.SGD(net.parameters(), 0.01)
        for k in range(start, start + n):
            x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(k))
            optimiser.zero_grad()
            net.train()(x).pow(2).mean().backward()
            optimiser.step()
        return {k: v.clone() for k, v in net.state_dict().items()}

    torch.manual_seed(0)
    whole = make()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    want = steps(whole, 0, 6)
    middle = steps(load_weights(make(), start), 0, 3)
    found = steps(load_weights(make(), middle), 3, 3)
    assert all(torch.equal(found[k], want[k]) for k in want)


def test_train_mode_of_vgg_uses_the_batch_and_eval_the_running_statistics():
    torch.manual_seed(0)
    net, x = VGGStyle(3, 4, 32), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(
            net.train()(x)[:1], net.train()(x[:1]), atol=1e-6
        )  # depends on its neighbours
        assert torch.allclose(net.eval()(x)[:1], net.eval()(x[:1]), atol=1e-6)


@pytest.mark.parametrize("change", ["bn of the first layer", "slope", "bilinear corners"])
def test_fingerprint_sees_small_changes(change, monkeypatch):
    from torch.nn import functional as F

    net = (
        fill(UNetSN(3, 4).double()) if change == "bilinear corners" else fill(VGGStyle(3, 4, 32).double())
    ).train()
    x = torch.cat([image_of(3, 32), 0.5 * image_of(3, 32).flip(3)])
    state = {k: v.clone() for k, v in net.state_dict().items()}
    want = fingerprint(net(x))
    net.load_state_dict(state)
    assert fingerprint(net(x)) == want
    net.load_state_dict(state)
    leaky, interpolate = F.leaky_relu, F.interpolate
    if change == "slope":
        monkeypatch.setattr(F, "leaky_relu", lambda x, s, inplace=False: leaky(x, 0.201))
    if change == "bilinear corners":
        monkeypatch.setattr(F, "interpolate", lambda x, **k: interpolate(x, **k | {"align_corners": True}))
    if change == "bn of the first layer":
        net.conv0_0 = nn.Sequential(net.conv0_0, nn.BatchNorm2d(4).double())
    assert not np.allclose(fingerprint(net(x)), want, rtol=1e-8, atol=0)


def test_the_condition_sees_image_then_compressed():
    class Seen(nn.Module):
        in_channels = 6

        def forward(self, x):
            return x

    image, compressed = torch.rand(2, 2, 3, 8, 8)
    assert torch.equal(
        ConditionalDiscriminator(Seen(), True)(image, compressed), torch.cat([image, compressed], 1)
    )
    Seen.in_channels = 3
    assert torch.equal(ConditionalDiscriminator(Seen(), False)(image, compressed), image) and torch.equal(
        ConditionalDiscriminator(Seen(), False)(image), image
    )


def test_the_condition_passes_gradients_to_the_image_only_where_asked():
    discriminator = ConditionalDiscriminator(UNetSN(6, 4), True)
    image, compressed = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16)
    discriminator.requires_grad_(False)(image, compressed).sum().backward()
    assert image.grad.abs().sum() > 0 and all(p.grad is None for p in discriminator.parameters())


@pytest.mark.parametrize("conditional, channels", [(True, 3), (False, 6)])
@pytest.mark.parametrize("make", [lambda c: VGGStyle(c, 4, 32), lambda c: UNetSN(c, 4)], ids=["vgg", "unet"])
def test_the_condition_refuses_another_number_of_channels(make, conditional, channels):
    with pytest.raises(QebiasError, match=f"in_channels={9 - channels}, this .* has {channels}"):
        ConditionalDiscriminator(make(channels), conditional)


@pytest.mark.parametrize(
    "make, first",
    [(lambda c: VGGStyle(c, 4, 32), "conv0_0.weight"), (lambda c: UNetSN(c, 4), "conv0.weight")],
    ids=["vgg", "unet"],
)
def test_three_channel_weights_do_not_fit_into_six(make, first):
    wide = make(6)
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(QebiasError) as error:
        load_weights(wide, make(3).state_dict())
    assert f"{first} has shape (4, 3, 3, 3) in the weights, expected (4, 6, 3, 3)" in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())
    assert count(wide) - count(make(3)) == 27 * 4


@pytest.mark.parametrize("make", [lambda: UNetSN(6, 2), lambda: VGGStyle(6, 2, 32)], ids=["unet", "vgg"])
def test_a_discriminator_that_has_worked_can_be_copied_and_saved(make, tmp_path):
    "An average of the weights, a best model or another precision begin with a copy in the midst of training"
    torch.manual_seed(0)
    discriminator = ConditionalDiscriminator(make(), True)
    image, compressed = torch.rand(2, 2, 3, 32, 32)
    discriminator(image, compressed).sum().backward()
    copies = [copy.deepcopy(discriminator), pickle.loads(pickle.dumps(discriminator))]
    torch.save(discriminator, tmp_path / "d.pt")
    copies.append(torch.load(tmp_path / "d.pt", weights_only=False))
    with torch.no_grad():
        want = discriminator.eval()(image, compressed)
        assert all(torch.equal(c.eval()(image, compressed), want) for c in copies)
    double = copies[0].double().train()
    double(image.double(), compressed.double()).sum().backward()
    assert double.network.in_channels == 6 and all(p.grad is not None for p in double.parameters())


def test_a_spectral_norm_taken_off_leaves_a_layer_that_works():
    net = UNetSN(3, 2)
    net(torch.rand(1, 3, 16, 16)).sum().backward()
    for name in [f"conv{i}" for i in range(1, 9)]:
        torch.nn.utils.remove_spectral_norm(getattr(net, name))
    net(torch.rand(1, 3, 16, 16)).sum().backward()
    assert isinstance(net.conv1.weight, nn.Parameter) and net.conv1.weight.grad is not None


@pytest.mark.parametrize("conditional", [True, False])
def test_pictures_in_integers_or_in_0_to_255_are_refused(conditional):
    make = lambda: ConditionalDiscriminator(UNetSN(6 if conditional else 3, 2), conditional)  # noqa: E731
    image, compressed = torch.rand(2, 1, 3, 16, 16)
    levels = (255 * compressed).to(torch.uint8)
    with pytest.raises(QebiasError, match=r"not torch.uint8: pass x.float\(\) / 255"):
        make()(levels, levels)
    with pytest.raises(QebiasError, match="not a ndarray"):
        make()(np.zeros((1, 3, 16, 16)), compressed)
    if conditional:
        with pytest.raises(QebiasError, match=r"not torch.uint8"):
            make()(image, levels)
        with pytest.raises(
            QebiasError, match=r"pictures in \[0, 1\], these go up to 255: divide them by 255"
        ):
            make()(255 * image, torch.full_like(image, 255.0))


def test_the_range_is_looked_at_once():
    "A look waits for the device: no later batch pays for it"
    discriminator = ConditionalDiscriminator(UNetSN(6, 2), True)
    image, compressed = torch.rand(2, 1, 3, 16, 16)
    discriminator(image, compressed)
    assert discriminator.looked
    discriminator(image, 255 * compressed)


def test_a_condition_in_minus_one_to_one_is_told():
    discriminator = ConditionalDiscriminator(UNetSN(6, 2), True)
    image, compressed = torch.rand(2, 1, 3, 16, 16)
    with pytest.warns(UserWarning, match="a conditional discriminator takes pictures in .0, 1., these begin"):
        discriminator(image, 2 * compressed - 1)
