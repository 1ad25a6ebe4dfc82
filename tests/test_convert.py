"Weights of other programs in, and ours out for them"

import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qebias.convert import convert, export_weights, load_any, recognised, unwrapped
from qebias.core import QebiasError
from qebias.generators.arcnn import ARCNN
from qebias.networks import NETWORKS, build, load_network, network_spec, outline, read_header, save_network

SMALL = {
    "arcnn:ARCNN": {},
    "dcad:DCAD": {"width": 4, "depth": 10},
    "dncnn:DnCNN": {"width": 4, "depth": 4, "norm": True},
    "cbdnet:CBDNet": {"width": 4, "estimator": 4},
    "rdn:RDN": {"width": 4, "blocks": 2, "layers": 2, "growth": 4},
    "rbqe:RBQE": {"width": 4, "levels": 2, "attention": False},
    "mprnet:MPRNet": {"width": 8, "step": 4, "orb_step": 4, "cabs": 1, "reduction": 4},
    "rrdb:RRDBNet": {"width": 4, "blocks": 1, "growth": 4},
}
SPECS = [{"class": f"qebias.generators.{name}", "kwargs": kwargs} for name, kwargs in SMALL.items()] + [
    {
        "class": "qebias.generators.dncnn:DnCNN",
        "kwargs": {"width": 4, "depth": 10, "norm": False, "unshuffle": 2},
    },
    {"class": "qebias.discriminators:VGGStyle", "kwargs": {"in_channels": 3, "width": 2, "size": 128}},
    {"class": "qebias.discriminators:UNetSN", "kwargs": {"in_channels": 6, "width": 4}},
]


def network(spec):
    torch.manual_seed(0)
    return build(spec).eval()


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s["class"].split(":")[1])
def test_class_and_sizes_are_read_off_the_tensors(spec):
    found, state = recognised(network(spec).state_dict())
    assert found == spec


def test_all_networks_are_tried():
    assert {s["class"] for s in SPECS} == set(NETWORKS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
        lambda s: {"params": s},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"params": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {
            "meta": {"a": 1},
            "state_dict": {f"generator.{k}": v for k, v in s.items()} | {"discriminator.x": torch.ones(1)},
        },
    ],
    ids=["plain", "ema", "params", "lightning", "parallel", "compiled", "both", "mmediting"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_wrappings_come_off(tmp_path, wrap, suffix):
    net = network(SPECS[-3])
    content = wrap(net.state_dict())
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(content, path)
    elif any(isinstance(v, dict) for v in content.values()):
        pytest.skip("safetensors hold one level")
    else:
        save_file(content, path)
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_any(path)(x), net(x))


class Powerqe(nn.Module):
    "AR-CNN and CBDNet under the names that powerqe gives their layers"

    def __init__(self, of, rules):
        super().__init__()
        self.names = {}
        for name in of.state_dict():
            theirs = name
            for ours, other in rules:
                theirs = theirs.replace(ours, other) if theirs.startswith(ours) else theirs
            self.names[name] = theirs

    def state(self, of):
        return {self.names[k]: v for k, v in of.state_dict().items()}


