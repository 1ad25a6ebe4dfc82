"Trainings that are killed, locked, damaged or started from the wrong place"

import contextlib
import gc
import hashlib
import io
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qebias import training
from qebias.codecs import Jpeg
from qebias.config import Divergence, Schedule, TrainConfig, learning_rate
from qebias.core import LockedError, QebiasError, locked, read_json, write_json
from qebias.datasets import RawImage
from qebias.features import Psi
from qebias.losses import LossWeights, Term, usual_terms
from qebias.methods import METHODS
from qebias.networks import load_discriminator, load_state
from qebias.pairs import PatchSampler, build_pairs, to_float
from qebias.training import (
    DamagedCheckpoint,
    StepGraph,
    Trainer,
    TrainingFailed,
    finished,
    fit,
    load_checkpoint,
    players_at,
    probe,
    rates_at,
    read_checkpoint,
    read_stats,
    run_key,
    save_checkpoint,
)

TINY = {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 8, "blocks": 1, "growth": 4}}
UNET = {"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 8}}
VGG = {"class": "qebias.discriminators:VGGStyle", "kwargs": {"width": 8, "size": 32}}


LOSSES = ("weights", "recon", "perceptual", "divergence")


def config(gan="vanilla", **more):
    "A small training; `weights`, `recon`, `perceptual`, `divergence` and `gan` make its terms"
    losses = dict(
        weights=LossWeights(recon=1, percept=1, discrim=0.1, divergence=0.1),
        recon="l1",
        perceptual={"conv1_2": 1.0},
        divergence=Divergence(blocks=(2,)),
    ) | {name: more.pop(name) for name in LOSSES if name in more}
    losses["divergence"] = losses["divergence"].model_dump()
    if more.get("stage") == "fidelity":
        gan = None
    values = dict(
        method="gan",
        stage="adversarial",
        generator=TINY,
        discriminator=UNET,
        conditional=True,
        terms=usual_terms(**losses, gan=gan),
        psi="random-w4-s0",
        iterations=30,
        batch=2,
        patch=32,
        ema=0.9,
        threads=1,
    )
    return TrainConfig(**values | more)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rng = np.random.default_rng(0)
    smooth = np.clip(
        np.add.outer(np.arange(48), np.arange(64))[..., None] + rng.integers(0, 40, (48, 64, 3)), 0, 255
    ).astype(np.uint8)
    return build_pairs(
        [RawImage("a", lambda: smooth), RawImage("b", lambda: smooth[::-1].copy())],
        Jpeg(10),
        tmp_path_factory.mktemp("pairs") / "d" / "jpeg-10",
        workers=1,
        progress=False,
    )


def same(a, b):
    return all(
        torch.equal(x, y)
        for n in ("generator", "discriminator")
        for x, y in zip(
            load_state(a / f"{n}.safetensors").values(), load_state(b / f"{n}.safetensors").values()
        )
    )


RUN = """
import json, sys
from qebias.config import TrainConfig
from qebias.pairs import Pairs
from qebias.training import fit
fit(TrainConfig(**json.loads(sys.argv[1])), Pairs(sys.argv[2]), sys.argv[3], log_every=1, save_every=0.)
"""


RUNS = """
import json, os, sys
from qebias.config import TrainConfig
from qebias.pairs import Pairs
from qebias.training import fit
for line in sys.stdin:   # a fork each, so torch is imported once for all
    child = os.fork()
    if child == 0:
        try:
            c, pairs = TrainConfig(**json.loads(sys.argv[1])), Pairs(sys.argv[2])
            fit(c, pairs, sys.argv[3], log_every=1, save_every=0.)
        finally:
            os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def under_way(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "gan, discriminator", [("vanilla", UNET), pytest.param("relativistic", VGG, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_a_training_ends_in_the_same_bits(pairs, tmp_path, gan, discriminator):
    c = config(gan=gan, discriminator=discriminator, iterations=60)
    fit(c, pairs, tmp_path / "whole", log_every=1)
    kills, random_moment, stats = 0, random.Random(0), tmp_path / "killed" / "stats.jsonl"

    def mark():
        return stats.stat().st_mtime_ns if stats.exists() else 0

    command = [sys.executable, "-c", RUNS, c.model_dump_json(), str(pairs.folder), str(tmp_path / "killed")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as runs:
        for _ in range(4):
            before = mark()
            print("once", file=runs.stdin, flush=True)
            child = int(runs.stdout.readline())
            while mark() == before and under_way(child):
                time.sleep(0.02)  # until this run, too, has begun to train
            end = time.monotonic() + random_moment.uniform(0.05, 0.5)
            while time.monotonic() < end and under_way(child):
                time.sleep(0.005)
            if under_way(child):
                os.kill(child, signal.SIGKILL)
            kills += int(runs.stdout.readline()) == -signal.SIGKILL
            if (tmp_path / "killed" / "result.json").exists():
                break
    fit(c, pairs, tmp_path / "killed", log_every=1)
    assert kills >= 1
    assert same(tmp_path / "whole", tmp_path / "killed")

    def records(f):
        return [{k: v for k, v in r.items() if k != "seconds"} for r in read_stats(f)]

    assert records(tmp_path / "whole") == records(tmp_path / "killed")


def test_two_trainings_in_one_folder_are_refused(pairs, tmp_path):
    with (
        locked(tmp_path / "t", "a training"),
        pytest.raises(LockedError, match="another process has a training of gan under way"),
    ):
        fit(config(), pairs, tmp_path / "t")


def flip(file, bit):
    "Turn one bit of a file"
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_a_flipped_bit_in_a_checkpoint_is_noticed_wherever_it_is(pairs, tmp_path):
    fit(config(), pairs, tmp_path / "t", stop_at=3)
    file, where = tmp_path / "t" / "checkpoint" / "last.pt", random.Random(0)
    whole = file.read_bytes()
    places = [*range(0, 8 * 200, 53), *(where.randrange(8 * len(whole)) for _ in range(60))]
    for bit in places:
        flip(file, bit)
        with pytest.raises(DamagedCheckpoint, match="last.pt is damaged: remove it"):
            read_checkpoint(tmp_path / "t")
        file.write_bytes(whole)
    for size in (0, 10, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(tmp_path / "t")


def test_a_strangers_checkpoint_runs_nothing_and_is_one_line(pairs, tmp_path):
    "Whoever writes a run folder can write the digest, too"
    fit(config(), pairs, tmp_path / "t", stop_at=3)
    key, iteration, _ = read_checkpoint(tmp_path / "t")

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    for content in (
        pickle.dumps(Trap()),
        pickle.dumps({}),
        b"",
        torch_bytes({}),
        torch_bytes({"generator": 3}),
    ):
        head = {"key": key, "iteration": iteration}
        head["sha256"] = training._checked_by(head, content)
        file = tmp_path / "t" / "checkpoint" / "last.pt"
        file.write_bytes(training._MAGIC + json.dumps(head).encode() + b"\n" + content)
        with pytest.raises(
            QebiasError, match="last.pt is no checkpoint of this training .*: remove it"
        ) as error:
            fit(config(), pairs, tmp_path / "t")
        assert "\n" not in str(error.value) and not (tmp_path / "it ran").exists()


def torch_bytes(value):
    "What torch.save makes of a value"
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def test_a_damaged_checkpoint_is_set_aside_and_the_training_ends_in_the_same_bits(pairs, tmp_path):
    fit(config(iterations=8), pairs, tmp_path / "whole")
    fit(config(iterations=8), pairs, tmp_path / "t", stop_at=5)
    flip(tmp_path / "t" / "checkpoint" / "last.pt", 12_345)
    with pytest.warns(
        UserWarning, match="last.pt is damaged: set aside as damaged.pt, and the training begins"
    ):
        fit(config(iterations=8), pairs, tmp_path / "t")
    assert same(tmp_path / "whole", tmp_path / "t")
    assert (tmp_path / "t" / "checkpoint" / "damaged.pt").exists()


@pytest.mark.parametrize("name", ["generator.safetensors", "discriminator.safetensors", "result.json"])
def test_a_damaged_part_of_a_finished_training_is_noticed_and_healed(pairs, tmp_path, name, monkeypatch):
    c, folder, where = config(iterations=4), tmp_path / "t", random.Random(1)
    first = fit(c, pairs, folder)
    files = ("generator.safetensors", "discriminator.safetensors")
    whole = {n: (folder / n).read_bytes() for n in files}
    assert first["parts"] == {
        n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in whole.items()
    }
    for _ in range(3):
        flip(folder / name, where.randrange(8 * (folder / name).stat().st_size))
        assert finished(folder, first["key"]) is None
        healed = fit(c, pairs, folder)
        assert {n: (folder / n).read_bytes() for n in files} == whole
        assert healed["parts"] == first["parts"] and finished(folder, first["key"])
    (folder / name).unlink()
    monkeypatch.setattr(Trainer, "step", None)  # the last checkpoint is enough
    assert fit(c, pairs, folder)["parts"] == first["parts"]


def test_a_result_says_what_it_was_made_of(pairs, tmp_path):
    c = config(iterations=2)
    pretraining = TrainConfig(
        method="rrdb", stage="fidelity", generator=TINY, iterations=2, batch=2, patch=32
    )
    init = fit(pretraining, pairs, tmp_path / "rrdb")["parts"]["generator.safetensors"]["sha256"]
    file = tmp_path / "rrdb" / "generator.safetensors"
    result = fit(c, pairs, tmp_path / "t", init=file)
    assert result["made_of"] == {"pairs": pairs.key, "init": init}
    assert result["key"] == run_key(c, pairs, init)
    assert {"code", "packages", "device", "threads"} <= set(result["provenance"])


def test_weights_that_are_not_finite_are_never_published(pairs, tmp_path, monkeypatch):
    whole = Trainer.step

    def step(trainer, i, *batch):
        log = whole(trainer, i, *batch)
        if i == 3:  # the last one
            with torch.no_grad():
                trainer.generator.conv_last.bias[0] = float("nan")
                trainer.average.conv_last.bias[0] = float("nan")
        return log

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingFailed, match="conv_last.bias of the generator is not finite"):
        fit(config(iterations=4), pairs, tmp_path / "t")
    left = {p.name for p in (tmp_path / "t").rglob("*")}
    assert not left & {"result.json", "generator.safetensors", "discriminator.safetensors", "last.pt"}


def test_a_half_written_record_is_written_again(pairs, tmp_path):
    fit(config(), pairs, tmp_path / "t", log_every=1, stop_at=3)
    with (tmp_path / "t" / "stats.jsonl").open("a") as f:
        f.write('{"iteration": 3, "gen')
    fit(config(), pairs, tmp_path / "t", log_every=1)
    assert [r["iteration"] for r in read_stats(tmp_path / "t")] == list(range(30))
    for line in (tmp_path / "t" / "stats.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("stop_at", [None, 2], ids=["finished", "under way"])
def test_a_folder_that_holds_another_training_is_refused_and_untouched(pairs, tmp_path, stop_at):
    fit(config(iterations=4), pairs, tmp_path / "t", stop_at=stop_at)
    before = {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()}
    with pytest.raises(QebiasError, match="holds another training .* take another folder, or remove it"):
        fit(config(iterations=4, seed=1), pairs, tmp_path / "t")
    assert {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()} == before


def test_device_threads_processes_and_name_do_not_name_a_training(pairs):
    c = config()
    for more in (dict(device="cuda"), dict(threads=2), dict(processes=2), dict(method="other")):
        assert run_key(config(**more), pairs) == run_key(c, pairs)
    ours = [
        dict(precision="bf16"),
        dict(seed=1),
        dict(weights=LossWeights(recon=1, percept=1, discrim=0.1, divergence=0.2)),
        dict(d_init_iterations=3),
        dict(d_final_iterations=3),
        dict(symmetries="flips"),
        dict(d_schedule=Schedule(lr=1e-3)),
        dict(projection="edges"),
        dict(joint=True),
        dict(usm=True),
    ]
    keys = [run_key(config(**more), pairs) for more in [{}, *ours]] + [run_key(c, pairs, "init")]
    assert len(set(keys)) == len(keys)


def test_the_discriminator_alone_leaves_the_generator(pairs):
    "BasicSR's net_d_init_iters and net_d_iters: in which iterations the generator moves"
    trainer, sampler = (
        Trainer(config(d_init_iterations=3, d_iterations=2)),
        PatchSampler(pairs, 32, 2, seed=0),
    )
    moved = []
    for i in range(10):
        before = [[p.clone() for p in m.parameters()] for m in (trainer.generator, trainer.discriminator)]
        log = trainer.step(i, *to_float(sampler(i), "cpu"))
        g, d = (
            not all(torch.equal(a, b) for a, b in zip(old, m.parameters()))
            for old, m in zip(before, (trainer.generator, trainer.discriminator))
        )
        assert d and g == ("recon" in log)
        moved += [i + 1] if g else []
    assert moved == [n for n in range(1, 11) if n % 2 == 0 and n > 3]


def test_the_generator_may_begin_alone_and_each_schedule_runs_over_its_players_iterations(pairs):
    schedule, its = Schedule(kind="cosine", lr=1e-3, min_lr=0), 20
    c = config(
        g_init_iterations=5, d_init_iterations=3, iterations=its, schedule=schedule, d_schedule=schedule
    )
    trainer, sampler = Trainer(c), PatchSampler(pairs, 32, 2, seed=0)
    players = [players_at(c, i) for i in range(its)]
    both = ("generator", "discriminator")
    assert players == [("generator",)] * 5 + [("discriminator",)] * 3 + [both] * 12
    rates = [rates_at(c, i) for i in range(its)]
    moving = {p: [rates[i][p] for i in range(its) if p in players[i]] for p in both}
    assert moving["generator"] == [learning_rate(schedule, i, 17) for i in range(17)]
    assert moving["discriminator"] == [learning_rate(schedule, i, 15) for i in range(15)]
    logs = []
    for i in range(9):
        before = [p.clone() for p in trainer.discriminator.parameters()]
        logs.append(trainer.step(i, *to_float(sampler(i), "cpu")))
        same = all(torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters()))
        assert same == (i < 5)
    assert {"recon", "percept", "divergence"} <= set(logs[0]) and "discrim" not in logs[0]
    assert "d_real" in logs[5] and "recon" not in logs[5] and {"recon", "discrim", "d_fake"} <= set(logs[8])


@pytest.mark.parametrize("gan, discriminator, joint", [("vanilla", UNET, False), ("relativistic", VGG, True)])
def test_at_last_the_discriminator_answers_the_averaged_generator(pairs, gan, discriminator, joint):
    schedule = Schedule(kind="cosine", lr=1e-3, min_lr=0)
    more = dict(gan=gan, discriminator=discriminator, joint=joint, schedule=schedule, ema=0.9)
    before = config(iterations=6, **more)
    c = config(iterations=10, d_final_iterations=4, **more)
    sampler = PatchSampler(pairs, 32, 2, seed=0)
    short, trainer = Trainer(before), Trainer(c)
    for i in range(6):  # what went before is the training without these steps, to the bit
        batch = to_float(sampler(i), "cpu")
        short.step(i, *batch)
        trainer.step(i, *batch)
    states = [[t.state_dict() for t in (x.generator, x.average, x.discriminator)] for x in (short, trainer)]
    for one, two in zip(*states):
        assert all(torch.equal(one[name], two[name]) for name in one)
    rates = [rates_at(c, i)["discriminator"] for i in range(6, 10)]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 2e-4
    kept = [{n: t.clone() for n, t in x.state_dict().items()} for x in (trainer.generator, trainer.average)]
    answered = []
    trainer.average.register_forward_hook(lambda *_: answered.append("average"))
    trainer.generator.register_forward_hook(lambda *_: answered.append("generator"))
    for i in range(6, 10):
        moved = [p.clone() for p in trainer.discriminator.parameters()]
        log = trainer.step(i, *to_float(sampler(i), "cpu"))
        assert "recon" not in log and {"d_real", "d_fake"} <= set(log)
        assert not all(torch.equal(a, b) for a, b in zip(moved, trainer.discriminator.parameters()))
    assert answered == ["average"] * 4 and trainer.average.training
    for old, network in zip(kept, (trainer.generator, trainer.average)):
        assert all(torch.equal(old[name], now) for name, now in network.state_dict().items())


@pytest.mark.parametrize("gan, discriminator, joint", [("vanilla", UNET, False), ("relativistic", VGG, True)])
def test_compressed_as_a_second_fake(pairs, gan, discriminator, joint):
    batch = to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu")
    more = dict(gan=gan, discriminator=discriminator, joint=joint, conditional=False)
    one, two = (Trainer(config(second_fake=second, **more)) for second in (False, True))
    fakes = [t.step(0, *batch)["d_fake"].item() for t in (one, two)]
    assert fakes[0] != fakes[1]
    if gan == "vanilla":
        d = Trainer(config(**more)).discriminator
        seen = [d(x, batch[1]) for x in (batch[0], Trainer(config(**more)).generator(batch[1]), batch[1])]
        by_hand = sum(torch.nn.functional.softplus(logits).mean() for logits in seen[1:]) / 2
        assert fakes[1] == pytest.approx(by_hand.item(), rel=1e-3)


def test_each_player_has_its_rate(pairs):
    c = config(schedule=Schedule(lr=1e-3, warmup=4), d_schedule=Schedule(lr=1e-2), d_init_iterations=10)
    rates = [rates_at(c, i) for i in (0, 10, 11, 20)]
    assert [r["discriminator"] for r in rates] == [1e-2] * 4
    assert [r["generator"] for r in rates[1:]] == [2.5e-4, 5e-4, 1e-3]


TERM = """
def hinge(given, floor=0.0):
    "Punishes what is darker than compressed, through psi's features too"
    dark = given.mean_of_all((given.compressed - given.enhanced).relu()) - floor
    return dark.relu() + (given.psi["enhanced"]["conv1_2"] - given.psi["raw"]["conv1_2"]).square().mean()
hinge.layers, hinge.domains, hinge.version = ("conv1_2",), ("raw",), 3

def least_squares(given):
    "A GAN of one's own"
    from qebias.losses import GanTerms
    fool = (given.fake - 1).square().mean()
    return GanTerms(fool, (given.real - 1).square().mean(), given.fake.square().mean())
least_squares.gan = "least-squares"
"""


@pytest.fixture
def own_terms(tmp_path, monkeypatch):
    (tmp_path / "own_terms.py").write_text(TERM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    yield Term(name="dark", weight=0.5, function="own_terms:hinge", options={"floor": 0.01})
    sys.modules.pop("own_terms", None)


@pytest.mark.parametrize("stage", ["fidelity", "adversarial"])
def test_a_term_of_ones_own_trains_in_one_process_and_in_two(pairs, tmp_path, own_terms, stage, monkeypatch):
    monkeypatch.setattr(training.subprocess, "Popen", Torchrun)
    plain = config(batch=4, iterations=3)
    if stage == "fidelity":
        plain = TrainConfig(
            method="f", stage="fidelity", generator=TINY, psi="random-w4-s0", batch=4, patch=32, iterations=3
        )
    c = TrainConfig(**plain.model_dump() | {"terms": (*plain.terms, own_terms)})
    assert c.identity()["versions"]["terms"]["dark"] == 3
    logs = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        fit(c.model_copy(update={"processes": processes}), pairs, folder, log_every=1)
        logs.append([(r["dark"], r["generator"]) for r in read_stats(folder)])
    assert logs[0] == [pytest.approx(row, rel=1e-4) for row in logs[1]]
    fit(plain, pairs, tmp_path / "plain")
    assert not all(
        torch.equal(a, b)
        for a, b in zip(
            *(load_state(tmp_path / n / "generator.safetensors").values() for n in ("plain", "1"))
        )
    )


def test_a_gan_of_ones_own_and_its_file(pairs, tmp_path, own_terms):
    usual = config().terms
    own = Term(name="discrim", weight=0.1, function="own_terms:least_squares")
    c = config(terms=(*usual[:-1], own), projection="edges", joint=True, iterations=3)
    fit(c, pairs, tmp_path / "t", log_every=1)
    d = load_discriminator(tmp_path / "t" / "discriminator.safetensors")
    assert (d.gan, d.conditional, d.projection, d.patch) == ("least-squares", True, "edges", 32)
    trainer = Trainer(c)
    for i in range(3):
        trainer.step(i, *to_float(PatchSampler(pairs, 32, 2, seed=0)(i), "cpu"))
    raw, compressed = torch.rand(2, 1, 3, 32, 32)
    torch.testing.assert_close(
        d(raw, compressed), trainer.discriminator.eval()(raw, compressed), rtol=1e-4, atol=1e-5
    )


def test_sharpened_targets_are_for_pixels_and_features_and_the_discriminator_sees_raw(pairs):
    batch = to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu")
    logs = [Trainer(config(usm=usm)).step(0, *batch) for usm in (False, True)]
    for name in ("recon", "percept"):
        assert logs[0][name] != logs[1][name]
    for name in ("divergence", "d_cr", "discrim", "d_real", "out_real"):
        assert logs[0][name].item() == pytest.approx(logs[1][name].item(), rel=1e-5)


def test_a_generator_of_another_architecture_is_refused(pairs, tmp_path):
    fidelity = TrainConfig(
        method="rrdb",
        stage="fidelity",
        generator={**TINY, "kwargs": {"width": 16, "blocks": 1, "growth": 4}},
        iterations=1,
        batch=1,
        patch=32,
    )
    fit(fidelity, pairs, tmp_path / "wide")
    with pytest.raises(QebiasError, match="conv_first.weight has shape"):
        fit(config(), pairs, tmp_path / "t", init=tmp_path / "wide" / "generator.safetensors")


def test_a_patch_larger_than_an_image_is_refused_by_name(pairs, tmp_path):
    with pytest.raises(QebiasError, match="a patch of 64 is larger than the shorter side"):
        fit(config(patch=64), pairs, tmp_path / "t")


def test_the_discriminator_is_the_baselines_own(pairs):
    "The four variants start from the same generator; the condition widens the first layer and nothing else"
    plain, conditional = Trainer(config(conditional=False)), Trainer(config())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.generator.parameters(), conditional.generator.parameters())
    )
    shapes = [{n: p.shape for n, p in t.discriminator.named_parameters()} for t in (plain, conditional)]
    assert {n for n in shapes[0] if shapes[0][n] != shapes[1][n]} == {"network.conv0.weight"}


def test_bf16_is_close_to_fp32_and_keeps_fp32_weights(pairs):
    batch = to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu")
    logs = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(config(precision=precision))
        logs[precision] = trainer.step(0, *batch)
        assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())
    for name in ("recon", "percept", "discrim", "d_real", "d_fake"):
        assert logs["bf16"][name] == pytest.approx(logs["fp32"][name].item(), rel=0.03), name


def test_an_inactive_hinge_leaves_a_step_unchanged(pairs):
    "Where the enhanced patch is farther from compressed than raw is, Eq. 6 is zero and +div is the baseline"
    raw = compressed = torch.rand(
        2, 3, 32, 32, generator=torch.Generator().manual_seed(0)
    )  # nothing lost: any change is farther
    trainers = [
        Trainer(config(weights=LossWeights(recon=1, percept=1, discrim=0.1, divergence=d)))
        for d in (0.0, 0.1)
    ]
    logs = [t.step(0, raw, compressed) for t in trainers]
    assert logs[1]["divergence"] == 0 and logs[1]["d_ce"] > logs[1]["d_cr"] == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(trainers[0].generator.parameters(), trainers[1].generator.parameters())
    )


def test_an_active_hinge_moves_a_step(pairs):
    batch = to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu")
    generator = {
        "class": "qebias.generators.arcnn:ARCNN",
        "kwargs": {},
    }  # starts near its input, so the hinge is active
    trainers = [
        Trainer(
            config(generator=generator, weights=LossWeights(recon=1, percept=1, discrim=0.1, divergence=d))
        )
        for d in (0.0, 0.1)
    ]
    logs = [t.step(0, *batch) for t in trainers]
    assert logs[1]["divergence"] > 0
    assert not all(
        torch.equal(a, b)
        for a, b in zip(trainers[0].generator.parameters(), trainers[1].generator.parameters())
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_agrees_with_the_cpu(pairs):
    batch = PatchSampler(pairs, 32, 2, seed=0)(0)
    logs = [Trainer(config(device=d)).step(0, *to_float(batch, d)) for d in ("cpu", "cuda")]
    for name in ("recon", "percept", "discrim"):
        assert logs[1][name].item() == pytest.approx(logs[0][name].item(), rel=1e-3), name


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on the CPU: keep the operations of a step and their tensors, and do them again
    at the same addresses"""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "local_scalar_dense" not in str(func) and "nonzero" not in str(func), (
            f"{func} asks the device for a value"
        )
        out = func(*args, **kwargs or {})
        self.done.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.done:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs))):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapedStep(StepGraph):
    "A recording that leaves no trace, as one of the GPU does not run what it records"

    recorded = 0

    def new_stream(self):
        return None

    def record(self):
        def tensors(x):
            return [
                t
                for t in tree_leaves([part.state_dict() for part in x.trainer.parts().values()])
                if isinstance(t, torch.Tensor)
            ]

        before, tape = [t.clone() for t in tensors(self)], Tape()
        with tape:
            log = self.trainer.move(*self.patches)
        for t, old in zip(tensors(self), before):
            t.copy_(old)
        self.recorded += 1
        return tape.replay, log

    def aside(self, patches, step=None):
        return (step or self.trainer.move)(*patches)


