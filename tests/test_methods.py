"The fifteen methods, networks of the user's own in their place, multi-level rows, and what is refused"

import importlib
import sys
import textwrap

import numpy as np
import pytest
import torch

from qebias.codecs import Jpeg
from qebias.config import TrainConfig
from qebias.core import QebiasError
from qebias.datasets import RawImage
from qebias.discriminators import UNetSN
from qebias.generators.core import count, load_weights, macs
from qebias.methods import (
    BASELINES,
    FIDELITY,
    METHODS,
    PRESETS,
    VARIANTS,
    derive,
    method,
    preset,
    train_config,
)
from qebias.networks import build, load_network, outline, read_header, save_network
from qebias.pairs import JoinedPairs, build_pairs
from qebias.training import Trainer, fit, probe, run_key

SMALL = {
    "RRDBNet": {"width": 4, "blocks": 1, "growth": 2},
    "VGGStyle": {"width": 4},
    "UNetSN": {"width": 4},
    "DCAD": {"width": 4, "depth": 3},
    "DnCNN": {"width": 4, "depth": 3},
    "RDN": {"width": 4, "blocks": 1, "layers": 2, "growth": 4},
    "CBDNet": {"width": 4, "estimator": 4},
    "RBQE": {"width": 16, "levels": 2},
}  # narrower ones, and a narrow MPRNet, start with dead ReLUs


def test_the_papers_fifteen():
    assert [m.name for m in FIDELITY] == ["arcnn", "dcad", "dncnn", "cbdnet", "rdn", "rbqe", "mprnet"]
    assert [b.name + v for b in BASELINES for v in VARIANTS] == [
        "esrgan",
        "esrgan+cond",
        "esrgan+div",
        "esrgan+both",
        "realesrgan",
        "realesrgan+cond",
        "realesrgan+div",
        "realesrgan+both",
    ]
    assert all(m.source and m.reference for m in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_its_weights(name):
    config = train_config(method(name), SMALL, iterations=2, batch=2, patch=32, psi="random-w4-s0")
    trainer = Trainer(config)
    before = [p.clone() for p in trainer.generator.parameters()]
    batch = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for i in range(2):
        log = trainer.step(i, *batch)
    assert all(torch.isfinite(v) for v in log.values() if isinstance(v, torch.Tensor))
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.generator.parameters())]
    dead = (
        0.05 * len(moved) if name == "mprnet" else 0
    )  # an attention of four squeezed channels may start with its ReLU dead
    assert moved.count(False) <= dead, f"{name}: {moved.count(False)} of {len(moved)} tensors stood still"
    if trainer.discriminator:
        assert next(trainer.discriminator.network.parameters()).shape[1] == (
            6 if method(name).conditional else 3
        )


@pytest.mark.parametrize("baseline", [b.name for b in BASELINES])
@pytest.mark.parametrize("networks", PRESETS)
def test_no_overhead_at_inference(baseline, networks):
    specs = [train_config(method(baseline + v), preset(networks)).generator for v in VARIANTS]
    assert all(s == specs[0] for s in specs)
    nets = [build(train_config(method(baseline + v), SMALL).generator) for v in VARIANTS]
    assert len({(type(n), count(n), macs(n, 32), str(n)) for n in nets}) == 1


@pytest.mark.parametrize("networks", PRESETS)
def test_presets_build(networks):
    for m in METHODS.values():
        assert count(outline(train_config(m, preset(networks)).generator))


OWN = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            first, last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
            self.body = nn.Sequential(first, nn.ReLU(), last)
        def forward(self, x): return x + self.body(x)

    class Critic(nn.Module):
        def __init__(self, in_channels=3):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 1, 3)
        def forward(self, x): return self.conv(x)

    class Shrinks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
        def forward(self, x): return self.conv(x)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_nets", None)


