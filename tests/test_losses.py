"""Losses: golden numbers in both precisions, gradients by finite differences, one forward pass for both
players"""

import itertools
import math
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qebias import losses
from qebias.core import QebiasError
from qebias.features import Psi
from qebias.layers import LAYERS
from qebias.losses import (
    GAN_LOSSES,
    LAMBDAS,
    PERCEPTUAL_LAYERS,
    REDUCTIONS,
    LossWeights,
    charbonnier,
    domain_divergence,
    mean_disparity,
    perceptual,
    reconstruction,
    relativistic_gan,
    usm_sharp,
    usual_terms,
    vanilla_gan,
)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def leaves(dtype):
    return [torch.tensor(v, dtype=dtype).view(2, 1).requires_grad_() for v in ((1.0, 2.0), (0.5, -1.0))]


def grad(loss, x):
    g = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)[0]
    return None if g is None else g.flatten().tolist()


# --- adversarial ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_numbers_relativistic(dtype):
    r, f = leaves(dtype)
    t = relativistic_gan(r, f)
    close = lambda v: pytest.approx(v, abs=1e-7)
    assert (5e-3 * t.generator).item() == pytest.approx(0.0096803588, abs=1e-9)
    assert grad(5e-3 * t.generator, f) == pytest.approx([-0.0019650422, -0.0022063963], abs=1e-9)
    assert [t.real.item(), t.fake.item()] == close([0.0880339101, 0.0980378555])
    assert grad(t.real, r) == close([-0.0556750347, -0.0238373662]) and grad(t.fake, f) == close(
        [0.0672353553, 0.0189645450]
    )
    assert grad(t.generator, r) is grad(t.real, f) is grad(t.fake, r) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_numbers_vanilla(dtype):
    r, f = leaves(dtype)
    t = vanilla_gan(r, f)
    assert [0.1 * t.generator.item(), t.real.item(), t.fake.item()] == pytest.approx(
        [0.0893669336, 0.2200948493, 0.6436693492], abs=1e-7
    )
    assert grad(t.generator, r) is grad(t.real, f) is grad(t.fake, r) is None


def test_logits_are_log_odds_of_equation_2():
    "The discriminator's two terms are minus the expectation of Eq. 2, with D = sigmoid(logit)"
    r, f = rand(5, 1, 4, 4), rand(5, 1, 4, 4, seed=1)
    t = vanilla_gan(r, f)
    torch.testing.assert_close(
        t.real + t.fake, -(torch.log(1 - f.sigmoid()).mean() + torch.log(r.sigmoid()).mean())
    )


@pytest.mark.parametrize("gan", GAN_LOSSES.values())
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 1, 5, 7)])
def test_gradients_by_finite_differences(gan, shape):
    r, f = rand(*shape).requires_grad_(), rand(*shape, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: gan(r.detach(), f).generator, (f,))
    assert torch.autograd.gradcheck(lambda r: gan(r, f.detach()).real, (r,))
    assert torch.autograd.gradcheck(lambda f: gan(r.detach(), f).fake, (f,))


@pytest.mark.parametrize("gan", GAN_LOSSES.values())
def test_each_player_wants_what_it_should(gan):
    "The generator raises enhanced logits; the discriminator raises raw ones and lowers enhanced ones"
    r, f = (rand(6, 1, seed=s).requires_grad_() for s in (0, 1))
    t = gan(r, f)
    assert max(grad(t.generator, f)) < 0 and max(grad(t.real, r)) < 0 and min(grad(t.fake, f)) > 0


@pytest.mark.parametrize("gan", GAN_LOSSES.values())
@pytest.mark.parametrize(
    "shapes", [((2, 1), (3, 1)), ((2, 1), (2,)), ((2, 1, 4, 4), (2, 1)), ((0, 1), (0, 1))]
)
def test_logits_that_do_not_match_are_one_line(gan, shapes):
    with pytest.raises(QebiasError, match="real and fake logits") as error:
        gan(*(torch.zeros(s) for s in shapes))
    assert "\n" not in str(error.value)


