"""A step of ours beside the textbook's, on the same work: `pytest tests/benchmarks -m benchmark -n 0`

The textbook step forwards the discriminator once for every player and term, runs psi once for every image,
and keeps tensors with the channels first. Ours shares the forwards, and keeps the channels last. Times are
medians of one process; compare their ratio, not the milliseconds of two machines. At the paper's widths, and
beside BasicSR: `step.py`.
"""

import pytest
import torch

from qebias.methods import METHODS, train_config
from qebias.training import Trainer, textbook_step

pytestmark = pytest.mark.benchmark

NETWORKS = {
    "RRDBNet": {"width": 48, "blocks": 1, "growth": 16},
    "UNetSN": {"width": 16},
    "VGGStyle": {"width": 16},
}


def trainer(method):
    torch.set_num_threads(1)
    return Trainer(
        train_config(METHODS[method], NETWORKS, iterations=10, batch=4, patch=64, psi="random-w16-s0")
    )


@pytest.mark.parametrize("method", ["realesrgan+both", "esrgan+both"])
@pytest.mark.parametrize("step", ["ours", "textbook"])
def test_adversarial_step(benchmark, method, step):
    t = trainer(method)
    if step == "textbook":
        for module in (t.generator, t.discriminator):
            module.to(memory_format=torch.contiguous_format)
    raw, compressed = torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64)
    benchmark.group = method
    benchmark.pedantic(
        (lambda: t.step(0, raw, compressed))
        if step == "ours"
        else (lambda: textbook_step(t, 0, raw, compressed)),
        rounds=15,
        warmup_rounds=3,
    )