@pytest.mark.parametrize(
    "spec, rules",
    [
        (
            SPECS[0],
            [
                ("extraction", "layers.0"),
                ("enhancement", "layers.2"),
                ("mapping", "layers.4"),
                ("reconstruction", "layers.6"),
            ],
        ),
        (
            SPECS[3],
            [
                ("estimator", "estimate"),
                ("enc0", "denoise.inc"),
                ("enc1", "denoise.enc_1"),
                ("enc2", "denoise.enc_2"),
                ("dec1", "denoise.dec_1"),
                ("dec0", "denoise.dec_0"),
                ("up1", "denoise.up_1.up"),
                ("up0", "denoise.up_0.up"),
                ("last", "denoise.outc"),
            ],
        ),
        (
            SPECS[5],
            [
                ("first.", "in_conv_seq."),
                ("unets.0.down", "down_0.layers"),
                ("unets.1.down", "down_1.layers"),
                ("unets.0.ups.0.up", "up_0_0.up"),
                ("unets.1.ups.0.up", "up_1_0.up"),
                ("unets.1.ups.1.up", "up_1_1.up"),
                ("unets.0.ups.0.mix", "up_0_0.layers"),
                ("unets.1.ups.0.mix", "up_1_0.layers"),
                ("unets.1.ups.1.mix", "up_1_1.layers"),
                ("last.0", "out_layers.0"),
            ],
        ),
    ],
    ids=["arcnn", "cbdnet", "rbqe"],
)
def test_names_of_powerqe_are_known(tmp_path, spec, rules):
    net = network(spec)
    theirs = Powerqe(net, rules).state(net)
    assert set(theirs) & set(net.state_dict()) == set()
    torch.save(
        {"meta": {}, "state_dict": {f"generator.{k}": v for k, v in theirs.items()}}, tmp_path / "n.pth"
    )
    assert convert(tmp_path / "n.pth", tmp_path / "n.safetensors") == spec
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "n.safetensors")(x), net(x))


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"params": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(QebiasError, match="evil.pth is no readable file of weights"):
        load_any(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"text", b"PK\x03\x04", b"\0" * 100, b"\1\0\0\0\0\0\0\0{"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_one_line(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(QebiasError) as error:
        load_any(path)
    assert f"bad{suffix}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, what",
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds no tensors"),
        ({"params": {}}, "it holds no tensors"),
        ({"a": torch.ones(2)}, "no network of this package has its 1 tensor "),
        (network(SPECS[7]).state_dict() | {"more": torch.ones(1)}, "no network of this package"),
        (
            network(SPECS[7]).state_dict() | {"conv_first.weight": torch.ones(4, 3, 3, 3)},
            "an RRDBNet that enlarges (scale 4)",
        ),
    ],
)
def test_what_is_no_network_is_one_line(tmp_path, content, what):
    torch.save(content, tmp_path / "n.pth")
    with pytest.raises(QebiasError) as error:
        load_any(tmp_path / "n.pth")
    assert what in str(error.value) and "n.pth: " in str(error.value)
    with pytest.raises(QebiasError):
        convert(tmp_path / "n.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("spec", SPECS[-2:], ids=["vgg", "unet"])
def test_discriminators_say_what_audit_must_know(tmp_path, spec):
    three = {"class": spec["class"], "kwargs": spec["kwargs"] | {"in_channels": 3}}
    judge = network(three)
    torch.save({"params": judge.state_dict()}, tmp_path / "d.pth")
    convert(tmp_path / "d.pth", tmp_path / "d.safetensors", gan="relativistic", patch=96)
    origin = read_header(tmp_path / "d.safetensors")["provenance"]
    assert (origin["conditional"], origin["gan"], origin["patch"]) == (False, "relativistic", 96)
    convert(tmp_path / "d.pth", tmp_path / "wide.safetensors", conditional=True)
    wide = load_network(tmp_path / "wide.safetensors")
    assert wide.in_channels == 6 and read_header(tmp_path / "wide.safetensors")["provenance"]["conditional"]
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(wide(torch.cat([x, torch.rand_like(x)], 1)), judge(x), atol=1e-5)


def test_both_networks_of_one_file(tmp_path):
    generator, judge = network(SPECS[-3]), network(SPECS[-1])
    both = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    both |= {f"discriminator.{k}": v for k, v in judge.state_dict().items()}
    assert recognised(unwrapped({"state_dict": both}))[0] == SPECS[-3]
    assert recognised(unwrapped({"state_dict": both}, "discriminator"))[0] == SPECS[-1]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_spandrel_loads_ours(tmp_path, suffix):
    spandrel = pytest.importorskip("spandrel")
    spec = network_spec("qebias.generators.rrdb:RRDBNet", width=16, blocks=2, growth=32)
    net = network(spec)
    save_network(tmp_path / "ours.safetensors", net, spec, {})
    export_weights(tmp_path / "ours.safetensors", tmp_path / f"theirs{suffix}")
    found = spandrel.ModelLoader().load_from_file(tmp_path / f"theirs{suffix}")
    assert (found.scale, found.input_channels, found.purpose) == (1, 3, "Restoration")
    x = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.allclose(found(x), net(x).clamp(0, 1), atol=1e-6)


def test_a_growth_that_others_do_not_build_is_said(tmp_path):
    save_network(tmp_path / "n.safetensors", network(SPECS[7]), SPECS[7], {})
    with pytest.raises(QebiasError, match="a growth of 4 channels"):
        export_weights(tmp_path / "n.safetensors", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_recognising_takes_no_memory_for_weights():
    "Sizes in the millions are compared on no device"
    state = {k: torch.empty(v.shape, device="meta") for k, v in outline(SPECS[7]).state_dict().items()}
    state["conv_first.weight"] = torch.empty(2**20, 48, 2**10, 3, device="meta")
    with pytest.raises(QebiasError, match="no network of this package"):
        recognised(state)


def test_import_is_without_engines():
    code = "import sys, qebias.convert; print([m for m in ('spandrel', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s, old: {"state_dict": {f"module.generator.{k}": v for k, v in s.items()}},
        lambda s, old: {"state_dict": {f"generator.module.{k}": v for k, v in s.items()}},
        lambda s, old: {
            "state_dict": {f"generator.{k}": v for k, v in old.items()}
            | {f"generator_ema.{k}": v for k, v in s.items()}
        },
        lambda s, old: {"net_g": old, "net_g_ema": s, "net_d": {"a": torch.ones(2)}},
        lambda s, old: {"generator": s, "discriminator": {"a": torch.ones(2)}},
        lambda s, old: {"state_dict": {f"net_g.{k}": v for k, v in s.items()}, "epoch": 1},
    ],
    ids=["whole in parallel", "part in parallel", "mmediting's average", "by part", "mappings", "lightning"],
)
def test_the_generator_is_found_however_a_file_calls_it(tmp_path, wrap):
    "An average of the weights counts before the weights, as for `params_ema`"
    net = network(SPECS[-3])
    state = net.state_dict()
    torch.save(wrap(state, {k: torch.zeros_like(v) for k, v in state.items()}), tmp_path / "n.pth")
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_any(tmp_path / "n.pth")(x), net(x))


