"Eight networks as ONNX files of any size, and the engines that run them"

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from qebias import export
from qebias.core import QebiasError
from qebias.inference import enhance, enhance_tensor, tiling
from qebias.networks import build

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL = {
    "arcnn:ARCNN": {},
    "dcad:DCAD": {"width": 8, "depth": 4},
    "dncnn:DnCNN": {"width": 8, "depth": 4, "norm": True},
    "cbdnet:CBDNet": {"width": 8, "estimator": 4},
    "rdn:RDN": {"width": 8, "blocks": 2, "layers": 2, "growth": 8},
    "rbqe:RBQE": {"width": 8, "levels": 3},
    "mprnet:MPRNet": {"width": 8, "step": 4, "orb_step": 4, "cabs": 1},
    "rrdb:RRDBNet": {"width": 8, "blocks": 1, "growth": 8},
}


def network(name, kwargs):
    torch.manual_seed(0)
    return build({"class": f"qebias.generators.{name}", "kwargs": kwargs}).eval()


LARGE = "mprnet:MPRNet"  # its graph alone takes longer than those of all others together
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == LARGE else name for name in SMALL]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_an_onnx_file_of_any_size(tmp_path, name):
    "Its numbers are those of torch, at sizes that the export did not look at, and in both engines"
    net, path = network(name, SMALL[name]), tmp_path / "net.onnx"
    assert export.export_onnx(net, path, {"method": "test"}, sizes=[(33, 47)]) <= 0.01
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["net.onnx"]  # no weights beside it
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["qebias"])
    assert (about["sizes"], about["batch"], about["pads_to"]) == ("any", "any", net.multiple)
    assert about["method"] == "test"
    for count, *size in (
        (1, 16, 200),
        (1, 17, 45),
        (2, 104, 24),
        (3, 45, 17),
        (1, 176, 176),
        (1, 2, 3),
        (1, 1, 1),
    ):
        x = torch.rand(count, 3, *size)
        expected = enhance_tensor(net, x).numpy()
        found = session.run(["enhanced"], {"compressed": x.numpy()})[0]
        assert 255 * np.abs(found - expected).max() <= 0.01
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        fast = export.compiled(net, backend, threads=1, path=path)
        x = torch.rand(1, 3, 70, 93)
        assert 255 * (enhance_tensor(fast, x) - enhance_tensor(net, x)).abs().max() <= 0.01
        if net.reach:
            plan = tiling(net, 64, 16)
            assert tiling(fast, 64, 16) == plan
            tiles = enhance_tensor(net, x, plan)
            assert 255 * (enhance_tensor(fast, x, plan) - tiles).abs().max() <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_network_of_full_size_is_an_onnx_file(tmp_path, name):
    assert export.export_onnx(network(name, {}), tmp_path / "net.onnx") <= 0.01


def test_pixels_that_become_channels_are_exported(tmp_path):
    net = network("dncnn:DnCNN", {"width": 8, "depth": 4, "unshuffle": 2})
    assert export.export_onnx(net, tmp_path / "net.onnx") <= 0.01
    x = torch.rand(1, 3, 47, 65)
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        fast = export.compiled(net, backend)
        assert 255 * (enhance_tensor(fast, x) - enhance_tensor(net, x)).abs().max() <= 0.01


def test_openvino_computes_in_bf16():
    pytest.importorskip("openvino")
    net = network("dncnn:DnCNN", {"width": 16, "depth": 6})
    x = torch.rand(1, 3, 64, 64)
    gap = 255 * (enhance_tensor(export.compiled(net, "openvino", "bf16"), x) - enhance_tensor(net, x)).abs()
    assert gap.max() < 1.5


def test_small_pictures_go_through_torch():
    net = network("arcnn:ARCNN", {})
    fast = export.compiled(net, "onnxruntime")
    for size in ((1, 1), (5, 300), (31, 33)):
        rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert np.array_equal(enhance(fast, rgb), enhance(net, rgb))


def test_a_file_that_is_off_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "difference", lambda *a: 0.02)
    with pytest.raises(QebiasError, match="net.onnx is not written: it is 0.02 grey levels off"):
        export.export_onnx(network("arcnn:ARCNN", {}), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_followed_is_one_line(tmp_path):
    class Looks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(QebiasError, match="Looks cannot be written as ONNX"):
        export.export_onnx(Looks(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_that_asks_how_many_pictures_there_are_takes_one(tmp_path):
    class Halves(nn.Module):
        def forward(self, x):
            return torch.cat(torch.cat([x, x]).chunk(2)[:1])

    with pytest.raises(QebiasError, match="Halves .* many=False"):
        export.export_onnx(Halves(), tmp_path / "net.onnx")
    assert export.export_onnx(Halves(), tmp_path / "net.onnx", many=False) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[0] == 1
    assert json.loads(session.get_modelmeta().custom_metadata_map["qebias"])["batch"] == 1


def test_a_missing_engine_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(QebiasError, match="openvino is needed for the backend openvino and is not installed"):
        export.compiled(network("arcnn:ARCNN", {}), "openvino")


def test_importing_it_needs_no_engine():
    heavy = ("onnx", "onnxruntime", "openvino")
    code = f"import sys, qebias.export; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_why_a_network_cannot_be_written_is_said_without_colours():
    "Torch's own message names a step of its work, in cyan; its cause says what the network does"

    class Asks(nn.Module):
        def forward(self, x):
            return x if x.mean() > 0 else -x

    with pytest.raises(QebiasError, match="Asks cannot be written as ONNX: Could not guard") as error:
        export.onnx_program(Asks())
    assert "\x1b" not in str(error.value) and "\n" not in str(error.value)


def test_what_is_sensitive_stays_in_fp32_and_nothing_else(tmp_path):
    openvino = pytest.importorskip("openvino")
    net = network("rdn:RDN", {"width": 8, "blocks": 2, "layers": 2, "growth": 4})
    export.onnx_program(net, many=False).save(str(tmp_path / "m.onnx"), external_data=False)
    model = openvino.Core().read_model(tmp_path / "m.onnx")
    names = export.sensitive(model)
    convolutions = [
        o.get_friendly_name() for o in model.get_ordered_ops() if o.get_type_name() == "Convolution"
    ]
    assert set(convolutions) & names == {convolutions[0], convolutions[-1]}
    assert len(names) == 5  # and the sums: one in each of two blocks, and one around them; no bias
    kept = export.keep_exact(model, names, tmp_path)
    marked = {o.get_friendly_name() for o in kept.get_ordered_ops() if "recis" in str(list(o.get_rt_info()))}
    assert marked == names
    x = np.random.default_rng(0).random((1, 3, 24, 40), np.float32)
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    before, after = (openvino.compile_model(m, "CPU", hint)(x)[0] for m in (model, kept))
    assert np.abs(before - after).max() < 1e-5


def test_an_export_leaves_the_caller_s_random_numbers_alone(tmp_path):
    net = network("dncnn:DnCNN", {"width": 4, "depth": 3})
    before = torch.get_rng_state()
    export.onnx_program(net)
    assert torch.equal(before, torch.get_rng_state())