@pytest.mark.parametrize(
    "more",
    [
        dict(
            stage="fidelity",
            discriminator=None,
            conditional=False,
            weights=LossWeights(recon=1, percept=0, discrim=0, divergence=0),
        ),
        dict(),
        dict(gan="relativistic", discriminator=VGG, divergence=Divergence(blocks=(2,), reduction="batch")),
        dict(precision="bf16"),
        dict(d_init_iterations=1, d_schedule=Schedule(lr=1e-2), usm=True, projection="edges"),
        dict(terms="own"),
    ],
    ids=["fidelity", "unet", "vgg", "bf16", "ahead", "own"],
)
def test_a_recorded_step_is_the_step(pairs, monkeypatch, more, own_terms):
    if more.get("terms") == "own":
        more = {"terms": (*config().terms, own_terms)}
    monkeypatch.setattr("qebias.training.StepGraph", TapedStep)
    c, sampler = (
        config(schedule=Schedule(kind="cosine", lr=1e-3), iterations=8, **more),
        PatchSampler(pairs, 32, 2, seed=0),
    )
    recorded, alone = Trainer(c, graph=True), Trainer(c, graph=True)
    alone.graph.alone = 100
    logs = [[t.step(i, *to_float(sampler(i), "cpu")) for i in range(7)] for t in (recorded, alone)]
    assert recorded.graph.replay and not alone.graph.replay
    for a, b in zip(*logs):
        assert {k: float(v) for k, v in a.items()} == {k: float(v) for k, v in b.items()}
    for a, b in zip(recorded.parts().values(), alone.parts().values()):
        for x, y in zip(tree_leaves(a.state_dict()), tree_leaves(b.state_dict())):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    # one patch instead of two is taken as it is, and the recording goes on afterwards
    few = PatchSampler(pairs, 32, 1, seed=0)
    for t in (recorded, alone):
        t.step(7, *to_float(few(7), "cpu")), t.step(7, *to_float(sampler(7), "cpu"))
    assert all(
        torch.equal(x, y) for x, y in zip(recorded.generator.parameters(), alone.generator.parameters())
    )