class Players(nn.Module):
    "A generator, and a conditional discriminator with either normalisation of the two baselines"

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 8, 3, padding=1)
        first = (
            torch.nn.utils.spectral_norm(conv)
            if norm == "spectral"
            else nn.Sequential(conv, nn.BatchNorm2d(8))
            if norm == "batch"
            else conv
        )
        self.generator = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        )
        self.discriminator = nn.Sequential(
            first, nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3)
        )
        self.double()
        self.compressed, self.raw = rand(4, 3, 12, 12, seed=2), rand(4, 3, 12, 12, seed=3)

    def logits(self, image):
        return self.discriminator(torch.cat([image, self.compressed], 1))

    def theta(self, who):
        return list(getattr(self, who).parameters())

    def grads(self):
        return [None if p.grad is None else p.grad.clone() for p in self.parameters()]


def reference_step(p, gan):
    "Each player alone, with separate passes: detached images, and logits of the other side as constants"
    enhanced = p.generator(p.compressed)
    r, f = p.logits(p.raw), p.logits(enhanced)
    for q, g in zip(
        p.theta("generator"), torch.autograd.grad(gan(r.detach(), f).generator, p.theta("generator"))
    ):
        q.grad = g
    r, f = p.logits(p.raw), p.logits(enhanced.detach())
    terms = gan(r, f)
    for q, g in zip(
        p.theta("discriminator"), torch.autograd.grad(terms.real + terms.fake, p.theta("discriminator"))
    ):
        q.grad = g
    return p.grads()


def single_pass_step(p, gan):
    terms = gan(p.logits(p.raw), p.logits(p.generator(p.compressed)))
    terms.generator.backward(inputs=p.theta("generator"), retain_graph=True)
    assert all(q.grad is None for q in p.theta("discriminator"))
    (terms.real + terms.fake).backward(inputs=p.theta("discriminator"))
    return p.grads()


@pytest.mark.parametrize("gan", GAN_LOSSES.values())
@pytest.mark.parametrize("norm", ["none", "batch", "spectral-frozen"])
def test_one_forward_pass_serves_both_players(gan, norm):
    """Same gradients as separate passes; batch statistics are the same in each pass, spectral norm's are
    frozen here"""
    a, b = Players(norm.split("-")[0]), Players(norm.split("-")[0])
    if norm == "spectral-frozen":
        for p in (a, b):
            p.eval()
    for x, y in zip(single_pass_step(a, gan), reference_step(b, gan)):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("gan", GAN_LOSSES.values())
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_one_forward_pass_works_in_training_mode(gan, norm):
    """Two passes through a normalisation that updates itself, then two backward passes: nothing was
    overwritten"""
    p = Players(norm)
    assert all(g is not None and g.isfinite().all() for g in single_pass_step(p, gan))


def test_a_players_backward_pays_for_its_own_gradients_only():
    p, flops = Players("none"), {}
    terms = relativistic_gan(p.logits(p.raw), p.logits(p.generator(p.compressed)))
    for name, loss, who in (
        ("generator", terms.generator, "generator"),
        ("all", terms.generator, None),
        ("discriminator", terms.real + terms.fake, "discriminator"),
    ):
        with FlopCounterMode(display=False) as counter:
            loss.backward(inputs=p.theta(who) if who else None, retain_graph=True)
        flops[name] = counter.get_total_flops()
    assert flops["generator"] < flops["all"]
    with FlopCounterMode(display=False) as counter:
        reference = relativistic_gan(p.logits(p.raw), p.logits(p.generator(p.compressed).detach()))
    with FlopCounterMode(display=False) as counter:
        (reference.real + reference.fake).backward()
    assert flops["discriminator"] == counter.get_total_flops()