def pictures():
    scenes = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), np.uint8)
    return [RawImage(f"p{i}", lambda rgb=rgb: rgb) for i, rgb in enumerate(scenes)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "d" / "jpeg-10"
    return build_pairs(pictures(), Jpeg(10), folder, workers=1, progress=False)


QUICK = dict(iterations=2, batch=2, patch=32, psi="random-w4-s0")
MY_NET = {"RRDBNet": {"class": "my_nets:Net", "width": 6}, "UNetSN": {"class": "my_nets:Critic"}}


def test_a_network_of_ones_own_is_trained_and_saved(own, pairs):
    first = train_config(method("rrdb"), MY_NET, **QUICK)
    fit(first, pairs, own / "rrdb")
    file = own / "rrdb" / "generator.safetensors"
    fit(train_config(method("realesrgan+both"), MY_NET, **QUICK), pairs, own / "both", init=file)
    assert read_header(own / "both" / "generator.safetensors")["spec"] == {
        "class": "my_nets:Net",
        "kwargs": {"width": 6},
    }
    critic = load_network(own / "both" / "discriminator.safetensors", trust=True)
    assert critic.conv.in_channels == 6, "the condition is the critic's for free"
    before = run_key(first, pairs)
    (own / "my_nets.py").write_text(textwrap.dedent(OWN) + "\n# a remark\nNet.version = 1\n")
    importlib.reload(sys.modules["my_nets"])
    assert run_key(first, pairs) == before
    sys.modules["my_nets"].Net.version = 2
    assert run_key(first, pairs) != before, "a changed network of one's own says so by its version"


@pytest.mark.parametrize(
    "networks, what",
    [
        ({"RRDBNet": {"class": "my_nets:Nett"}}, "class 'my_nets:Nett' is not known here"),
        ({"RRDBNet": {"class": "no_nets:Net"}}, "must lie in a folder on PYTHONPATH"),
        (
            {"RRDBNet": {"class": "my_nets:Net", "widht": 3}},
            "my_nets:Net takes no widht: its arguments are width",
        ),
        ({"RRDBNet": {"class": "my_nets:Shrinks"}}, "a generator keeps the shape"),
        ({"UNetSN": {"class": "my_nets:Net"}}, "my_nets:Net takes no in_channels"),
        ({"RRDBNet": {"width": 8, "blokcs": 1}}, "takes no blokcs"),
    ],
)
def test_a_network_that_cannot_be_is_one_line(own, networks, what):
    with pytest.raises(QebiasError) as error:
        probe(Trainer(train_config(method("realesrgan+both"), SMALL | networks, **QUICK)))
    assert what in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, what",
    [("esgran", "unknown method 'esgran'"), ("arcnn@none", "after @ comes what it was trained on")],
)
def test_a_misspelt_method_is_one_line(name, what):
    with pytest.raises(QebiasError) as error:
        method(name)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_a_row_is_derived_as_data():
    base = method("realesrgan+both")
    sweep = [derive(base, f"r-{w}", weights={"divergence": w}) for w in (0, 0.03, 0.1, 0.3, 1)]
    configs = [train_config(m, SMALL, **QUICK) for m in sweep]
    assert [c.weight("divergence") for c in configs] == [0, 0.03, 0.1, 0.3, 1]
    assert len({str(c.identity()) for c in configs}) == 5
    same = train_config(base, SMALL, **QUICK)
    assert configs[2].identity() == same.identity(), "a name is no part of what decides a result"
    assert configs[0].layers == ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4")


def test_all_that_a_training_knows_can_be_told():
    fields = set(TrainConfig.model_fields) - {"method", "stage", "generator", "discriminator", "terms"}
    told = dict(
        conditional=True,
        projection="edges",
        joint=True,
        usm=True,
        psi="random-w4-s0",
        schedule={"kind": "cosine", "warmup": 3},
        betas=(0.5, 0.9),
        d_schedule={"lr": 2e-4},
        d_betas=(0.0, 0.9),
        second_fake=True,
        g_init_iterations=2,
        d_init_iterations=3,
        d_iterations=2,
        d_final_iterations=4,
        ema=0.5,
        iterations=20,
        batch=4,
        patch=64,
        symmetries="flips",
        seed=3,
        precision="bf16",
        processes=2,
        device="cuda",
        threads=2,
    )
    assert set(told) == fields
    config = train_config(method("realesrgan"), SMALL, **told)
    for name, value in told.items():
        found = getattr(config, name)
        if isinstance(value, dict):
            assert value.items() <= found.model_dump().items()
        else:
            assert found == value, name


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    from qebias.training import load_state

    spec = {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 4, "blocks": 1, "growth": 2}}
    save_network(tmp_path / "generator.safetensors", build(spec), spec, {})
    state = load_state(tmp_path / "generator.safetensors")
    for other, what in (
        ({"class": "qebias.generators.arcnn:ARCNN"}, "they belong to another network"),
        ({**spec, "kwargs": {"width": 8, "blocks": 1, "growth": 2}}, "expected (8, 48, 3, 3)"),
    ):
        with pytest.raises(QebiasError) as error:
            load_weights(build(other), state)
        assert what in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(
        QebiasError, match=r"conv0.weight has shape \(4, 3, 3, 3\) in the weights, expected \(4, 6, 3, 3\)"
    ):
        load_weights(UNetSN(in_channels=6, width=4), UNetSN(in_channels=3, width=4).state_dict())


def test_a_multi_level_method_starts_from_its_own_pretraining_and_sees_every_level(tmp_path, pairs):
    several = method("realesrgan+both@all")
    assert several.starts_from == "rrdb@all" and method(several.starts_from).trained_on == "all"
    finer = build_pairs(pictures(), Jpeg(50), tmp_path / "d" / "jpeg-50", workers=1, progress=False)
    joined = JoinedPairs([pairs, finer])
    result = fit(train_config(method(several.starts_from), SMALL, **QUICK), joined, tmp_path / "rrdb")
    assert result["images"] == 4 and result["made_of"]["pairs"] == joined.key
    init = tmp_path / "rrdb" / "generator.safetensors"
    assert fit(train_config(several, SMALL, **QUICK), joined, tmp_path / "both", init=init)["images"] == 4
