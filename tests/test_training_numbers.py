"""Each version of the arithmetic of a training stands for its numbers, kept in tests/numbers/training.json

A fingerprint that changes while the version stays fails here. Raise the version (the name is in the message),
then write the numbers anew with `QEBIAS_WRITE_NUMBERS=1 pytest tests/test_training_numbers.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qebias.config import VERSION, Schedule, TrainConfig, learning_rate
from qebias.core import digest
from qebias.discriminators import edges
from qebias.features import Psi
from qebias.generators.core import evaluating, fill, test_image
from qebias.losses import (
    LAMBDAS,
    PERCEPTUAL_LAYERS,
    Given,
    LossWeights,
    Term,
    make_term,
    term_version,
    usm_sharp,
    usual_terms,
)
from qebias.methods import METHODS
from qebias.networks import build, network_version
from qebias.pairs import PATCHES_VERSION, SYMMETRIES, PatchSampler
from qebias.training import Trainer, run_key

FILE = Path(__file__).parent / "numbers" / "training.json"
TINY = {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 8, "blocks": 1, "growth": 4}}
UNET = {"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 4}}
VGG = {"class": "qebias.discriminators:VGGStyle", "kwargs": {"width": 4, "size": 32}}
LAYERS = {"conv1_2": 0.1, "conv2_2": 1.0}


def wave(*shape, step=0.37):
    "Numbers in [0, 1] that are the same everywhere"
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(step * n + 0.001 * n * n)).view(shape)


def numbers(*tensors):
    "Ten digits of a few sums, which see every element"
    found = []
    for t in tensors:
        t = t.detach().double().flatten()
        found += [t.sum(), (t * wave(len(t), step=0.11)).sum(), t.square().sum().sqrt()]
    return [float(f"{v:.10g}") for v in found]


# --- terms

TERMS = {
    "L1": {},
    "Charbonnier": {"eps": 1e-4},
    "Perceptual": {"layers": LAYERS},
    "VanillaGan": {},
    "RelativisticGan": {},
    "DomainDivergence": {"blocks": [1, 2], "reduction": "sample"},
    "DomainDivergence batch": {"blocks": [2], "reduction": "batch"},
    "DomainDivergence element": {"blocks": [2], "reduction": "element"},
}


def term_of(name):
    return Term(name="t", function=f"qebias.losses:{name.split()[0]}", options=TERMS[name])


def term_numbers(name):
    "A term's values and gradients"
    raw, compressed, enhanced = (wave(2, 3, 8, 8, step=s) for s in (0.37, 0.53, 0.71))
    enhanced = (0.3 * enhanced + 0.7 * compressed).requires_grad_()
    logits = [wave(2, 1, 4, 4, step=s).mul(3).sub(1).requires_grad_() for s in (0.2, 0.3)]

    def psi(image):
        deeper = image[:, :2, ::2, ::2]
        return {"conv1_2": 2 * image, "conv2_2": (deeper * deeper - 0.3 * deeper)}

    features = {"raw": psi(raw), "target": psi(raw), "compressed": psi(compressed), "enhanced": psi(enhanced)}
    given = Given(raw, compressed, enhanced, psi=features, real=logits[0], fake=logits[1])
    value = make_term(term_of(name))(given)
    found = []
    for part in value if isinstance(value, tuple) else [value]:
        gradients = torch.autograd.grad(part, [enhanced, *logits], allow_unused=True, retain_graph=True)
        found += numbers(part, *(g for g in gradients if g is not None))
    return found


# --- networks

NETWORKS = {
    **{
        m.network: {"class": m.network, "kwargs": kwargs}
        for m in METHODS.values()
        for kwargs in [TINY["kwargs"] if "rrdb" in m.network else {}]
    },
    "qebias.generators.rrdb:RRDBNet residual": {**TINY, "kwargs": TINY["kwargs"] | {"residual": True}},
    "qebias.discriminators:UNetSN": {**UNET, "kwargs": {**UNET["kwargs"], "in_channels": 6}},
    "qebias.discriminators:VGGStyle": {**VGG, "kwargs": {**VGG["kwargs"], "in_channels": 6}},
}


def network_numbers(name):
    """What a network makes of a picture in both modes, with weights that are the same everywhere; and how it
    starts"""
    spec = NETWORKS[name]
    torch.manual_seed(0)
    net = build(spec)
    start = [float(f"{sum(p.double().abs().sum() for p in net.parameters()):.5g}")]
    net = fill(net.double())
    x = torch.cat([test_image(6, 32), 0.5 * test_image(6, 32).flip(-1)])[
        :, : spec["kwargs"].get("in_channels", 3)
    ]
    with torch.no_grad():
        trained = net.train()(x)
        with evaluating(net):
            return numbers(trained, net(x)) + start


# --- trainings


def training(stage="adversarial", weights=LAMBDAS["realesrgan"], gan="vanilla", recon="l1", **more):
    "A tiny training in double precision, for its first steps"
    adversarial = dict(discriminator=UNET, conditional=True) if stage == "adversarial" else {}
    terms = usual_terms(weights, recon, LAYERS, {"blocks": [2]}, gan if stage == "adversarial" else None)
    values = dict(
        method="numbers",
        stage=stage,
        generator=TINY,
        terms=terms,
        psi="random-w4-s0",
        schedule=Schedule(kind="cosine", lr=1e-3),
        iterations=8,
        batch=2,
        patch=32,
        ema=0.9,
        threads=1,
    )
    return TrainConfig(**values | adversarial | more)


def without(name):
    return LAMBDAS["realesrgan"].model_copy(update={name: 0.0})


TRAININGS = {
    "fidelity": training("fidelity", LossWeights()),
    "fidelity, charbonnier": training("fidelity", LossWeights(), recon="charbonnier"),
    "fidelity, flips": training("fidelity", LossWeights(), symmetries="flips"),
    "[44]": training(weights=without("divergence"), conditional=False),
    "[44] +cond": training(weights=without("divergence")),
    "[44] +div": training(conditional=False),
    "[44] +both": training(),
    "[43]": training(weights=without("divergence"), conditional=False, gan="relativistic", discriminator=VGG),
    "[43] +both": training(gan="relativistic", discriminator=VGG),
    "sharpened targets": training(usm=True),
    "projection": training(projection="edges"),
    "joint batches": training(gan="relativistic", discriminator=VGG, joint=True),
    "generator first": training(g_init_iterations=2, d_init_iterations=1),
    "second fake": training(second_fake=True, conditional=False),
    "two players": training(
        d_init_iterations=1,
        d_iterations=2,
        schedule=Schedule(lr=1e-3, warmup=3),
        d_schedule=Schedule(kind="halving", lr=2e-3),
        d_betas=(0.5, 0.9),
    ),
}


def step_numbers(name):
    "Weights and averages after four steps"
    trainer = Trainer(TRAININGS[name])
    for net in filter(None, [trainer.generator, trainer.discriminator]):
        fill(net.double())
        for p in net.parameters():
            p.data.mul_(0.5)  # a gain that a few blocks bear
    trainer.average.double().load_state_dict(trainer.generator.state_dict())
    if trainer.psi:
        trainer.psi.double()
    for i in range(4):
        raw = wave(2, 3, 32, 32, step=0.05 + 0.01 * i)
        compressed = torch.nn.functional.avg_pool2d(raw, 3, stride=1, padding=1)
        log = trainer.step(i, raw, compressed)
    parts = [trainer.generator, trainer.average, trainer.discriminator]
    state = [torch.cat([t.double().flatten() for t in p.state_dict().values()]) for p in parts if p]
    return numbers(*state, torch.stack([v.double() for v in log.values() if torch.is_tensor(v)]))


class Places:
    "As much of a store as the sampler asks for"

    names = ["a", "b"]

    def __len__(self):
        return 2

    def raw(self, i):
        import numpy as np

        return np.arange((50 + i) * 70 * 3, dtype=np.uint8).reshape(50 + i, 70, 3)

    compressed = raw


def patch_numbers(symmetries):
    sampler = PatchSampler(Places(), 32, 5, seed=3, rank=1, world=2, symmetries=symmetries)
    return [sampler.draw(7).tolist(), digest([t.tolist() for t in sampler(7)])]


def all_numbers():
    "name -> (version, a function that computes the fingerprint)"
    found = {}
    for name in TERMS:
        found[f"term {name}"] = (term_version(term_of(name)), lambda n=name: term_numbers(n))
    for name, spec in NETWORKS.items():
        found[f"network {name}"] = (network_version(spec), lambda n=name: network_numbers(n))
    for name in TRAININGS:
        found[f"training {name}"] = (VERSION, lambda n=name: step_numbers(n))
    for name in SYMMETRIES:
        found[f"patches {name}"] = (PATCHES_VERSION, lambda n=name: patch_numbers(n))
    picture = wave(1, 3, 32, 40, step=0.21)
    found["training usm"] = (VERSION, lambda: numbers(usm_sharp(picture)))
    found["training edges"] = (VERSION, lambda: numbers(edges(picture)))
    found["psi random"] = (
        getattr(Psi, "version", 1),
        lambda: numbers(*Psi(("conv1_2", "conv3_4"), "random-w4-s0").double()(picture).values()),
    )
    rates = [Schedule(kind=k, lr=1e-3, warmup=w) for k in ("constant", "cosine", "halving") for w in (0, 3)]
    found["training rates"] = (
        VERSION,
        lambda: [float(f"{learning_rate(s, i, 16):.10g}") for s in rates for i in (0, 1, 2, 3, 7, 15)],
    )
    return found


def check(name, version, fingerprint, known):
    "Fail where numbers and version do not belong together"
    assert name in known, f"{name} is new: write its numbers with QEBIAS_WRITE_NUMBERS=1"
    if version != known[name]["version"]:
        pytest.fail(
            f"{name} has version {version}, its numbers are those of version {known[name]['version']}: "
            "write them anew with QEBIAS_WRITE_NUMBERS=1"
        )
    same = fingerprint == known[name]["fingerprint"]
    if not same and not isinstance(fingerprint[0], list):
        same = fingerprint == pytest.approx(known[name]["fingerprint"], rel=1e-8, abs=1e-11)
    if not same:
        pytest.fail(
            f"{name} computes other numbers than version {version} did: raise VERSION, or its `version`"
        )


@pytest.fixture(scope="module")
def known():
    if os.environ.get("QEBIAS_WRITE_NUMBERS"):
        made = {n: {"version": v, "fingerprint": f()} for n, (v, f) in all_numbers().items()}
        lines = [f" {json.dumps(n)}: {json.dumps(v)}" for n, v in made.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return json.loads(FILE.read_text())


@pytest.mark.parametrize("name", all_numbers())
def test_a_version_stands_for_its_numbers(known, name):
    version, compute = all_numbers()[name]
    check(name, version, compute(), known)


def test_nothing_is_kept_that_is_no_more(known):
    assert set(known) == set(all_numbers())


def test_a_changed_loss_is_noticed_until_its_version_is_raised(known, monkeypatch):
    import qebias.losses as losses

    def key(config):
        return run_key(config, Store)

    class Store:
        key = "pairs"

    before = {name: key(c) for name, c in TRAININGS.items()}
    monkeypatch.setattr(losses, "domain_divergence", lambda *a, f=losses.domain_divergence: 1.001 * f(*a))
    name = "term DomainDivergence"
    version, compute = all_numbers()[name]
    with pytest.raises(
        pytest.fail.Exception, match="computes other numbers than version 1 did: raise VERSION"
    ):
        check(name, version, compute(), known)
    assert {n: key(c) for n, c in TRAININGS.items()} == before, "arithmetic is in no key but by its version"
    monkeypatch.setattr(losses.DomainDivergence, "version", 2)
    changed = {n for n, c in TRAININGS.items() if key(c) != before[n]}
    assert changed == {n for n, c in TRAININGS.items() if c.weight("divergence")}
    with pytest.raises(pytest.fail.Exception, match="write them anew"):
        check(name, 2, compute(), known)


@pytest.mark.parametrize(
    "change, name",
    [
        ("lerp", "training fidelity"),
        ("patches", "patches all"),
        ("network", "network qebias.generators.dncnn:DnCNN"),
        ("rate", "training rates"),
    ],
)
def test_other_arithmetic_is_noticed(known, monkeypatch, change, name):
    import qebias.generators.dncnn
    import qebias.pairs
    import qebias.training

    if change == "lerp":
        ema = qebias.training.ema_update
        monkeypatch.setattr(qebias.training, "ema_update", lambda a, m, d: ema(a, m, d + 1e-6))
    if change == "patches":
        monkeypatch.setattr(qebias.pairs, "seed_for", lambda *what: 1)
    if change == "network":
        forward = qebias.generators.dncnn.DnCNN.forward
        monkeypatch.setattr(
            qebias.generators.dncnn.DnCNN, "forward", lambda self, x: forward(self, x) * (1 + 1e-6)
        )
    if change == "rate":
        rate = learning_rate
        monkeypatch.setitem(globals(), "learning_rate", lambda s, i, n: rate(s, i, n) * (1 + 1e-6))
    version, compute = all_numbers()[name]
    with pytest.raises(pytest.fail.Exception, match="computes other numbers"):
        check(name, version, compute(), known)


KEYS = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.append(sys.argv[2])
import qebias.training, test_training_numbers as t
assert qebias.training.__file__.startswith(sys.argv[1])
class Store: key = "pairs"
print([qebias.training.run_key(c, Store) for c in t.TRAININGS.values()])
"""


def test_reworded_messages_docstrings_and_helpers_change_no_key(root, tmp_path):
    shutil.copytree(root / "qebias", tmp_path / "qebias", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "settings.ini", tmp_path)
    for name in ("training", "losses", "core", "pairs", "methods", "networks", "features"):
        file = tmp_path / "qebias" / f"{name}.py"
        text = file.read_text().replace("is not finite", "has lost its numbers")
        text, docstrings = re.subn(r'(?m)^( +)"([A-Z][^"]*)"$', r'\1"Reworded: \2"', text)
        text = re.sub(r"(?m)( # )(.*)$", r"\1another remark: \2", text)
        assert docstrings > 2
        file.write_text(text + "\n\ndef a_new_helper():\n    return 42\n")
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", KEYS, str(tmp_path), tests]
    reworded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    ours = [run_key(c, SimpleNamespace(key="pairs")) for c in TRAININGS.values()]
    assert reworded == str(ours) and len(set(ours)) == len(TRAININGS)


def test_perceptual_layers_are_those_of_the_paper():
    assert set(PERCEPTUAL_LAYERS) == {"esrgan", "realesrgan"}