def test_a_recording_does_not_outlive_the_tensors_that_it_knows(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("qebias.training.StepGraph", TapedStep)
    sampler, trainers = PatchSampler(pairs, 32, 2, seed=0), [Trainer(config(), graph=True) for _ in range(2)]
    trainers[1].graph.alone = 100

    def go(steps):
        for i in steps:
            for t in trainers:
                t.step(i, *to_float(sampler(i), "cpu"))

    go(range(6))
    for k, t in enumerate(trainers):
        save_checkpoint(tmp_path / str(k), "key", 6, t)
    go(range(6, 9))
    assert [load_checkpoint(tmp_path / str(k), "key", t) for k, t in enumerate(trainers)] == [
        6,
        6,
    ] and not trainers[0].graph.replay
    go(range(6, 12))
    assert trainers[0].graph.recorded == 2
    a, b = (tree_leaves([part.state_dict() for part in t.parts().values()]) for t in trainers)
    assert all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, torch.Tensor))


def test_an_odd_batch_is_not_what_is_recorded(pairs, monkeypatch):
    monkeypatch.setattr("qebias.training.StepGraph", TapedStep)
    trainer, usual, odd = Trainer(config(), graph=True), *(PatchSampler(pairs, 32, n, seed=0) for n in (2, 1))
    for i, sampler in enumerate([usual, usual, usual, odd, usual, usual]):
        trainer.step(i, *to_float(sampler(i), "cpu"))
    assert trainer.graph.recorded == 1 and trainer.graph.patches[0].shape[0] == 2