def test_the_discriminator_must_not_step_before_the_generators_backward():
    p = Players("none")
    terms = relativistic_gan(p.logits(p.raw), p.logits(p.generator(p.compressed)))
    (terms.real + terms.fake).backward(inputs=p.theta("discriminator"), retain_graph=True)
    torch.optim.SGD(p.theta("discriminator"), lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        terms.generator.backward(inputs=p.theta("generator"))


# --- domain divergence ---


def naive(raw, compressed, enhanced, reduction):
    "Eq. 6-8 as loops over plain numbers"
    gaps = [
        [
            abs(r - c) - abs(e - c)
            for r, c, e in zip(*(t[n].flatten().tolist() for t in (raw, compressed, enhanced)))
        ]
        for n in range(len(raw))
    ]
    mean = lambda v: sum(v) / len(v)
    if reduction == "batch":
        return max(0, mean([mean(g) for g in gaps]))
    if reduction == "sample":
        return mean([max(0, mean(g)) for g in gaps])
    return mean([max(0, x) for g in gaps for x in g])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_divergence_against_plain_loops(reduction, scale):
    raw, compressed, enhanced = (rand(3, 4, 5, 6, seed=s) for s in range(3))
    enhanced = compressed + scale * enhanced
    assert domain_divergence(raw, compressed, enhanced, reduction).item() == pytest.approx(
        naive(raw, compressed, enhanced, reduction), abs=1e-12
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_divergence_gradient(reduction):
    raw, compressed, enhanced = (rand(2, 3, 4, 4, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(lambda e: domain_divergence(raw, compressed, e, reduction), (enhanced,))
    enhanced = (compressed + 0.1 * (raw - compressed)).detach().requires_grad_()
    domain_divergence(raw, compressed, enhanced, reduction).backward()
    assert raw.grad is compressed.grad is None
    assert (enhanced.grad.sign() == -(enhanced - compressed).sign()).all()  # away from compressed
    assert enhanced.grad.abs().unique().numel() == 1 and enhanced.grad.abs().max().item() == pytest.approx(
        1 / enhanced.numel()
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_gradient_where_the_hinge_is_closed(reduction):
    raw, compressed = rand(2, 3, 4, 4), rand(2, 3, 4, 4, seed=1)
    enhanced = (compressed + 2 * (raw - compressed)).requires_grad_()
    loss = domain_divergence(raw, compressed, enhanced, reduction)
    loss.backward()
    assert loss.item() == 0 and enhanced.grad.abs().sum() == 0


def test_only_the_images_that_are_too_near_are_pushed():
    raw, compressed = rand(2, 3, 4, 4), rand(2, 3, 4, 4, seed=1)
    factor = torch.tensor([0.5, 1.2], dtype=torch.float64).view(2, 1, 1, 1)
    enhanced = (compressed + factor * (raw - compressed)).requires_grad_()
    domain_divergence(raw, compressed, enhanced, "sample").backward()
    assert (enhanced.grad[0] != 0).all() and (enhanced.grad[1] == 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_element_sample_batch_inequality(seed):
    raw, compressed, enhanced = (rand(4, 2, 3, 3, seed=3 * seed + s) for s in range(3))
    batch, sample, element = (domain_divergence(raw, compressed, enhanced, r) for r in REDUCTIONS)
    assert element >= sample >= batch >= 0 and element > batch


def test_one_image_makes_sample_and_batch_equal():
    t = [rand(1, 2, 3, 3, seed=s) for s in range(3)]
    assert domain_divergence(*t, "sample") == domain_divergence(*t, "batch")


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4)),
        ((1, 3, 4, 4), (2, 3, 4, 4), (2, 3, 4, 4)),
        ((0, 3, 4, 4),) * 3,
    ],
)
def test_divergence_refuses_what_would_broadcast(shapes):
    with pytest.raises(QebiasError, match="features of"):
        domain_divergence(*(torch.zeros(s) for s in shapes))


def test_mean_disparity_is_a_number_an_image():
    a, b = rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1)
    assert mean_disparity(a, b).tolist() == pytest.approx(
        [(a[n] - b[n]).abs().mean().item() for n in range(3)]
    )
    with pytest.raises(QebiasError):
        mean_disparity(a, b[:1])


# --- through psi ---


def test_perceptual_and_divergence_share_three_passes_of_psi():
    "Raw and compressed without a graph, enhanced with one: both terms reach the image, and nothing else"
    layers = PERCEPTUAL_LAYERS["realesrgan"]
    psi = Psi(tuple(layers), "random-w4-s0")
    raw, compressed = (rand(2, 3, 32, 32, seed=s, dtype=torch.float32).sigmoid() for s in (0, 1))
    enhanced = (compressed + 0.1 * (raw - compressed)).requires_grad_()
    calls = []
    psi.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        psi_raw, psi_compressed = psi(raw), psi(compressed)
    psi_enhanced = psi(enhanced)
    percept = perceptual(psi_enhanced, psi_raw, layers)
    divergence = sum(
        w * domain_divergence(psi_raw[l], psi_compressed[l], psi_enhanced[l]) for l, w in layers.items()
    )
    a, b = (torch.autograd.grad(t, enhanced, retain_graph=True)[0] for t in (percept, divergence))
    assert len(calls) == 3 and a.abs().sum() > 0 and b.abs().sum() > 0
    by_hand = sum(w * (psi_enhanced[l] - psi_raw[l]).abs().mean() for l, w in layers.items())
    torch.testing.assert_close(percept, by_hand)


def test_perceptual_never_trains_the_raw_side():
    enhanced, raw = ({"conv1_2": rand(2, 3, 4, 4, seed=s).requires_grad_()} for s in (0, 1))
    perceptual(enhanced, raw, {"conv1_2": 0.5}).backward()
    assert raw["conv1_2"].grad is None
    torch.testing.assert_close(
        enhanced["conv1_2"].grad, 0.5 * (enhanced["conv1_2"] - raw["conv1_2"]).sign() / 96
    )


@pytest.mark.parametrize("weights", [{}, {"conv2_2": 1.0}])
def test_perceptual_names_the_layer_that_is_missing(weights):
    with pytest.raises(QebiasError, match="conv2_2" if weights else "no layer to compare"):
        perceptual({"conv1_2": rand(1)}, {"conv1_2": rand(1)}, weights)


def test_constants_are_those_of_the_baselines():
    assert PERCEPTUAL_LAYERS == {
        "esrgan": {"conv5_4": 1},
        "realesrgan": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1},
    }
    assert all(l in LAYERS for layers in PERCEPTUAL_LAYERS.values() for l in layers)
    assert LAMBDAS["esrgan"].model_dump() == {
        "recon": 1e-2,
        "percept": 1,
        "discrim": 5e-3,
        "divergence": 1e-1,
    }
    assert LAMBDAS["realesrgan"].model_dump() == {
        "recon": 1,
        "percept": 1,
        "discrim": 1e-1,
        "divergence": 1e-1,
    }