MPRNET_NAMES = [  # of powerqe and of MPRNet's authors: (ours, theirs), the first that fits counts
    (r"^shallow(\d)\.", r"shallow_feat\1."),
    (r"^sam1\.", "sam12."),
    (r"^sam2\.", "sam23."),
    (r"^merge2\.", "concat12."),
    (r"^merge3\.", "concat23."),
    (r"^encoder(\d)\.", r"stage\1_encoder."),
    (r"^decoder(\d)\.", r"stage\1_decoder."),
    (r"^stage3\.", "stage3_orsnet."),
    (r"\.features\.", ".conv1."),
    (r"\.residual\.", ".conv2."),
    (r"\.mask\.", ".conv3."),
    (r"\.conv1\.(?=weight)(?<!sam12.conv1.)(?<!sam23.conv1.)", ".body.0."),
    (r"\.act\.", ".body.1."),
    (r"\.conv2\.(?=weight)(?<!sam12.conv2.)(?<!sam23.conv2.)", ".body.2."),
    (r"\.attention\.squeeze\.", ".CA.conv_du.0."),
    (r"\.attention\.excite\.", ".CA.conv_du.2."),
    (r"(en|de)coder\.levels\.0\.", r"\1coder.\1coder_level1."),
    (r"(en|de)coder\.levels\.1\.", r"\1coder.\1coder_level2."),
    (r"(en|de)coder\.levels\.2\.", r"\1coder.\1coder_level3."),
    (r"\.skips\.0\.", ".skip_attn1."),
    (r"\.skips\.1\.", ".skip_attn2."),
    (r"\.down\.0\.mix\.", ".down12.down.1."),
    (r"\.down\.1\.mix\.", ".down23.down.1."),
    (r"\.up\.0\.mix\.", ".up21.up.1."),
    (r"\.up\.1\.mix\.", ".up32.up.1."),
    (r"\.fuse\.0\.0\.", ".csff_enc1."),
    (r"\.fuse\.1\.0\.", ".csff_enc2."),
    (r"\.fuse\.2\.0\.", ".csff_enc3."),
    (r"\.fuse\.0\.1\.", ".csff_dec1."),
    (r"\.fuse\.1\.1\.", ".csff_dec2."),
    (r"\.fuse\.2\.1\.", ".csff_dec3."),
    (r"\.orbs\.0\.", ".orb1."),
    (r"\.orbs\.1\.", ".orb2."),
    (r"\.orbs\.2\.", ".orb3."),
    (r"\.of_(en|de)coder\.0\.0\.", r".conv_\1c1."),
    (r"\.of_(en|de)coder\.1\.0\.mix\.", r".up_\1c1.up.1."),
    (r"\.of_(en|de)coder\.1\.1\.", r".conv_\1c2."),
    (r"\.of_(en|de)coder\.2\.([01])\.mix\.", r".up_\1c2.\2.up.1."),
    (r"\.of_(en|de)coder\.2\.2\.", r".conv_\1c3."),
]