def test_a_recorded_training_leaves_the_memory_with_its_last_name(pairs, monkeypatch):
    monkeypatch.setattr("qebias.training.StepGraph", TapedStep)
    trainer, sampler = Trainer(config(), graph=True), PatchSampler(pairs, 32, 2, seed=0)
    for i in range(2):
        trainer.step(i, *to_float(sampler(i), "cpu"))
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def test_what_refused_a_recording_is_named_and_the_stream_is_left(pairs, monkeypatch):
    """torch ends a recording that failed by an error of its own, and stays on the recording's stream"""
    on = ["ours"]

    @contextlib.contextmanager
    def graph(graph, stream, capture_error_mode):
        on.append("recording")
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    for name, value in {
        "CUDAGraph": object,
        "graph": graph,
        "device": lambda d: contextlib.nullcontext(),
        "current_stream": lambda d: on[-1],
        "set_stream": on.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(StepGraph, "new_stream", lambda self: None)
    monkeypatch.setattr(StepGraph, "aside", lambda self, patches, step=None: self.trainer.move(*patches))
    trainer, sampler = Trainer(config(), graph=True), PatchSampler(pairs, 32, 2, seed=0)
    for i in range(3):
        trainer.step(i, *to_float(sampler(i), "cpu"))
    whole, trainer.move = (
        trainer.move,
        lambda *patches: (_ for _ in ()).throw(RuntimeError("CUDA error: the real reason\nand more")),
    )
    with (
        pytest.warns(UserWarning, match="one operation at a time: CUDA error: the real reason$"),
        pytest.raises(RuntimeError, match="the real reason"),
    ):
        trainer.step(3, *to_float(sampler(3), "cpu"))
    assert on == ["ours", "recording", "ours"]
    trainer.move = whole
    for i in range(3, 6):
        trainer.step(i, *to_float(sampler(i), "cpu"))
    assert on == ["ours", "recording", "ours"], "it is tried once"


def test_a_step_computes_without_tf32(pairs, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def arithmetic(device, precision="fp32"):
        seen.append((device.type, precision))
        yield

    monkeypatch.setattr("qebias.training.arithmetic", arithmetic)
    Trainer(config(precision="bf16")).step(0, *to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu"))
    assert seen == [("cpu", "fp32")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_computes_without_tf32(pairs):
    trainer, seen = Trainer(config(device="cuda")), []
    trainer.generator.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    trainer.step(0, *to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cuda"))
    assert seen == [False]


def test_a_step_that_cannot_be_recorded_goes_on_without(pairs, monkeypatch):
    class Refused(TapedStep):
        def record(self):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr("qebias.training.StepGraph", Refused)
    sampler, trainers = PatchSampler(pairs, 32, 2, seed=0), [Trainer(config(), graph=True) for _ in range(2)]
    trainers[1].graph.alone = 100
    with pytest.warns(
        UserWarning,
        match="cannot be recorded as a CUDA graph, and is taken one operation at a time: "
        "CUDA error: operation not permitted when stream is capturing$",
    ):
        for i in range(6):
            for t in trainers:
                t.step(i, *to_float(sampler(i), "cpu"))
    assert all(torch.equal(x, y) for x, y in zip(*(t.generator.parameters() for t in trainers)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_on_the_gpu_follows_the_step(pairs, precision):
    sampler, trainers = (
        PatchSampler(pairs, 32, 2, seed=0),
        [Trainer(config(device="cuda", precision=precision), graph=g) for g in (True, False)],
    )
    logs = [[t.step(i, *to_float(sampler(i), "cuda")) for i in range(10)] for t in trainers]
    assert trainers[0].graph.replay
    for a, b in zip(*logs):
        for name in ("recon", "percept", "discrim", "d_real", "d_fake"):
            assert a[name].item() == pytest.approx(b[name].item(), rel=1e-2), name


@pytest.mark.parametrize("gan, reduction", [("vanilla", "sample"), ("relativistic", "batch")])
def test_two_processes_train_as_one_with_the_same_batch(pairs, tmp_path, gan, reduction, monkeypatch):
    """Spectral normalisation, both hinges and the relativistic mean; batch normalisation is the exception
    that the notebook tells of"""
    c = config(gan=gan, divergence=Divergence(blocks=(2,), reduction=reduction), batch=4, iterations=6)
    fit(c, pairs, tmp_path / "one", log_every=1)
    if gan == "vanilla":
        monkeypatch.setattr(training.subprocess, "Popen", Torchrun)
    said = []
    result = fit(
        c.model_copy(update={"processes": 2}),
        pairs,
        tmp_path / "two",
        log_every=1,
        progress=lambda i, record: said.append(i),
    )
    assert result["provenance"]["processes"] == 2 and said == sorted(said)
    two = tmp_path / "two"
    told = training.job_of(c.model_copy(update={"processes": 2}), pairs, two, None, log_every=1)
    written = read_json(two / "job.json")
    assert written["config"] == json.loads(told["config"].model_dump_json())
    assert written.keys() == told.keys() and written["folder"] == str(two.resolve())

    def terms(
        r,
    ):  # the level of both outputs together means nothing to a relativistic discriminator, and drifts
        return {
            k: v
            for k, v in r.items()
            if k in ("generator", "recon", "percept", "divergence", "discrim", "d_real", "d_fake")
        } | {"gap": r["out_real"] - r["out_fake"]}

    one, two = ([terms(r) for r in read_stats(tmp_path / n)] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=2e-5, abs=1e-6)
    for name in ("generator", "discriminator"):
        a, b = (
            torch.cat([t.flatten() for t in load_state(tmp_path / n / f"{name}.safetensors").values()])
            for n in ("one", "two")
        )
        assert (a - b).norm() < 1e-4 * b.norm()


PAIR = """
import os, sys, traceback
import torch, qebias.training   # once for both, which torchrun would not do
os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
code = 1
try:
    exec(compile(sys.argv[2], "<both>", "exec"), {"__name__": "__main__"})
    code = 0
except BaseException:
    traceback.print_exc()
if other:
    if code:
        os.kill(other, 9)   # it would wait for this one
    code = code or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
sys.stderr.flush()
os._exit(code)   # as `main` ends
"""


def command_of_two(source):
    "Both ranks of a script, forked from one process that has imported torch"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [sys.executable, "-c", PAIR, port, source]


def in_two_processes(source):
    "What both ranks of a script said, and the exit code"
    return subprocess.run(command_of_two(source), capture_output=True, text=True, timeout=120)


TORCHRUN = "torch.distributed.run --standalone --nproc-per-node 2 -m qebias.training"


class Torchrun(subprocess.Popen):
    """In the place of torchrun, the two ranks of a training as forks of one process

    torchrun imports torch in itself and once more in each rank. It starts the relativistic training, and the
    ranks of which one fails or whose parent ends."""

    def __init__(self, command, **more):
        if "torch.distributed.run" in command:
            *known, job = command[2:]
            assert known == TORCHRUN.split()
            source = f"from qebias.training import main\nmain([{job!r}])"
            command = command_of_two(source)
        super().__init__(command, **more)


MEANS = """
import os, sys, torch, torch.distributed as dist
from qebias.losses import domain_divergence, relativistic_gan
from qebias.training import average_in_place, mean_of_all, world
dist.init_process_group("gloo")
rank, processes = world()
torch.manual_seed(0)
slope = torch.tensor([.7, 1.3], dtype=torch.float64, requires_grad=True)
raw = torch.tensor([[.2, .5, .1, .4, 2.5, 3., 1.5, 2.2]], dtype=torch.float64).T
enhanced = torch.tensor([[1., .5, .8, 1.2, -.3, .9, -.1, .6]], dtype=torch.float64).T
def terms(mean, part):
    r, e = slope[0] * raw[part], slope[1] * enhanced[part]
    # the last is shut on the first half alone, open over all
    return [*relativistic_gan(r, e, mean), domain_divergence(raw[part], 0 * raw[part], e, "batch", mean)]
mine = slice(4 * rank, 4 * rank + 4)
for k in range(4):
    whole, = torch.autograd.grad(terms(torch.mean, slice(8))[k], slope)
    shared, = torch.autograd.grad(terms(mean_of_all, mine)[k], slope)
    local, = torch.autograd.grad(terms(torch.mean, mine)[k], slope)
    for g in (shared, local): average_in_place([g])
    assert torch.allclose(shared, whole, rtol=1e-12, atol=0), (k, shared, whole)
    assert not torch.allclose(local, whole, rtol=1e-3), k
dist.barrier()
dist.destroy_process_group()
"""


def test_a_mean_over_processes_has_the_gradient_of_the_whole_batch():
    found = in_two_processes(MEANS)
    assert found.returncode == 0, found.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_stopped(pairs, tmp_path):
    c = config(
        gan="relativistic", discriminator=VGG, processes=2, iterations=8
    )  # batch normalisation: running statistics are shared
    fit(c, pairs, tmp_path / "whole", log_every=1)
    assert fit(c, pairs, tmp_path / "parts", log_every=1, stop_at=3) is None
    fit(c, pairs, tmp_path / "parts", log_every=1)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_what_goes_wrong_in_another_process_is_said_once(pairs, tmp_path):
    with (
        locked(tmp_path / "held"),
        pytest.raises(QebiasError, match="another process has a training of gan under way"),
    ):
        fit(config(processes=2), pairs, tmp_path / "held")
    job = tmp_path / "job.json"  # as `launch` writes it, which another test reads
    c = config(processes=2, iterations=2)
    write_json(job, training.job_of(c, pairs, tmp_path / "done", None, log_every=1, save_every=30.0))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "1",
        "-m",
        "qebias.training",
        str(job),
    ]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode and "torchrun started 1, and the configuration says processes=2" in found.stderr
    with pytest.raises(SystemExit, match="^usage: torchrun"):
        training.main([str(job)])


DIES = """
from torch import nn
class Dies(nn.Module):
    def __init__(self): super().__init__(); self.scale = nn.Parameter(__import__("torch").ones(()))
    def forward(self, x): raise RuntimeError("CUDA out of memory: tried to allocate 2 GiB")
"""


def test_an_error_of_another_process_is_told_as_it_was(pairs, tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QebiasError, match="^RuntimeError: CUDA out of memory: tried to allocate 2 GiB$"):
        fit(
            config(generator={"class": "dies:Dies", "kwargs": {}}, processes=2, iterations=2),
            pairs,
            tmp_path / "d",
        )


@pytest.mark.parametrize(
    "device, words", [("cuda:77", "device cuda:77 is not there"), ("cudda", "device 'cudda' is not known")]
)
def test_a_device_that_is_not_there_is_one_line(pairs, tmp_path, device, words):
    with pytest.raises(QebiasError, match=words):
        fit(config(device=device), pairs, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_training_can_be_stopped_before_it_begins(pairs, tmp_path):
    assert fit(config(iterations=2), pairs, tmp_path / "d", stop_at=0) is None and not read_stats(
        tmp_path / "d"
    )
    assert fit(config(iterations=2), pairs, tmp_path / "d")["iterations"] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(pairs, tmp_path):
    fit(config(), pairs, tmp_path / "t", stop_at=3)
    (tmp_path / "t" / "checkpoint" / "last.pt").chmod(0)
    with pytest.raises(QebiasError, match="cannot be read: Permission denied"):
        fit(config(), pairs, tmp_path / "t")


def test_a_checkpoint_for_which_there_is_no_memory_is_not_called_damaged(pairs, tmp_path, monkeypatch):
    fit(config(), pairs, tmp_path / "t", stop_at=3)

    def load(*args, **more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(torch.OutOfMemoryError):
        fit(config(), pairs, tmp_path / "t")
    assert (tmp_path / "t" / "checkpoint" / "last.pt").exists()


@pytest.mark.parametrize(
    "more", [dict(lr=float("inf")), dict(min_lr=float("nan")), dict(milestones=(0.1, 5.0))]
)
def test_an_impossible_schedule_is_refused(more):
    with pytest.raises(ValueError):
        Schedule(**more)
    with pytest.raises(ValueError):
        config(betas=(1.5, 0.9))


def test_processes_end_with_the_one_that_asked_for_them(pairs, tmp_path):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN,
            config(processes=2, iterations=10**6).model_dump_json(),
            str(pairs.folder),
            str(tmp_path / "d"),
        ]
    )
    stats = tmp_path / "d" / "stats.jsonl"
    end = time.monotonic() + 120
    while not read_stats(tmp_path / "d") and time.monotonic() < end:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while time.monotonic() < end:
        before = stats.stat().st_size
        time.sleep(2)
        if stats.stat().st_size == before:
            break
    assert stats.stat().st_size == before
    with locked(tmp_path / "d"):
        pass


OWN = """
import numpy as np, random, torch
from torch import nn
from torch.nn import functional as F
class Own(nn.Module):
    "A fixed kernel from numpy, and a parameter that does not learn"
    def __init__(self, **more):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("kernel", torch.from_numpy(np.ones((3, 1, 3, 3), np.float32)/9))
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
    def forward(self, x): return x + self.scale*self.conv(F.conv2d(x, self.kernel, padding=1, groups=3))
class Small(Own):
    def forward(self, x): return F.max_pool2d(x, 2)
class Counts(Own):
    recordable = False
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: {"class": f"own_nets:{name}", "kwargs": {}}
    sys.modules.pop("own_nets", None)


def test_a_network_with_a_kernel_from_numpy_and_a_frozen_parameter_trains_and_is_saved(pairs, tmp_path, own):
    fit(config(generator=own("Own"), iterations=2), pairs, tmp_path / "d")
    state = load_state(tmp_path / "d" / "generator.safetensors")
    assert state["scale"] == 1 and state["kernel"].shape == (3, 1, 3, 3)


def test_what_is_impossible_is_refused_before_anything_is_written(pairs, tmp_path, own):
    for more, words in (
        (dict(patch=999), "a patch of 999 is larger"),
        (dict(patch=30), "30"),
        (dict(generator=own("Small")), "keeps the shape"),
        (dict(discriminator={**VGG, "kwargs": {"width": 8, "size": 64}}), "32|64"),
        (dict(usm=True, patch=24), "24 x 24 is too small to be sharpened"),
    ):
        with pytest.raises(QebiasError, match=words):
            fit(config(**more), pairs, tmp_path / "d")
    with pytest.raises(QebiasError, match="log_every is 0"):
        fit(config(), pairs, tmp_path / "d", log_every=0)
    assert not [p for p in (tmp_path / "d").rglob("*") if p.is_file() and p.stat().st_size]


def test_a_probe_leaves_no_trace(pairs):
    one, other = (Trainer(config(gan="relativistic", discriminator=VGG)) for _ in range(2))
    state = torch.get_rng_state()
    probe(one)
    assert torch.equal(torch.get_rng_state(), state) and all(
        m.training for part in (one.generator, one.discriminator) for m in part.modules()
    )
    batch = to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu")
    for t in (one, other):
        t.step(0, *batch)
    assert all(
        torch.equal(x, y)
        for a, b in zip(one.parts().values(), other.parts().values())
        for x, y in zip(tree_leaves(a.state_dict()), tree_leaves(b.state_dict()))
        if isinstance(x, torch.Tensor)
    )


def test_a_step_is_recorded_on_a_gpu_only():
    assert Trainer(config()).graph is None
    with pytest.raises(QebiasError, match="recorded on a GPU only, not on cpu"):
        Trainer(config(), graph=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_says_that_it_cannot_be_recorded(own):
    assert (
        Trainer(config(device="cuda"), graph=True).graph
        and Trainer(config(device="cuda", generator=own("Counts")), graph=True).graph is None
    )


def test_a_killed_training_leaves_no_unfinished_checkpoint(pairs, tmp_path):
    fit(config(iterations=4), pairs, tmp_path / "d", stop_at=2)
    litter = tmp_path / "d" / "checkpoint" / ".qebias-unfinished-last-abcd1234.pt"
    litter.write_bytes(b"half")
    fit(config(iterations=4), pairs, tmp_path / "d")
    assert not litter.exists()


def test_a_training_whose_records_are_gone_still_ends(pairs, tmp_path):
    fit(config(iterations=2), pairs, tmp_path / "d")
    for name in ("stats.jsonl", "result.json"):
        (tmp_path / "d" / name).unlink()
    assert fit(config(iterations=2), pairs, tmp_path / "d")["last"] == {}


def moved(module, device, memory_format=None):
    "`module.to(device)` for tensors without content, which torch itself does not move"
    for m in module.modules():
        for n, p in m._parameters.items():
            if p is not None:
                m._parameters[n] = torch.nn.Parameter(p.detach().to(device), requires_grad=p.requires_grad)
        for n, b in m._buffers.items():
            if b is not None:
                m._buffers[n] = b.to(device)
    return module


NETWORKS = list(dict.fromkeys(m.network for m in METHODS.values()))


@pytest.mark.parametrize(
    "more",
    [
        dict(),
        dict(discriminator=VGG, gan="relativistic", divergence=Divergence(blocks=(1, 2), reduction="batch")),
        dict(recon="charbonnier"),
        *(
            dict(
                stage="fidelity",
                discriminator=None,
                conditional=False,
                weights=LossWeights(recon=1, percept=0, discrim=0, divergence=0),
                generator={"class": path, "kwargs": {}},
            )
            for path in NETWORKS
        ),
    ],
    ids=["unet", "vgg", "charbonnier", *(path.rpartition(":")[2] for path in NETWORKS)],
)
def test_a_step_on_an_imagined_gpu_makes_nothing_elsewhere_and_asks_for_no_value(monkeypatch, more):
    """Tensors of a GPU that is not there: mixing devices fails, and so does whatever needs a number; all but
    the gradients, which need a driver"""
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(torch.Tensor, "backward", lambda *args, **more: None)
    c = config(device="cuda:0", **more)
    if c.layers:
        Psi(c.layers, c.psi)  # its weights are remembered: not those without content
    with FakeTensorMode(allow_non_fake_inputs=True):
        trainer = Trainer(c, graph=False)
        raw = torch.rand(2, 3, 32, 32, device="cuda:0")
        log = trainer.move(raw, raw.clone())
    assert all(
        value.device == torch.device("cuda:0") and value.dtype == torch.float32 for value in log.values()
    )


# ---- what is made for a GPU, as far as a CPU can show it


def test_tf32_is_a_precision_of_a_gpu():
    with pytest.raises(ValueError, match="precision tf32 is a GPU's: cpu has none"):
        config(precision="tf32")
    on_gpu, plain = config(precision="tf32", device="cuda"), config(device="cuda")
    assert on_gpu.identity() == plain.identity() | {"precision": "tf32"}
    assert plain.identity() == config().identity() and "precision" not in plain.identity()


def test_a_profile_takes_tf32_on_a_gpu_only():
    from qebias.study.profile import check_profile

    values = {"name": "x", "methods": ["rrdb"], "precision": "tf32"}
    with pytest.raises(QebiasError, match="precision: tf32 is a GPU's, and device is cpu"):
        check_profile(values)
    with pytest.raises(QebiasError, match="training.rrdb.precision: tf32 is a GPU's"):
        check_profile(values | {"precision": "fp32", "training": {"rrdb": {"precision": "tf32"}}})
    assert check_profile(values | {"device": "cuda"}).precision == "tf32"


@pytest.fixture
def users_tf32():
    from qebias.generators.core import fp32_operations, round_as

    before = [operation.fp32_precision for operation in fp32_operations()]
    torch.backends.fp32_precision = "tf32"
    yield
    torch.backends.fp32_precision = "none"
    round_as(fp32_operations(), before)  # with cudnn's own gone, torch's old flag raises for whoever asks


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9")
def test_who_sets_tf32_by_torchs_new_name_gets_fp32_where_it_is_promised(users_tf32, pairs):
    from qebias import metrics
    from qebias.generators.core import arithmetic, fp32_operations

    def said():
        return {operation.fp32_precision for operation in fp32_operations()}

    assert said() == {"tf32"}
    with arithmetic("cpu"):
        assert said() == {"ieee"}
        with arithmetic("cpu"):
            assert said() == {"ieee"}
        assert said() == {"ieee"}
    assert said() == {"tf32"}
    with metrics._exactly():
        assert said() == {"ieee"}
    assert said() == {"tf32"}
    raw, compressed = pairs.raw(0), pairs.compressed(0)
    found = metrics.metric("nlpd")(compressed, raw)
    torch.backends.fp32_precision = "none"
    assert found == metrics.metric("nlpd")(compressed, raw)


def test_a_step_asks_for_the_arithmetic_of_its_configuration(pairs, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def arithmetic(device, precision="fp32"):
        seen.append(precision)
        yield

    monkeypatch.setattr("qebias.training.arithmetic", arithmetic)
    trainer = Trainer(config())
    trainer.config = trainer.config.model_copy(update={"precision": "tf32"})
    trainer.step(0, *to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cpu"))
    assert seen == ["tf32"]


def test_a_first_replay_that_leads_elsewhere_is_dropped(pairs, monkeypatch):
    class Stale(TapedStep):
        "Replays with the learning rate of the recording, doubled"

        def replayed(self, patches):
            log = super().replayed(patches)
            with torch.no_grad():
                for p in self.trainer.generator.parameters():
                    p.add_(1e-3)
            return log

    monkeypatch.setattr("qebias.training.StepGraph", Stale)
    sampler, trainers = PatchSampler(pairs, 32, 2, seed=0), [Trainer(config(), graph=True) for _ in range(2)]
    trainers[1].graph.alone = 100
    with pytest.warns(UserWarning, match="the recorded step leads the generator elsewhere than a plain one"):
        for i in range(6):
            for t in trainers:
                t.step(i, *to_float(sampler(i), "cpu"))
    assert trainers[0].graph.replay is None
    a, b = (tree_leaves([part.state_dict() for part in t.parts().values()]) for t in trainers)
    assert all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, torch.Tensor))


def test_a_checkpoint_is_written_beside_the_training(pairs, tmp_path, monkeypatch):
    "The thread holds what was there when it was asked, though the training has gone on"
    import threading

    from qebias import training

    trainer, sampler = Trainer(config()), PatchSampler(pairs, 32, 2, seed=0)
    go_on, write = threading.Event(), training.write_checkpoint

    def slow(*args):
        assert go_on.wait(30) and threading.current_thread() is not threading.main_thread()
        write(*args)

    monkeypatch.setattr("qebias.training.write_checkpoint", slow)
    writer = training.CheckpointWriter(tmp_path, "key", trainer.config)
    before = training.copied_state(trainer)
    writer.save(1, trainer)
    trainer.step(0, *to_float(sampler(0), "cpu"))
    assert not writer.ready()
    go_on.set()
    writer.wait()
    writer.close()
    again = Trainer(config())
    assert load_checkpoint(tmp_path, "key", again) == 1
    now = tree_leaves({name: part.state_dict() for name, part in again.parts().items()})
    assert all(torch.equal(x, y) for x, y in zip(tree_leaves(before), now) if isinstance(x, torch.Tensor))
    assert not torch.equal(next(trainer.generator.parameters()), next(again.generator.parameters()))


def test_what_goes_wrong_in_the_thread_ends_the_training(pairs, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qebias.training.write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        fit(config(iterations=6), pairs, tmp_path / "d", save_every=1e-9)
    assert not (tmp_path / "d" / "result.json").exists()


def test_who_watches_a_training_reads_each_record_once(tmp_path):
    from qebias.training import NewRecords

    path = tmp_path / "stats.jsonl"
    news = NewRecords(path)
    assert news.read() == []
    path.write_text('{"iteration": 0}\n{"iteration": 1}\n{"itera')
    assert [r["iteration"] for r in news.read()] == [0, 1] and news.read() == []
    with path.open("a") as file:
        file.write('tion": 2}\n')
    assert news.read() == [{"iteration": 2}]
    with path.open("a") as file:
        file.write('no record\n[1]\n{"iteration": 3}\n')
    assert news.read() == [{"iteration": 3}]
    other = tmp_path / "other"
    other.write_text('{"iteration": 0}\n')
    other.replace(path)
    assert news.read() == [{"iteration": 0}]


BUCKETS = """
import os, torch, torch.distributed as dist
from torch import nn
from qebias.training import SharedGradients, average_in_place
dist.init_process_group("gloo")
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
unused = nn.Parameter(torch.ones(3))
parameters = [*net.parameters(), unused]
x = torch.rand(4, 8, generator=torch.Generator().manual_seed(dist.get_rank()))
net(x).mean().backward(inputs=parameters[:-1])
own = [p.grad.clone() for p in net.parameters()]
average_in_place(own)
shared = SharedGradients(parameters, size=300)
assert len(shared.buckets) > 2
for _ in range(2):
    for p in parameters:
        p.grad = None
    unused.grad = torch.zeros(3)   # a gradient that no backward pass announces
    shared.waits[0] -= 1
    net(x).mean().backward(inputs=parameters[:-1])
    assert len(shared.under_way) >= len(shared.buckets) - 1, "sent while the backward pass went on"
    shared.finish()
    assert all(torch.equal(p.grad, mean) for p, mean in zip(net.parameters(), own))
dist.barrier()
dist.destroy_process_group()
"""


def test_gradients_are_sent_in_buckets_while_the_backward_pass_goes_on():
    found = in_two_processes(BUCKETS)
    assert found.returncode == 0, found.stderr[-2000:]


def test_sigma_is_computed_outside_of_autocast(monkeypatch):
    from qebias.discriminators import UNetSN

    seen, mv = [], torch.mv

    def watched(matrix, vector):
        seen.append((torch.is_autocast_enabled("cpu"), matrix.dtype))
        return mv(matrix, vector)

    monkeypatch.setattr(torch, "mv", watched)
    with torch.autocast("cpu", torch.bfloat16):
        UNetSN(width=4)(torch.rand(1, 3, 16, 16))
    assert seen and set(seen) == {(False, torch.float32)}


def test_psi_is_rounded_once():
    psi, x = Psi(("conv1_2",), "random-w8-s0"), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = psi(x)["conv1_2"]
        y = ((x - psi.mean) / psi.std).contiguous(memory_format=torch.channels_last)
        y = torch.nn.functional.conv2d(y, psi.conv1_1_weight, psi.conv1_1_bias, padding=1).relu()
        assert torch.equal(
            found, torch.nn.functional.conv2d(y, psi.conv1_2_weight, psi.conv1_2_bias, padding=1)
        )
        kept = psi.in_precision(torch.bfloat16)[0][0]
        psi(x)
        assert psi.in_precision(torch.bfloat16)[0][0] is kept
        psi.conv1_2_weight.mul_(2)
        assert not torch.equal(psi(x)["conv1_2"], found)


def test_several_trainings_on_one_gpu(tmp_path):
    from qebias.study.keys import Study
    from qebias.study.profile import check_profile
    from qebias.study.runner import snakemake_command

    values = {"name": "x", "methods": ["rrdb"], "device": "cuda", "processes": 2, "gpu_jobs": 3}
    command = snakemake_command(Study(check_profile(values), tmp_path), [], 2)
    assert "gpu=6" in command


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_computes_in_tf32_where_it_is_asked_for(pairs):
    trainer, seen = Trainer(config(device="cuda", precision="tf32")), []
    trainer.generator.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.conv.fp32_precision))
    trainer.step(0, *to_float(PatchSampler(pairs, 32, 2, seed=0)(0), "cuda"))
    assert seen == ["tf32"]


PARTS = """
import torch
from torch import nn

def a_map(given): return given.enhanced
def a_number(given): return 1.0
def nothing(given): return given.raw.mean()

class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout2d(), nn.Conv2d(4, 3, 1))
    def forward(self, x):
        return x + self.body(x)
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_parts"
    sys.modules.pop("own_parts", None)


@pytest.mark.parametrize(
    "term, words",
    [
        ("a_map", r"term 'r' gave a torch.float32 of shape \(2, 3, 32, 32\): a loss is one number"),
        ("a_number", "term 'r' gave a float: a loss is one number"),
        ("nothing", "no term of the loss has a gradient"),
    ],
)
def test_a_term_of_one_s_own_that_gives_no_loss_is_named(pairs, tmp_path, parts, term, words):
    terms = (Term(name="r", function=f"{parts}:{term}"),)
    settings = dict(stage="fidelity", discriminator=None, conditional=False, terms=terms)
    with pytest.raises(QebiasError, match=words):
        fit(config(**settings), pairs, tmp_path / "t")


def test_what_a_network_of_one_s_own_draws_is_repeated_and_resumed(pairs, tmp_path, parts):
    "Dropout drew from whatever state the process was in: no training was like another, nor a resumed one"
    settings = dict(stage="fidelity", discriminator=None, conditional=False, iterations=6)
    settings |= dict(
        generator={"class": f"{parts}:Dropped"}, terms=(Term(name="r", function="qebias.losses:L1"),)
    )
    before = torch.get_rng_state()
    fit(config(**settings), pairs, tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    fit(config(**settings), pairs, tmp_path / "b", stop_at=4)
    torch.manual_seed(2)
    fit(config(**settings), pairs, tmp_path / "b")
    a, b = (load_state(tmp_path / name / "generator.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_start_that_is_not_there_is_one_line(pairs, tmp_path):
    with pytest.raises(QebiasError, match="does not exist: name a generator to start from"):
        fit(config(), pairs, tmp_path / "t", init=tmp_path / "none.safetensors")
