"""Our networks and training steps beside the peers' own code: same random weights, float64, one CPU thread

    python tests/benchmarks/peers.py --basicsr PATH [--powerqe PATH] [--psi-width 16] [--json FILE]

PATH is a checkout: of https://github.com/XPixelGroup/BasicSR, of https://github.com/ryanxingql/powerqe
(branch v3). Their files are imported from there and run as they are; packages that they import and the
comparison never runs are stubs that refuse to be called. BasicSR's models are built by their own constructors
from BasicSR's own option files, with scale 1, smaller sizes, paired data and no sharpened targets; ours are
the rows `esrgan` and `realesrgan` of `qebias.methods`.

A difference is the largest of all elements in a row of the table, and relative to the largest magnitude among
them. Verdicts: `equal` (at most 1e-9), `documented` (the peer runs its discriminator more often within a
step, and another row shows that nothing but this makes the difference), `not there` (a network that this
version lacks), `DEFECT`. The exit status is 1 where there is a defect.
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.spectral_norm import SpectralNorm

from qebias.discriminators import UNetSN, VGGStyle
from qebias.features import Psi, noise_images
from qebias.generators.rrdb import RRDBNet
from qebias.layers import block_layer
from qebias.methods import METHODS, train_config
from qebias.training import Trainer

TOLERANCE = 1e-9
EQUAL, DOCUMENTED, ABSENT, DEFECT = "equal", "documented", "not there", "DEFECT"


# ---------------------------------------------------------------- differences


def _finite(value):
    return value if math.isfinite(value) else math.inf


def apart(ours, theirs):
    "Of two dicts of tensors: the largest absolute difference, its share of the largest magnitude, its name"
    if ours.keys() != theirs.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:6]}")
    absolute, largest, worst = 0.0, 0.0, ""
    for name, a in ours.items():
        a, b = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (a, theirs[name]))
        if a.shape != b.shape:
            raise ValueError(f"{name} has the shapes {tuple(a.shape)} and {tuple(b.shape)}")
        gap, largest = _finite((a - b).abs().max().item()), max(largest, b.abs().max().item())
        if gap > absolute:
            absolute, worst = gap, name
    return absolute, _finite(absolute / largest) if largest else _finite(absolute and math.inf), worst


def row(name, what, ours, theirs, explained=None):
    "A line of the table; `explained` says whether other lines have shown that a difference has a known cause"
    absolute, relative, worst = apart(ours, theirs)
    verdict = EQUAL if relative <= TOLERANCE else DOCUMENTED if explained else DEFECT
    return {
        "name": name,
        "what": what,
        "absolute": absolute,
        "relative": relative,
        "worst": worst,
        "verdict": verdict,
    }


def fine(rows):
    return all(r["verdict"] == EQUAL for r in rows)


# ---------------------------------------------------------------- the peers' files


class Stub(types.ModuleType):
    "A module in which every name exists and nothing can be called"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args, **kwargs):
            raise RuntimeError(f"{self.__name__}.{name} is a stub: the comparison must not need it")

        return self.__dict__.setdefault(name, type(name, (), {"__init__": refuse}))


def package(name, folder, **names):
    "A package whose files lie in a folder and whose `__init__` is not run"
    made = types.ModuleType(name)
    made.__path__ = [str(folder)]
    vars(made).update(names)
    return made


@contextlib.contextmanager
def importing(*modules):
    "Import a peer's files while the block runs; what other code finds in `sys.modules` stays as it was"
    roots = {m.__name__.split(".")[0] for m in modules}

    def ofpeer():
        return [name for name in sys.modules if name.split(".")[0] in roots]

    before, bytecode = {name: sys.modules.pop(name) for name in ofpeer()}, sys.dont_write_bytecode
    sys.modules.update({m.__name__: m for m in modules})
    sys.dont_write_bytecode = True
    try:
        yield importlib.import_module
    finally:
        for name in ofpeer():
            del sys.modules[name]
        sys.modules.update(before)
        sys.dont_write_bytecode = bytecode


class NoSharpening:
    "In place of the sharpening of targets, which the options switch off: used, it would make all numbers NaN"

    def cuda(self):
        return self

    def __call__(self, x):
        return torch.full_like(x, math.nan)


def vgg_features(width):
    "torchvision's VGG-19 layers with `width` channels in the first block"
    from torchvision.models.vgg import make_layers

    plan = [c for block, n in enumerate((2, 2, 4, 4, 4)) for c in (*[width * min(2**block, 8)] * n, "M")]
    return types.SimpleNamespace(features=make_layers(plan))


def load_basicsr(root, psi_width):
    "BasicSR's classes by name, and its options; its VGG-19 gets `psi_width` channels, no weights of its own"
    folder, logger = Path(root) / "basicsr", logging.getLogger("peers")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    found = types.SimpleNamespace(options=Path(root) / "options" / "train")

    def made(registry, spec):
        with contextlib.redirect_stdout(io.StringIO()):
            return registry.get(spec["type"])(**{k: v for k, v in spec.items() if k != "type"})

    stubs = [
        "cv2",
        "lmdb",
        "distutils",
        "distutils.version",
        "basicsr.metrics",
        "basicsr.ops",
        "basicsr.ops.dcn",
        "basicsr.data.degradations",
        "basicsr.data.transforms",
        "basicsr.utils.img_process_util",
    ]
    packages = [
        package("basicsr", folder),
        package("basicsr.data", folder / "data"),
        package("basicsr.models", folder / "models"),
        package(
            "basicsr.archs",
            folder / "archs",
            build_network=lambda spec: made(found.registry.ARCH_REGISTRY, spec),
        ),
        package(
            "basicsr.losses",
            folder / "losses",
            build_loss=lambda spec: made(found.registry.LOSS_REGISTRY, spec),
        ),
        package(
            "basicsr.utils",
            folder / "utils",
            get_root_logger=lambda: logger,
            imwrite=None,
            tensor2img=None,
            USMSharp=NoSharpening,
            DiffJPEG=lambda differentiable: types.SimpleNamespace(cuda=lambda: None),
        ),
    ]
    with importing(*map(Stub, stubs), *packages) as load:
        found.registry = load("basicsr.utils.registry")
        found.networks = types.SimpleNamespace(
            **{
                c: getattr(load(f"basicsr.archs.{f}"), c)
                for f, c in [
                    ("rrdbnet_arch", "RRDBNet"),
                    ("discriminator_arch", "VGGStyleDiscriminator"),
                    ("discriminator_arch", "UNetDiscriminatorSN"),
                    ("vgg_arch", "VGGFeatureExtractor"),
                ]
            }
        )
        vgg = load("basicsr.archs.vgg_arch")
        vgg.VGG_PRETRAIN_PATH, vgg.vgg = (
            "",
            types.SimpleNamespace(vgg19=lambda pretrained: vgg_features(psi_width)),
        )
        for name in ("basic_loss", "gan_loss"):
            load(f"basicsr.losses.{name}")
        found.models = {
            "esrgan": load("basicsr.models.esrgan_model").ESRGANModel,
            "realesrgan": load("basicsr.models.realesrgan_model").RealESRGANModel,
        }
    return found


class DenseBlock(nn.Module):
    "mmediting's RDB by its description, where powerqe was checked out without that submodule"

    def __init__(self, channels, growth, layers):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(layers)
        )
        self.fuse = nn.Conv2d(channels + layers * growth, channels, 1)

    def forward(self, x):
        y = x
        for conv in self.convs:
            y = torch.cat([y, F.relu(conv(y))], 1)
        return x + self.fuse(y)


def load_powerqe(root, files):
    "{class name: class} of powerqe's backbones"
    folder, mm = (
        Path(root) / "powerqe",
        Path(root) / "mmediting" / "mmedit" / "models" / "backbones" / "sr_backbones",
    )
    registry = types.SimpleNamespace(register_module=lambda: lambda made: made)
    rdb = (
        package("mmedit.models.backbones.sr_backbones", mm)
        if (mm / "rdn.py").is_file()
        else Stub("mmedit.models.backbones.sr_backbones")
    )
    modules = [
        *map(Stub, ["mmcv", "mmcv.runner", "mmedit", "mmedit.utils", "mmedit.models.backbones"]),
        rdb,
        package("mmedit.models", mm.parent.parent, MODELS=registry),
        package("mmedit.models.registry", mm, BACKBONES=registry),
        package("powerqe", folder),
        package("powerqe.models", folder / "models"),
        package("powerqe.models.backbones", folder / "models" / "backbones"),
    ]
    if isinstance(rdb, Stub):
        modules.append(package("mmedit.models.backbones.sr_backbones.rdn", mm, RDB=DenseBlock))
    with importing(*modules) as load:
        return {c: getattr(load(f"powerqe.models.backbones.{f}"), c) for f, c in files}


# ---------------------------------------------------------------- networks


@torch.no_grad()
def _in_use(net, x):
    "The parameters in the order in which a forward first uses them, those of one shape together"
    seen = {}
    hooks = [
        m.register_forward_pre_hook(
            lambda m, _: seen.update({id(p): p for p in m.parameters(recurse=False) if id(p) not in seen})
        )
        for m in net.modules()
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    if len(seen) != len(list(net.parameters())) or list(net.buffers()):
        raise ValueError(f"{type(net).__name__} has parameters that it does not use, or buffers")
    return sorted(seen.values(), key=lambda p: tuple(p.shape))


def _same_weights(ours, theirs, x):
    "Give the peer our weights: by name where the names agree, else by shape and order of use"
    if theirs.state_dict().keys() == ours.state_dict().keys():
        return theirs.load_state_dict(ours.state_dict())
    a, b = _in_use(ours, x), _in_use(theirs, x)
    if [p.shape for p in a] != [p.shape for p in b]:
        raise ValueError(f"{len(a)} and {len(b)} parameters, which differ in number or shape")
    with torch.no_grad():
        for p, q in zip(a, b):
            q.copy_(p)


def _random(*shape, seed):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _answers(net, x):
    "Outputs by name, the input's gradient along a random direction, and the buffers afterwards"
    x = x.clone().requires_grad_()
    y = net(x)
    y = y if isinstance(y, dict) else {"output": y}
    (g,) = torch.autograd.grad(sum((v * _random(*v.shape, seed=2)).sum() for v in y.values()), x)
    return y, {"input gradient": g}, {name: b.clone() for name, b in net.named_buffers()}


def compare_networks(name, ours, theirs, sizes, channels=3, modes=("eval",)):
    "Rows of one network: outputs, gradients, and buffers where the network has some"
    rows = []
    try:
        _same_weights(ours.double(), theirs.double(), _random(1, channels, *sizes[0], seed=0))
        for mode in modes:
            for size in sizes:
                x, label = _random(2, channels, *size, seed=1), f"{mode}, {size[0]} x {size[1]}"
                a, b = (_answers(net.train(mode == "train"), x) for net in (ours, theirs))
                rows += [
                    row(name, f"output, {label}", a[0], b[0]),
                    row(name, f"input gradient, {label}", a[1], b[1]),
                ]
                if b[2] and mode == "train":
                    rows.append(row(name, f"buffers after, {label}", a[2], b[2]))
    except (ValueError, RuntimeError) as error:
        rows.append(failed(name, str(error).splitlines()[0]))
    return rows


def failed(name, why, verdict=DEFECT):
    return {"name": name, "what": why, "absolute": None, "relative": None, "worst": "", "verdict": verdict}


def basicsr_networks(peer):
    torch.manual_seed(0)
    rows, nets = [], peer.networks
    for width, blocks in ((64, 23), (32, 16)):
        rows += compare_networks(
            f"RRDBNet {width}/{blocks}/32",
            RRDBNet(width, blocks, 32),
            nets.RRDBNet(3, 3, 1, width, blocks, 32),
            [(64, 64)],
        )
    for channels in (3, 6):
        rows += compare_networks(
            f"VGGStyle, {channels} channels",
            VGGStyle(channels),
            nets.VGGStyleDiscriminator(channels, 64),
            [(128, 128)],
            channels,
            ("train", "eval"),
        )
        rows += compare_networks(
            f"UNetSN, {channels} channels",
            UNetSN(channels),
            nets.UNetDiscriminatorSN(channels, 64),
            [(64, 64)],
            channels,
            ("train", "eval"),
        )
    return rows


def give_psi(psi, extractor):
    "Our psi's weights for BasicSR's VGG, by the names of the layers"
    with torch.no_grad():
        for name, layer in extractor.vgg_net.named_children():
            if isinstance(layer, nn.Conv2d):
                for kind in ("weight", "bias"):
                    getattr(layer, kind).copy_(getattr(psi, f"{name}_{kind}"))
    return extractor.double()


def compare_psi(peer, psi_width):
    "psi: the last convolution of every block, before ReLU"
    layers = [block_layer(b) for b in range(1, 6)]
    psi = Psi(layers, f"random-w{psi_width}-s0").double()
    theirs = give_psi(psi, peer.networks.VGGFeatureExtractor(layers).double())
    a, b = (_answers(net, _random(2, 3, 64, 64, seed=1)) for net in (psi, theirs))
    return [
        row(f"psi, width {psi_width}", "features of 5 blocks", a[0], b[0]),
        row(f"psi, width {psi_width}", "input gradient", a[1], b[1]),
    ]


ANY = [(64, 64), (37, 51)]
# ours: module and class; powerqe's file, class and arguments as in its configurations; sizes of the input
POWERQE = {
    "ARCNN": ("arcnn:ARCNN", "arcnn", "ARCNN", {}, ANY),
    "DCAD": ("dcad:DCAD", "dcad", "DCAD", dict(mid_channels=64, num_blocks=8), ANY),
    "DnCNN": ("dncnn:DnCNN", "dncnn", "DnCNN", dict(mid_channels=64, num_blocks=15, if_bn=False), ANY),
    "CBDNet": (
        "cbdnet:CBDNet",
        "cbdnet",
        "CBDNet",
        dict(estimate_channels=32, nlevel_denoise=3, nf_base_denoise=64),
        ANY,
    ),
    "RDN": (
        "rdn:RDN",
        "rdn",
        "RDNQE",
        dict(rescale=1, io_channels=3, mid_channels=32, num_blocks=4, num_layers=4, channel_growth=32),
        ANY,
    ),
    "RBQE": (
        "rbqe:RBQE",
        "rbqe",
        "RBQE",
        dict(nf_base=32, nlevel=5, if_separable=False, if_eca=False, if_only_last_output=True),
        ANY,
    ),
    "MPRNet": (
        "mprnet:MPRNet",
        "mprnet",
        "MPRNet",
        dict(n_feat=16, scale_unetfeats=16, scale_orsnetfeats=16, num_cab=4, reduction=4),
        [(64, 64), (48, 80)],
    ),
}


def powerqe_networks(root, names=tuple(POWERQE)):
    torch.manual_seed(0)
    rows, there = [], {}
    for name in names:
        module, made = POWERQE[name][0].split(":")
        try:
            there[name] = getattr(importlib.import_module(f"qebias.generators.{module}"), made)
        except ModuleNotFoundError:
            rows.append(failed(name, f"no module qebias.generators.{module}", ABSENT))
    theirs = load_powerqe(root, [POWERQE[name][1:3] for name in there])
    for name, made in there.items():
        _, _, peer, kwargs, sizes = POWERQE[name]
        net = theirs[peer](**kwargs)
        note = ", RDB by description" if any(isinstance(m, DenseBlock) for m in net.modules()) else ""
        rows += compare_networks(name + note, made(), net, sizes)
    return rows


# ---------------------------------------------------------------- training steps

SMALL = {
    "RRDBNet": {"width": 32, "blocks": 2, "growth": 16},
    "VGGStyle": {"width": 16},
    "UNetSN": {"width": 16},
}
OPTIONS = {"esrgan": "ESRGAN/train_ESRGAN_x4.yml", "realesrgan": "RealESRGAN/train_realesrgan_x4plus.yml"}
PATCH = {"esrgan": 128, "realesrgan": 64}  # BasicSR's VGG-style discriminator takes no less than 128
STEPS, ITERATIONS, BATCH = (
    3,
    8,
    2,
)  # of 8 iterations, so that ESRGAN's learning rate is halved within the 3 steps


def our_trainer(method, psi_width):
    "A training of `qebias.methods`, small, in float64"
    trainer = Trainer(
        train_config(
            METHODS[method],
            SMALL,
            iterations=ITERATIONS,
            batch=BATCH,
            patch=PATCH[method],
            psi=f"random-w{psi_width}-s0",
            threads=1,
        )
    )
    for module in (trainer.generator, trainer.average, trainer.discriminator, trainer.psi):
        module.double()
    return trainer


def their_model(peer, method, trainer):
    "BasicSR's model, built by its own constructor from its own options, with our weights"
    import yaml

    opt = yaml.safe_load((peer.options / OPTIONS[method]).read_text())
    g = SMALL["RRDBNet"]
    opt["network_g"] |= {
        "scale": 1,
        "num_feat": g["width"],
        "num_block": g["blocks"],
        "num_grow_ch": g["growth"],
    }
    opt["network_d"] |= {"num_feat": SMALL["UNetSN"]["width"]}
    scheduler = opt["train"]["scheduler"]
    scheduler["milestones"] = [m * ITERATIONS // opt["train"]["total_iter"] for m in scheduler["milestones"]]
    opt |= {
        "scale": 1,
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "rank": 0,
        "path": {},
        "high_order_degradation": False,
        "l1_gt_usm": False,
        "percep_gt_usm": False,
        "gan_gt_usm": False,
    }
    model = peer.models[method](opt)
    for ours, theirs in [(trainer.generator, model.net_g), (trainer.discriminator.network, model.net_d)]:
        theirs.double().load_state_dict(ours.state_dict())
    model.net_g_ema.double().load_state_dict(trainer.average.state_dict())
    give_psi(trainer.psi, model.cri_perceptual.double().vgg)
    return model


def batches(patch):
    "(iteration, raw, compressed): noise with the spectrum of photographs, and more noise on it"
    rng = np.random.RandomState(0)
    for i in range(STEPS):
        raw = torch.from_numpy(noise_images(BATCH, patch, rng))
        yield i, raw, (raw + 0.05 * torch.from_numpy(rng.standard_normal(raw.shape))).clamp(0, 1)


def _named(parameters, grad=False):
    return {name: (p.grad if grad else p).detach().clone() for name, p in parameters}


def our_step(trainer, i, raw, compressed):
    "One step of ours, and all that it has changed"
    log, weight = trainer.step(i, raw, compressed), trainer.config.weight
    rounded = [name for name, value in log.items() if torch.is_tensor(value) and value.dtype != torch.float64]
    if rounded:
        sys.exit(
            f"qebias.training rounds {', '.join(rounded)} to less than float64: "
            "this comparison needs a step that keeps it"
        )
    d = trainer.discriminator.network
    losses = {
        "l_g_pix": weight("recon") * log["recon"],
        "l_g_percep": weight("percept") * log["percept"],
        "l_g_gan": weight("discrim") * log["discrim"],
        "lr": log["lr"],
        "l_d_real": log["d_real"],
        "l_d_fake": log["d_fake"],
        "out_d_real": log["out_real"],
        "out_d_fake": log["out_fake"],
    }
    return _changes(losses, trainer.generator, trainer.average, d)


def their_step(model, i, raw, compressed):
    model.update_learning_rate(i + 1)
    model.feed_data({"gt": raw, "lq": compressed})
    model.optimize_parameters(i + 1)
    return _changes(
        model.log_dict | {"lr": model.get_current_learning_rate()[0]},
        model.net_g,
        model.net_g_ema,
        model.net_d,
    )


def _changes(losses, generator, average, discriminator):
    buffers = _named(discriminator.named_buffers())
    return {
        "losses, logits, lr": dict(losses),
        "generator's gradients": _named(generator.named_parameters(), grad=True),
        "discriminator's gradients": _named(discriminator.named_parameters(), grad=True),
        "generator's weights": _named(generator.named_parameters()),
        "EMA weights": _named(average.named_parameters()),
        "discriminator's weights": _named(discriminator.named_parameters()),
        "running statistics": {n: b for n, b in buffers.items() if "running" in n},
        "batches counted": {n: b for n, b in buffers.items() if "tracked" in n},
        "spectral norm's vectors": {n: b for n, b in buffers.items() if n.endswith(("_u", "_v"))},
    }


def spectral(discriminator):
    "{name: (layer, its spectral norm)}"
    hooks = {
        name: (layer, [h for h in layer._forward_pre_hooks.values() if isinstance(h, SpectralNorm)])
        for name, layer in discriminator.named_modules()
    }
    return {name: (layer, found[0]) for name, (layer, found) in hooks.items() if found}


@torch.no_grad()
def _set(layer, u, v):
    layer.weight_u, layer.weight_v = u.clone(), v.clone()


def as_is(ours, theirs):
    pass


def repeats_unseen(ours, theirs):
    "BasicSR's third to fifth forward of a step leave batch norm's statistics alone: ours has the first two"
    norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]

    def watch(net, _):
        for m in norms:
            m.track_running_stats = net.forwards % 5 in (1, 2)

    theirs.register_forward_pre_hook(watch)


def vectors_fixed(ours, theirs):
    "Both sides keep the singular vectors of the first weights"
    for net in (ours, theirs):
        for layer, norm in spectral(net).values():
            u, _, v = torch.linalg.svd(layer.weight_orig.detach().flatten(1), full_matrices=False)
            _set(layer, u[:, 0], v[0])
            norm.n_power_iterations = 0


def vectors_ours(ours, theirs):
    "The power iteration of ours goes on, and BasicSR's forwards of raw and enhanced images use our vectors"
    used = {}

    def see(net, _, __):
        used["real" if net.forwards % 2 else "fake"] = {
            name: (layer.weight_u.clone(), layer.weight_v.clone())
            for name, (layer, _) in spectral(net).items()
        }

    def use(net, inputs):
        for name, (layer, _) in spectral(net).items():
            _set(layer, *used["real" if inputs[0] is net.raw() else "fake"][name])

    ours.register_forward_hook(see)
    theirs.register_forward_pre_hook(use)
    for _, norm in spectral(theirs).values():
        norm.n_power_iterations = 0


def run_steps(peer, method, psi_width, arrange=as_is):
    "[(our changes, BasicSR's changes)] of every step, and how often each ran its discriminator in one"
    trainer = our_trainer(method, psi_width)
    model = their_model(peer, method, trainer)
    d = trainer.discriminator.network, model.net_d

    def more(net, _):
        net.forwards += 1

    for net in d:
        net.forwards = 0
        net.register_forward_pre_hook(more)
    model.net_d.raw = lambda: model.gt
    arrange(*d)
    steps = [(our_step(trainer, *batch), their_step(model, *batch)) for batch in batches(PATCH[method])]
    return steps, tuple(net.forwards // STEPS for net in d)


WEIGHTS = (
    "losses, logits, lr",
    "generator's gradients",
    "discriminator's gradients",
    "generator's weights",
    "EMA weights",
    "discriminator's weights",
)


def step_rows(name, steps, kinds, explained=None):
    return [
        row(name, f"{kind}, step {i}", *(side[kind] for side in steps[i - 1]), explained=explained)
        for i in (1, STEPS)
        for kind in kinds
    ]


def compare_esrgan(peer, psi_width):
    "The whole step; batch norm's statistics as they are, and without BasicSR's further forwards"
    name, statistics = "ESRGAN step", ("running statistics", "batches counted")
    steps, counts = run_steps(peer, "esrgan", psi_width)
    unseen, _ = run_steps(peer, "esrgan", psi_width, repeats_unseen)
    shown = step_rows(f"{name}, statistics of 2 forwards", unseen, statistics)
    return (
        step_rows(name, steps, WEIGHTS)
        + shown
        + step_rows(f"{name}, {counts[0]} and {counts[1]} forwards", steps, statistics, fine(shown))
    )


def compare_realesrgan(peer, psi_width):
    "The whole step with spectral norm's vectors fixed, with ours on both sides, and as it is"
    name, rows = "Real-ESRGAN step", []
    for arrange, how in [(vectors_fixed, "vectors fixed"), (vectors_ours, "vectors of ours")]:
        steps, counts = run_steps(peer, "realesrgan", psi_width, arrange)
        rows += step_rows(f"{name}, {how}", steps, WEIGHTS)
    steps, counts = run_steps(peer, "realesrgan", psi_width)
    return rows + step_rows(
        f"{name}, {counts[0]} and {counts[1]} forwards",
        steps,
        (*WEIGHTS, "spectral norm's vectors"),
        fine(rows),
    )


def basicsr_steps(peer, psi_width):
    return compare_esrgan(peer, psi_width) + compare_realesrgan(peer, psi_width)


# ---------------------------------------------------------------- the table


def show(rows):
    widths = [max(len(r[k]) for r in rows if r["absolute"] is not None) for k in ("name", "what")]

    def number(value):
        return f"{'-' if value is None else f'{value:.1e}' if value else '0':>9}"

    print(f"{'name':{widths[0]}}  {'what':{widths[1]}}   absolute   relative  verdict")
    for r in rows:
        print(
            f"{r['name']:{widths[0]}}  {r['what']:{widths[1]}}  "
            f"{number(r['absolute'])}  {number(r['relative'])}  "
            f"{r['verdict']}{' at ' + r['worst'] if r['verdict'] == DEFECT else ''}"
        )


def commit(folder):
    "The checkout's commit, where git can tell"
    found = subprocess.run(
        ["git", "-C", folder, "rev-parse", "--show-prefix", "HEAD"], capture_output=True, text=True
    ).stdout.split("\n")
    return found[1][:7] if len(found) > 2 and not found[0] else None


def compare(basicsr=None, powerqe=None, psi_width=16):
    "All rows of the checkouts that are given"
    torch.set_num_threads(1)
    rows = []
    if basicsr:
        peer = load_basicsr(basicsr, psi_width)
        rows += basicsr_networks(peer) + compare_psi(peer, psi_width) + basicsr_steps(peer, psi_width)
    return rows + (powerqe_networks(powerqe) if powerqe else [])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--basicsr", required=True, help="checkout of XPixelGroup/BasicSR")
    parser.add_argument("--powerqe", help="checkout of ryanxingql/powerqe, branch v3")
    parser.add_argument(
        "--psi-width",
        type=int,
        default=16,
        help="channels of psi's first block, of random weights; 64 is VGG-19 (default: 16)",
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(arguments)
    for option, folder, file in [
        ("basicsr", args.basicsr, "basicsr/models/esrgan_model.py"),
        ("powerqe", args.powerqe, "powerqe/models/backbones/arcnn.py"),
    ]:
        if folder and not (Path(folder) / file).is_file():
            parser.error(f"--{option}: {folder} holds no {file}: give the root of a checkout")
    peers = {
        name: commit(folder)
        for name, folder in [("basicsr", args.basicsr), ("powerqe", args.powerqe)]
        if folder
    }
    rows = compare(args.basicsr, args.powerqe, args.psi_width)
    print(
        f"torch {torch.__version__}, float64;",
        ", ".join(f"{name} at {known or 'an unknown commit'}" for name, known in peers.items()),
    )
    show(rows)
    if args.json:
        args.json.write_text(
            json.dumps(
                {"torch": torch.__version__, "psi_width": args.psi_width, "peers": peers, "rows": rows},
                indent=1,
            )
        )
    return int(any(r["verdict"] == DEFECT for r in rows))


if __name__ == "__main__":
    sys.exit(main())