# --- the rest ---


@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_charbonnier(eps):
    a, b = rand(2, 3, 4, 4).requires_grad_(), rand(2, 3, 4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda a: charbonnier(a, b, eps), (a,))
    assert charbonnier(b, b, eps).item() == pytest.approx(math.sqrt(eps))
    assert reconstruction(a, b) <= charbonnier(a, b, eps) <= reconstruction(a, b) + math.sqrt(eps)


@pytest.mark.parametrize("loss", [reconstruction, charbonnier])
def test_images_that_do_not_match(loss):
    for a, b in itertools.permutations([(2, 3, 8, 8), (1, 3, 8, 8), (2, 1, 8, 8)], 2):
        with pytest.raises(QebiasError, match="differ in shape"):
            loss(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize(
    "wrong", [{"recon": -1}, {"recon": math.nan}, {"recon": math.inf}, {"lambda_r": 1}, {"recon": "much"}]
)
def test_weights_that_are_none(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        LossWeights(**wrong)


def test_weights_are_frozen():
    with pytest.raises(ValidationError):
        LAMBDAS["esrgan"].recon = 1


def test_the_terms_are_those_of_equation_9_and_5():
    w = LossWeights(recon=2, percept=3, discrim=5, divergence=7)
    options = dict(perceptual={"conv5_4": 1.0}, divergence={"blocks": (5,)}, gan="vanilla")
    assert {term.name: term.weight for term in usual_terms(w, **options)} == w.model_dump()
    without = w.model_copy(update={"divergence": 0.0})
    assert [term.name for term in usual_terms(without, **options)] == ["recon", "percept", "discrim"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("gan", GAN_LOSSES.values())
def test_gpu_agrees(gan):
    r, f = rand(4, 1, 8, 8), rand(4, 1, 8, 8, seed=1)
    for a, b in zip(gan(r, f), gan(r.cuda(), f.cuda())):
        torch.testing.assert_close(a, b.cpu())
    t = [rand(2, 3, 4, 4, seed=s) for s in range(3)]
    for reduction in REDUCTIONS:
        torch.testing.assert_close(
            domain_divergence(*t, reduction), domain_divergence(*(x.cuda() for x in t), reduction).cpu()
        )


def test_charbonnier_has_a_gradient_in_half_precision():
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    charbonnier(x, torch.zeros_like(x)).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(
    "ask, what",
    [
        (
            lambda x: reconstruction(x, (255 * x).to(torch.uint8)),
            "one of them is torch.uint8; x.float() / 255",
        ),
        (lambda x: reconstruction(x.numpy(), x.numpy()), "pass tensors, one of them is a ndarray"),
        (lambda x: domain_divergence({"a": x}, {"a": x}, {"a": x}), "pass tensors, one of them is a dict"),
        (lambda x: perceptual(x, x, {"conv1_1": 1.0}), "come by the layer's name, not as a Tensor"),
        (lambda x: perceptual({"conv1_1": x}, {"conv1_1": x}, ["conv1_1"]), "not as a list"),
        (lambda x: vanilla_gan(x > 0, x > 0), "one of them is torch.bool"),
        (lambda x: usm_sharp(x[0]), "usm takes images (N, 3, H, W), not a tensor of shape (3, 32, 32)"),
        (lambda x: usm_sharp((255 * x).to(torch.uint8)), "one of them is torch.uint8"),
    ],
)
def test_what_is_no_picture_or_feature_is_one_line(ask, what):
    with pytest.raises(QebiasError) as error:
        ask(torch.rand(1, 3, 32, 32))
    assert what in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_what_comes_out_of_autocast_is_compared_in_fp32(half):
    "Features and logits of 8 or 11 bits: their differences are not rounded once more"
    raw, compressed, enhanced = (rand(4, 8, 6, 6, seed=s, dtype=torch.float32).to(half) for s in range(3))
    real, fake = raw[:, :1], enhanced[:, :1]
    losses = [
        lambda r, c, e: perceptual({"a": e}, {"a": r}, {"a": 1.0}),
        lambda r, c, e: mean_disparity(r, c),
        *(lambda r, c, e, reduction=n: domain_divergence(r, c, e, reduction) for n in REDUCTIONS),
    ]
    for loss in losses:
        found = loss(raw, compressed, enhanced)
        assert found.dtype == torch.float32
        assert torch.equal(found, loss(raw.float(), compressed.float(), enhanced.float()))
    for gan in GAN_LOSSES.values():
        for a, b in zip(gan(real, fake), gan(real.float(), fake.float())):
            assert a.dtype == torch.float32 and torch.equal(a, b)


def test_a_sharpened_target_is_the_same_under_autocast():
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    want = usm_sharp(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(usm_sharp(image), want)
    assert not torch.equal(want, image)


def test_losses_are_one_graph_even_before_their_first_use():
    "A fresh copy of the module, in a process that has torch: nothing of it has been called"
    import importlib.util

    spec = importlib.util.find_spec("qebias.losses")
    fresh = importlib.util.module_from_spec(spec)
    sys.modules[spec.name], known = fresh, sys.modules[spec.name]
    try:
        spec.loader.exec_module(fresh)
    finally:
        sys.modules[spec.name] = known
    image, other = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    for name, arguments in {"usm_sharp": (image,), "reconstruction": (image, other)}.items():
        compiled = torch.compile(getattr(fresh, name), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*arguments), getattr(known, name)(*arguments))


@pytest.mark.parametrize(
    "function, options, words",
    [
        ("Charbonnier", {"eps": 0}, "needs eps above 0"),
        ("PSNRLoss", {"floor": -1}, "needs a floor of 0 or more"),
        ("PSNRLoss", {"floor": math.nan}, "needs a floor of 0 or more"),
        ("Perceptual", {"layers": {}}, "no layer to compare"),
        ("Perceptual", {"layers": {"conv1_2": math.nan}}, "pass a finite number"),
        ("DomainDivergence", {"blocks": []}, "blocks is empty"),
    ],
)
def test_options_that_cannot_be_are_refused_when_a_term_is_made(function, options, words):
    "A training once failed at its first step, or at none"
    term = losses.Term(name="a", function=f"qebias.losses:{function}", options=options)
    with pytest.raises(QebiasError, match=words):
        losses.make_term(term)


def test_numbers_and_shapes_that_are_none():
    x = rand(2, 3, 8, 8)
    for eps in (None, "1", math.inf, math.nan, True):
        with pytest.raises(QebiasError, match="needs eps above 0"):
            charbonnier(x, x, eps)
    with pytest.raises(QebiasError, match="the weight of layer a is x"):
        perceptual({"a": x}, {"a": x}, {"a": "x"})
    with pytest.raises(QebiasError, match="enhanced and raw differ in shape"):
        losses.PSNRLoss()(losses.Given(x[:1], x[:1], x))


def test_features_without_rows_are_one_line():
    x = rand(4)
    for call in (lambda: mean_disparity(x, x), lambda: domain_divergence(x, x, x)):
        with pytest.raises(QebiasError, match=r"come as \(N, C, h, w\), not in the shape \(4,\)"):
            call()
