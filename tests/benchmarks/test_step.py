"""An adversarial step of ours beside the textbook's, on the same work: `pytest tests/benchmarks -m benchmark -n 0`

The textbook step forwards the discriminator once for every player and term, runs psi once for every image, and keeps
tensors with the channels first. Ours shares the forwards, and keeps the channels last. Times are medians of one process;
compare their ratio, not the milliseconds of two machines.
"""
import pytest
import torch

from qebias.features import block_layer
from qebias.losses import GAN_LOSSES, domain_divergence, perceptual, reconstruction
from qebias.methods import METHODS, train_config
from qebias.training import Trainer

pytestmark = pytest.mark.benchmark

NETWORKS = {"RRDBNet": {"width": 48, "blocks": 1, "growth": 16}, "UNetSN": {"width": 16}, "VGGStyle": {"width": 16}}


def trainer(method):
    torch.set_num_threads(1)
    return Trainer(train_config(METHODS[method], NETWORKS, iterations=10, batch=4, patch=64, psi="random-w16-s0"))


def textbook(t, raw, compressed):
    c, (g, d) = t.config, t.optimisers.values()
    w, layer = c.weights, block_layer(c.divergence.blocks[0])
    t.judge.requires_grad_(False)
    g.zero_grad()
    enhanced = t.generator(compressed)
    psi_enhanced, psi_raw = t.psi(enhanced), t.psi(raw)
    gan = GAN_LOSSES[c.gan](t.judge(raw, compressed).detach(), t.judge(enhanced, compressed))
    loss = w.recon * reconstruction(enhanced, raw) + w.percept * perceptual(psi_enhanced, psi_raw, c.perceptual) + w.discrim * gan.generator
    if w.divergence: loss = loss + w.divergence * domain_divergence(psi_raw[layer], t.psi(compressed)[layer], psi_enhanced[layer])
    loss.backward()
    g.step()
    t.judge.requires_grad_(True)
    d.zero_grad()
    gan = GAN_LOSSES[c.gan](t.judge(raw, compressed), t.judge(enhanced.detach(), compressed))
    (gan.real + gan.fake).backward()
    d.step()


@pytest.mark.parametrize("method", ["realesrgan+both", "esrgan+both"])
@pytest.mark.parametrize("step", ["ours", "textbook"])
def test_adversarial_step(benchmark, method, step):
    t = trainer(method)
    if step == "textbook":
        for module in (t.generator, t.judge): module.to(memory_format=torch.contiguous_format)
    raw, compressed = torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64)
    benchmark.group = method
    benchmark.pedantic((lambda: t.step(0, raw, compressed)) if step == "ours" else (lambda: textbook(t, raw, compressed)), rounds=15, warmup_rounds=3)