def test_mprnet_of_powerqe_and_its_authors_is_read(tmp_path):
    spec = SPECS[6]
    net = network(spec)
    theirs = {}
    for name, tensor in net.state_dict().items():
        for ours, other in MPRNET_NAMES:
            name = re.sub(ours, other, name)
        theirs[name] = tensor
    del theirs["act.weight"]  # one activation serves everywhere; theirs has no place of its own
    kept = {"tail.weight"}
    assert set(theirs) & set(net.state_dict()) == kept and len(theirs) == len(net.state_dict()) - 1
    assert (
        "stage3_orsnet.orb1.body.0.body.0.weight" in theirs and "stage3_orsnet.orb1.body.1.weight" in theirs
    )
    assert "stage2_encoder.csff_dec3.weight" in theirs and "sam12.conv2.weight" in theirs
    torch.save({"state_dict": {f"generator.{k}": v for k, v in theirs.items()}}, tmp_path / "n.pth")
    assert convert(tmp_path / "n.pth", tmp_path / "n.safetensors") == spec
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path / "n.safetensors")(x), net(x))


def test_an_rrdbnet_of_grey_pictures_is_not_called_one_that_enlarges(tmp_path):
    state = network(SPECS[7]).state_dict() | {"conv_first.weight": torch.ones(4, 16, 3, 3)}
    torch.save(state, tmp_path / "n.pth")
    with pytest.raises(QebiasError, match="an RRDBNet with 16 channels at its input: only scale 1 of RGB"):
        load_any(tmp_path / "n.pth")


@pytest.mark.parametrize("kind", ["sparse", "meta", "bool"])
def test_tensors_without_plain_values_are_one_line_with_the_files_name(tmp_path, kind):
    "The first two ended in a traceback"
    ways = {"sparse": lambda x: x.to_sparse(), "meta": lambda x: x.to("meta"), "bool": lambda x: x.bool()}
    torch.save({"params": {k: ways[kind](v) for k, v in ARCNN().state_dict().items()}}, tmp_path / "n.pth")
    for call in (load_any, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(QebiasError) as error:
            call(tmp_path / "n.pth")
        assert str(error.value).startswith(f"{tmp_path / 'n.pth'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["n.pth", "n.safetensors", "n.onnx"])
def test_no_model_is_written_over_another_file(tmp_path, name):
    "`qebias export mine.pth -o mine.pth` replaced the weights that it had read"
    from qebias.export import export_onnx

    if name == "n.onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    torch.save({"params": ARCNN().state_dict(), "optimizer": {}}, tmp_path / "n.pth")
    for other in ("n.safetensors", "n.onnx"):
        (tmp_path / other).write_bytes(b"another's")
    before = (tmp_path / name).read_bytes()

    def write(path):
        if name == "n.onnx":
            return export_onnx(ARCNN(), path, sizes=[(8, 8)])
        if name == "n.safetensors":
            return convert(tmp_path / "n.pth", path)
        return export_weights(tmp_path / "n.pth", path)

    with pytest.raises(QebiasError, match="was not written by this command: choose another name"):
        write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    for _ in range(2):  # what the command has written itself it replaces
        write(tmp_path / "out" / name)
