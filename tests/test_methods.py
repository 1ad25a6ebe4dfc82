"The fifteen methods, networks of the user's own in their place, blind rows, and what is refused"

import sys
import textwrap

import pytest
import torch

from qebias.core import QebiasError, write_png
from qebias.discriminators import UNetSN
from qebias.generators.core import count, load_weights, macs
from qebias.methods import BASELINES, FIDELITY, METHODS, PRESETS, VARIANTS, method, preset, train_config
from qebias.networks import build, load_network, read_header, save_network
from qebias.study import Study, check_profile, compress, evaluate, key_train, load_profile, scores, train
from qebias.training import Trainer

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
    assert len(METHODS) == 15 + 1 and all(m.source and m.reference for m in METHODS.values())


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
        with torch.device("meta"):
            build(train_config(m, preset(networks)).generator)


OWN = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
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


def studied(folder, *changes):
    return Study(load_profile("smoke", changes), folder)


def test_a_network_of_ones_own_goes_through_a_study(own):
    study = studied(
        own / "run",
        "networks.RRDBNet={class: 'my_nets:Net', width: 6}",
        "networks.UNetSN={class: 'my_nets:Critic'}",
        "methods=[rrdb, realesrgan+both]",
        "metrics=[psnr]",
        "distances=[nlpd]",
    )
    for d in study.datasets:
        compress(study, d, "bpg", 37, workers=1, progress=False)
    for name in ("rrdb", "realesrgan+both"):
        train(study, name, "bpg", 37)
    evaluate(study, "realesrgan+both", "bpg", 37, 0, "sample")
    folder = (study.folder / study.train_path("realesrgan+both", "bpg", 37, 0)).parent
    assert read_header(folder / "generator.safetensors")["spec"] == {
        "class": "my_nets:Net",
        "kwargs": {"width": 6},
    }
    assert load_network(folder / "discriminator.safetensors").conv.in_channels == 6, (
        "the condition is the critic's for free"
    )
    assert set(scores(study).method) == {"realesrgan+both"}
    before = key_train(study, "rrdb", "bpg", 37, 0)
    (own / "my_nets.py").write_text(textwrap.dedent(OWN) + "\n# another version\n")
    assert key_train(study, "rrdb", "bpg", 37, 0) != before, "a changed network of one's own is trained again"


@pytest.mark.parametrize(
    "changes, what",
    [
        (["networks.RRDBNet={class: 'my_nets:Nett'}"], "class 'my_nets:Nett' is not known here"),
        (["networks.RRDBNet={class: 'no_nets:Net'}"], "must lie in a folder on PYTHONPATH"),
        (
            ["networks.RRDBNet={class: 'my_nets:Net', widht: 3}"],
            "my_nets:Net takes no widht: its arguments are width",
        ),
        (["networks.RRDBNet={class: 'my_nets:Shrinks'}"], "a generator keeps it"),
        (["networks.UNetSN={class: 'my_nets:Net'}"], "my_nets:Net takes no in_channels"),
        (["networks.RRDBNet={width: 8, blokcs: 1}"], "takes no blokcs"),
        (["methods=[arcnn, esgran]"], "unknown method 'esgran'"),
        (["methods=[arcnn@blind]"], "after @ comes what it was trained on"),
    ],
)
def test_misspelt_or_impossible_is_one_line_before_anything_runs(own, changes, what):
    from qebias.runner import preflight

    with pytest.raises(QebiasError) as error:
        preflight(studied(own / "run", *changes))
    assert what in str(error.value) and "\n" not in str(error.value) and not (own / "run").exists()


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


def test_a_blind_training_sees_every_level_and_starts_from_a_blind_stage_1(tmp_path):
    study = studied(
        tmp_path,
        "codecs={jpeg: [10, 50]}",
        "methods=[rrdb@all, realesrgan+both@all, rrdb]",
        "metrics=[psnr]",
        "distances=[nlpd]",
    )
    assert [t[:3] for t in study.trainings()] == [
        ("rrdb", "jpeg", "all"),
        ("realesrgan+both", "jpeg", "all"),
        ("rrdb", "jpeg", 10),
        ("rrdb", "jpeg", 50),
    ]
    for d in study.datasets:
        for level in (10, 50):
            compress(study, d, "jpeg", level, workers=1, progress=False)
    with pytest.raises(
        QebiasError, match="realesrgan\\+both starts from rrdb, which has not been trained on jpeg-all"
    ):
        train(study, "realesrgan+both", "jpeg", "all")
    assert train(study, "rrdb", "jpeg", "all")["images"] == 6
    train(study, "realesrgan+both@all", "jpeg", 10)
    for level in (10, 50):
        assert evaluate(study, "realesrgan+both@all", "jpeg", level, 0, "sample")["trained_on"] == "jpeg-all"
    assert sorted(set(scores(study)["level"])) == [10, 50]


def test_a_blind_training_never_sees_an_evaluation_image(tmp_path):
    study = studied(tmp_path / "run", "codecs={jpeg: [10, 50]}", "methods=[arcnn@all]")
    from qebias.study import images

    write_png(tmp_path / "held" / "again.png", images(study, "train")[1]())
    same = Study(
        check_profile(study.profile.model_dump() | {"evaluate": {"held": f"folder:{tmp_path / 'held'}"}}),
        study.folder,
    )
    for d in same.datasets:
        for level in (10, 50):
            compress(same, d, "jpeg", level, workers=1, progress=False)
    with pytest.raises(QebiasError, match="in both train and held"):
        train(same, "arcnn", "jpeg", "all")
