"psi: the published layouts load, stand-ins are what their names say, gradients go to the image only"

import copy
import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qebias import features
from qebias.core import QebiasError
from qebias.features import LAYERS, Psi, load_vgg, random_vgg
from qebias.layers import block_layer
from qebias.weights import FILES, MissingWeights

BLOCKS = tuple(block_layer(b) for b in range(1, 6))
# random-w8-s0: first weight and mean bias of conv1_1, conv3_4, conv5_4, as first published
PINNED_WEIGHTS, PINNED_BIASES = [-0.19548339, -0.069482014, 0.038847875], [1.0803764, 0.7735045, 0.84448856]


def images(n=2, height=32, width=32, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def jpeg(rgb, quality):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def tensor(rgbs):
    return torch.from_numpy(np.stack(rgbs)).permute(0, 3, 1, 2).float() / 255


# --- layers ---


def test_layers_are_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = torchvision.models.vgg19(weights=None).features
    assert [i for i, m in enumerate(net) if isinstance(m, nn.Conv2d)] == list(LAYERS.values())
    pools = [i for i, m in enumerate(net) if isinstance(m, nn.MaxPool2d)]
    assert [max(i for i in LAYERS.values() if i < p) for p in pools] == [
        LAYERS[block_layer(b)] for b in range(1, 6)
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_any_layer_alone_equals_the_layer_among_all(name):
    every, alone, x = Psi(tuple(LAYERS), "random-w4-s0"), Psi(name, "random-w4-s0"), images()
    with torch.no_grad():
        torch.testing.assert_close(alone(x)[name], every(x)[name])
    assert list(alone(x)) == [name]


def test_nothing_is_computed_or_kept_beyond_the_deepest_layer():
    from torch.utils.flop_counter import FlopCounterMode

    flops = {}
    for name in LAYERS:
        psi = Psi(name, "random-w8-s0")
        assert sum("weight" in n for n, _ in psi.named_buffers()) == list(LAYERS).index(name) + 1
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            psi(images())
        flops[name] = counter.get_total_flops()
    assert list(flops.values()) == sorted(set(flops.values()))


@pytest.mark.parametrize("height,width", [(16, 16), (17, 31), (33, 16), (64, 48)])
def test_sizes_follow_the_poolings(height, width):
    for i, f in enumerate(Psi(BLOCKS, "random-w4-s0")(images(1, height, width)).values()):
        assert f.shape[2:] == (height >> i, width >> i)


@pytest.mark.parametrize("layer,side", [("conv5_1", 16), ("conv4_4", 8), ("conv1_2", 1)])
def test_smallest_image(layer, side):
    psi = Psi(layer, "random-w4-s0")
    assert psi.multiple == side and psi(images(1, side, side))[layer].numel()
    if side > 1:
        with pytest.raises(QebiasError, match=f"needs at least {side} a side"):
            psi(images(1, side, side - 1))


@pytest.mark.parametrize("layers", ["conv5_5", ("conv1_2", "relu1_2"), (3,), ()])
def test_a_layer_that_is_none_is_one_line(layers):
    with pytest.raises(QebiasError) as error:
        Psi(layers, "random-w4-s0")
    assert "conv1_1, conv1_2" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "weights",
    [
        "vgg16",
        "random",
        "random-w-s0",
        "random-w16",
        "random-w0-s0",
        "random-w16-s-1",
        "random-w16-s0x",
        "vgg19-dcbb9e9d",
        "",
    ],
)
def test_weights_that_are_none_are_one_line(weights):
    with pytest.raises(QebiasError) as error:
        Psi("conv1_2", weights)
    assert (
        repr(weights) in str(error.value)
        and "vgg19-normalised" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("x", [torch.rand(3, 32, 32), torch.rand(1, 6, 32, 32), torch.rand(1, 32, 32, 3)])
def test_a_shape_that_is_none_is_one_line(x):
    with pytest.raises(QebiasError, match="pass RGB images"):
        Psi("conv1_2", "random-w4-s0")(x)


# --- frozen, and gradients ---


def test_features_are_before_relu_and_the_input_is_left_alone():
    x = images()
    before = x.clone()
    found = Psi(tuple(LAYERS), "random-w4-s0")(x)
    assert all((f < 0).any() for f in found.values()) and torch.equal(x, before)


def test_gradient_reaches_the_image_and_is_right():
    psi = Psi(("conv1_2", "conv2_1"), "random-w2-s3").double()
    x = images(1, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(psi(x).values()), (x,))
    psi(x)["conv2_1"].sum().backward()
    assert x.grad.abs().sum() > 0 and all(not b.requires_grad and b.grad is None for b in psi.buffers())


def test_no_graph_where_none_is_needed():
    psi = Psi(BLOCKS, "random-w4-s0")
    assert not any(f.requires_grad for f in psi(images()).values())
    with torch.no_grad():
        assert not any(f.requires_grad for f in psi(images().requires_grad_()).values())


def test_a_checkpoint_never_holds_psi():
    class Trainer(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.psi = nn.Conv2d(3, 3, 3), Psi("conv1_2", "random-w4-s0")

    trainer = Trainer()
    assert list(trainer.state_dict()) == ["generator.weight", "generator.bias"]
    assert len(list(trainer.parameters())) == 2
    trainer.load_state_dict(trainer.state_dict(), strict=True)


def test_copies_and_pickles_compute_the_same():
    psi, x = Psi("conv2_2", "random-w4-s0"), images()
    for other in (copy.deepcopy(psi), pickle.loads(pickle.dumps(psi))):
        assert torch.equal(other(x)["conv2_2"], psi(x)["conv2_2"])


def test_autocast_reaches_the_convolutions_and_not_the_normalisation():
    psi, x = Psi("conv3_4", "random-w4-s0"), images()
    exact = psi(x)["conv3_4"]
    with torch.autocast("cpu", torch.bfloat16):
        found = psi(x)["conv3_4"]
        assert found.dtype == torch.bfloat16 and torch.equal(found, psi(x)["conv3_4"])
    assert 0 < (found.float() - exact).abs().mean() < 0.02 * exact.abs().mean()
    assert torch.equal(psi(x)["conv3_4"], exact)  # nothing of it stays


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees():
    psi, x = Psi(BLOCKS, "random-w16-s0"), images(2, 64, 64)
    cpu = psi(x)
    for n, f in psi.cuda()(x.cuda()).items():
        torch.testing.assert_close(f.cpu(), cpu[n], rtol=1e-2, atol=1e-2)


# --- the stand-in ---


def test_stand_in_is_a_pure_function_of_its_name():
    "Another process makes the same bits, whatever was drawn before and whatever the global seeds are"
    code = (
        "import torch, numpy, hashlib; from qebias.features import random_vgg; "
        "torch.manual_seed(5); numpy.random.seed(5); torch.rand(3);"
        "print(hashlib.sha256(b''.join(t.numpy().tobytes() "
        "for p in random_vgg(4, 2) for t in p)).hexdigest())"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    ours = hashlib.sha256(
        b"".join(t.numpy().tobytes() for p in random_vgg.__wrapped__(4, 2) for t in p)
    ).hexdigest()
    assert theirs == ours
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


def test_stand_in_keeps_its_numbers():
    "Results carry the name random-w8-s0: the weights behind it must not drift from version to version"
    weights = random_vgg(8, 0)
    assert [w.flatten()[0].item() for w, _ in (weights[0], weights[7], weights[15])] == pytest.approx(
        PINNED_WEIGHTS, rel=1e-4
    )
    assert [b.mean().item() for _, b in (weights[0], weights[7], weights[15])] == pytest.approx(
        PINNED_BIASES, rel=1e-3
    )


def test_seeds_and_widths_are_different_networks():
    a, b, c = (random_vgg(w, s, 2) for w, s in ((4, 0), (4, 1), (8, 0)))
    assert not torch.equal(a[0][0], b[0][0]) and c[1][0].shape == (8, 8, 3, 3)


@pytest.mark.parametrize("lift", [0.0, 1.0])
def test_calibration_holds_on_the_calibration_images(lift):
    rng = np.random.RandomState(3)
    x = torch.from_numpy(features.noise_images(8, 96, rng)).float()
    x = (x - torch.tensor(features._MEAN).view(1, 3, 1, 1)) / torch.tensor(features._STD).view(1, 3, 1, 1)
    for name, (w, b) in zip(LAYERS, random_vgg(4, 3, 16, lift)):
        if name.endswith("_1") and name != "conv1_1":
            x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.conv2d(x, w, b, padding=1)
        mean = x.mean((0, 2, 3))
        torch.testing.assert_close(mean, torch.full_like(mean, lift), rtol=0, atol=1e-3)
        torch.testing.assert_close(
            (x - mean.view(1, -1, 1, 1)).abs().mean((0, 2, 3)), torch.ones_like(mean), rtol=0, atol=1e-3
        )
        x = x.relu()


def test_a_wider_stand_in_is_still_quick():
    start = time.process_time()
    random_vgg.__wrapped__(16, 11)
    assert time.process_time() - start < 10


# --- files ---


def vgg_state(seed=0):
    g = torch.Generator().manual_seed(seed)
    state, c_in = {}, 3
    for name, i in LAYERS.items():
        c = 64 * min(2 ** (int(name[4]) - 1), 8)
        state[f"features.{i}.weight"] = torch.randn(c, c_in, 3, 3, generator=g) * (2 / (9 * c_in)) ** 0.5
        state[f"features.{i}.bias"] = torch.randn(c, generator=g)
        c_in = c
    return state


def place(monkeypatch, folder, file):
    "Let a file of the tests take the place of a weight file"
    path = folder / file
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    monkeypatch.setitem(
        FILES, file, dataclasses.replace(FILES[file], bytes=path.stat().st_size, sha256=digest)
    )
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(folder))


@pytest.mark.parametrize("zipped", [True, False])
def test_torchvisions_file_loads(tmp_path, monkeypatch, zipped):
    "A full state dict with its classifier, in either of torch.save's formats"
    state = vgg_state()
    torch.save(
        state | {"classifier.0.weight": torch.rand(4, 4)},
        tmp_path / "vgg19-dcbb9e9d.pth",
        _use_new_zipfile_serialization=zipped,
    )
    place(monkeypatch, tmp_path, "vgg19-dcbb9e9d.pth")
    psi = Psi(("conv1_2", "conv3_4"))
    assert psi.name == "vgg19-dcbb9e9d" and "vgg19-dcbb9e9d" in repr(psi)
    x = images()
    y = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    for name, i in list(LAYERS.items())[:8]:
        if name in ("conv2_1", "conv3_1"):
            y = nn.functional.max_pool2d(y, 2)
        y = nn.functional.conv2d(y, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1)
        if name in psi.layers:
            torch.testing.assert_close(psi(x)[name], y, rtol=1e-4, atol=1e-4)
        y = y.relu()


def test_half_precision_safetensors_become_float32(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    state = {k: v.half() for k, v in vgg_state().items()}
    save_file(state, tmp_path / "vgg19_features_normalised.safetensors")
    place(monkeypatch, tmp_path, "vgg19_features_normalised.safetensors")
    name, pairs = load_vgg("vgg19-normalised", 3)
    assert name == "vgg19-normalised" and len(pairs) == 3
    for (w, b), i in zip(pairs, LAYERS.values()):
        assert w.dtype == b.dtype == torch.float32
        assert torch.equal(w, state[f"features.{i}.weight"].float()) and torch.equal(
            b, state[f"features.{i}.bias"].float()
        )


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_file_that_is_no_vgg19_is_one_line(tmp_path, monkeypatch, damage):
    state = vgg_state()
    if damage == "missing":
        del state["features.5.bias"]
    else:
        state["features.5.weight"] = state["features.5.weight"][:, :3]
    torch.save(state, tmp_path / "vgg19-dcbb9e9d.pth")
    place(monkeypatch, tmp_path, "vgg19-dcbb9e9d.pth")
    with pytest.raises(QebiasError, match=r"holds no VGG-19: features.5 \(conv2_1\)"):
        Psi("conv2_2")
    assert Psi("conv1_2").name == "vgg19-dcbb9e9d"  # what is asked for is there


@pytest.mark.parametrize(
    "weights,file",
    [
        ("vgg19", "vgg19-dcbb9e9d.pth"),
        ("vgg19-normalised", "vgg19_features_normalised.safetensors"),
        ("vgg19-original", "vgg19-d01eb7cb.pth"),
    ],
)
def test_missing_weights_are_never_replaced(tmp_path, monkeypatch, weights, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=f"psi '{weights}' needs {file}"):
        Psi("conv1_2", weights)


# --- what distances say ---


def growth(psi, raws, qualities=(50, 40, 30, 20, 10)):
    with torch.no_grad():
        raw = psi(tensor(raws))
        coded = [psi(tensor([jpeg(r, q) for r in raws])) for q in qualities]
    return {n: torch.stack([(c[n] - raw[n]).abs().mean((1, 2, 3)) for c in coded]) for n in raw}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stand_in_distances_grow_with_compression(seed):
    data = pytest.importorskip("skimage.data")
    crops = [data.astronaut()[y : y + 96, x : x + 96] for y, x in ((0, 150), (200, 200), (380, 30))] + [
        data.chelsea()[60:156, 120:216]
    ]
    for n, d in growth(Psi(BLOCKS, f"random-w16-s{seed}"), crops).items():
        assert (d.mean(1).diff() > 0).all(), (n, d.mean(1))


def kodak(n=8):
    if not os.environ.get("QEBIAS_DATA"):
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    files = sorted((Path(os.environ["QEBIAS_DATA"]) / "kodak24").glob("*.png"))[:: 24 // n]
    if not files:
        pytest.skip("QEBIAS_DATA holds no kodak24/")
    return [np.array(Image.open(f).convert("RGB"))[128:256, 200:328] for f in files]


def normalised():
    try:
        return Psi(BLOCKS, "vgg19-normalised")
    except MissingWeights:
        pytest.skip("set QEBIAS_WEIGHTS to a folder that holds vgg19_features_normalised.safetensors")


def as_caffe_has_it(pairs, factors):
    "Weights for B, G, R in 0..255 less Caffe's mean, whose layers have other scales"
    (weight, bias), *rest = pairs
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (features._MEAN, features._STD))
    weight = weight / (255 * std)
    offset = 255 * mean - torch.tensor(features.CAFFE_MEAN).view(1, 3, 1, 1)
    pairs = [(weight.flip(1), bias - (weight * offset).sum((1, 2, 3))), *rest]
    state, scale = {}, 1.0
    for (w, b), factor, layer in zip(pairs, factors, LAYERS.values()):
        scale *= factor
        state[f"features.{layer}.weight"], state[f"features.{layer}.bias"] = w * factor, b * scale
    return state


def test_the_public_vgg_gives_the_features_of_the_normalised_one(tmp_path, monkeypatch):
    psi = normalised()
    _, pairs = load_vgg("vgg19-normalised")
    factors = torch.logspace(-1, 1, 16)[torch.randperm(16)].tolist()
    torch.save(as_caffe_has_it(pairs, factors), tmp_path / "vgg19-d01eb7cb.pth")
    monkeypatch.setattr(features, "psi_path", lambda weights: tmp_path / "vgg19-d01eb7cb.pth")
    public = Psi(BLOCKS, "vgg19-original")
    assert public.name == "vgg19-d01eb7cb-normalised"
    x = tensor([data_astronaut()])
    with torch.no_grad():
        for n, found in public(x).items():
            torch.testing.assert_close(found, psi(x)[n], rtol=1e-3, atol=2e-3)


def data_astronaut():
    return pytest.importorskip("skimage.data").astronaut()[:128, 150:278]


def test_normalised_vgg_is_normalised_on_photographs():
    psi = normalised()
    with torch.no_grad():
        means = {n: f.abs().mean().item() for n, f in psi(tensor(kodak(12))).items()}
    assert all(0.8 < m < 1.25 for m in means.values()), means


def test_stand_in_ranks_distortions_as_vgg_does():
    "Over crops and qualities: rank correlation of the stand-in's distances with VGG-19's, block by block"
    scipy = pytest.importorskip("scipy.stats")
    crops = kodak()
    ours, theirs = growth(Psi(BLOCKS, "random-w16-s0"), crops), growth(normalised(), crops)
    rho = [scipy.spearmanr(ours[n].flatten(), theirs[n].flatten()).statistic for n in BLOCKS]
    assert rho[0] > 0.85 and rho[1] > 0.75 and rho[2] > 0.5 and min(rho) > 0.2, rho


@pytest.mark.parametrize("name", ["vgg19", "vgg19-normalised", "vgg19-original"])
@pytest.mark.parametrize("content", ["a trap", "a pickle", "text", "nothing", "a cut file"])
def test_a_damaged_file_of_psi_is_one_line_and_runs_nothing(tmp_path, monkeypatch, name, content):
    "Even where its digest is right, as far as it is known"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    path = tmp_path / FILES[features.PSI_FILES[name][1]].file
    data = {"a trap": pickle.dumps(Trap()), "a pickle": pickle.dumps([1]), "text": b"text", "nothing": b""}
    if content == "a cut file":
        torch.save({"features.0.weight": torch.ones(64, 3, 3, 3)}, path)
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(data[content])
    monkeypatch.setattr(features, "psi_path", lambda weights: path)
    with pytest.raises(QebiasError, match=f"{path.name} is no readable") as error:
        load_vgg(name)
    assert "\n" not in str(error.value) and not (tmp_path / "it ran").exists()


def test_pictures_in_another_range_are_told_at_the_first_batch():
    x = torch.rand(1, 3, 8, 8)
    make = lambda: Psi(("conv1_2",), weights="random-w4-s0")  # noqa: E731
    with pytest.raises(QebiasError, match=r"psi takes floating point in \[0, 1\], not torch.uint8"):
        make()((255 * x).to(torch.uint8))
    with pytest.raises(QebiasError, match=r"psi takes pictures in \[0, 1\], these go up to 255: divide"):
        make()(torch.full((1, 3, 8, 8), 255.0))
    with pytest.warns(UserWarning, match=r"these begin at -1: bring \[-1, 1\] there by \(x \+ 1\) / 2"):
        make()(-torch.ones(1, 3, 8, 8))


def test_what_a_generator_makes_is_not_held_to_a_range():
    "Before it has learnt anything it may overshoot; nan passes, to be found where it arose"
    psi = Psi(("conv1_2",), weights="random-w4-s0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psi((20 * torch.randn(1, 3, 8, 8)).requires_grad_())
        assert not psi.looked
        psi(torch.full((1, 3, 8, 8), torch.nan))
        assert psi.looked
        psi(255 * torch.rand(1, 3, 8, 8))


def test_layers_that_are_no_names_are_one_line():
    with pytest.raises(QebiasError, match="psi's layers are 5"):
        Psi(5, weights="random-w4-s0")
    with pytest.raises(QebiasError, match="psi has no weights None"):
        Psi(weights=None)
