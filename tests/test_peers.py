"""The comparison with the peers' own code, `tests/benchmarks/peers.py`: whether it runs, and finds anything

The slow tests need checkouts: `QEBIAS_BASICSR` names one of BasicSR, `QEBIAS_POWERQE` one of powerqe.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", Path(__file__).parent / "benchmarks" / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(variable, file):
    folder = os.environ.get(variable)
    if not folder or not (Path(folder) / file).is_file():
        pytest.skip(f"set {variable} to a checkout that holds {file}")
    return Path(folder)


@pytest.fixture(scope="module")
def basicsr():
    return checkout("QEBIAS_BASICSR", "basicsr/models/esrgan_model.py")


@pytest.fixture(scope="module")
def powerqe():
    return checkout("QEBIAS_POWERQE", "powerqe/models/backbones/arcnn.py")


def bad(rows):
    return [r for r in rows if r["verdict"] == "DEFECT"]


def test_how_far_apart(peers):
    a = {"w": torch.tensor([1.0, -4.0]), "b": torch.tensor([2.0])}
    assert peers.apart(a, a) == (0, 0, "")
    assert peers.apart({**a, "b": torch.tensor([3.0])}, a) == (1, 0.25, "b")
    assert peers.apart({"n": 0.0}, {"n": 0.0}) == (0, 0, "")
    assert peers.apart({"n": 1.0}, {"n": 0.0})[1] == float("inf")
    assert peers.apart({"n": float("nan")}, {"n": 1.0})[1] == float("inf")
    assert peers.apart({"n": 1.0}, {"n": float("nan")})[1] == float("inf")
    with pytest.raises(ValueError, match="names differ"):
        peers.apart(a, {"w": a["w"]})
    with pytest.raises(ValueError, match="shapes"):
        peers.apart(a, {**a, "b": torch.zeros(2)})


@pytest.mark.parametrize(
    "gap, explained, verdict",
    [
        (0, None, "equal"),
        (1e-10, None, "equal"),
        (1e-8, None, "DEFECT"),
        (1e-8, False, "DEFECT"),
        (1e-8, True, "documented"),
    ],
)
def test_verdicts(peers, gap, explained, verdict):
    assert peers.row("", "", {"n": 1 + gap}, {"n": 1.0}, explained)["verdict"] == verdict


def test_stubs_refuse(peers):
    with pytest.raises(RuntimeError, match="cv2.imread is a stub"):
        peers.Stub("cv2").imread("x.png")
    with peers.importing(peers.Stub("json")):
        assert isinstance(sys.modules["json"], peers.Stub)
    assert sys.modules["json"] is json


ARCNN = """
import torch
from mmcv.runner import load_checkpoint
from ..registry import BACKBONES

@BACKBONES.register_module()
class ARCNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        conv = torch.nn.Conv2d
        self.last, self.first = conv(16, 3, 5, padding=2), conv(3, 64, 9, padding=4)
        layers = [conv(64, 32, 7, padding=3), torch.nn.ReLU(), conv(32, 16, 1), torch.nn.ReLU()]
        self.mid = torch.nn.Sequential(*layers)

    def forward(self, x): return self.last(self.mid(self.first(x).relu())) + x
"""


@pytest.mark.parametrize(
    "old, new, found",
    [
        ("", "", False),
        (" + x", "", True),
        ("7, padding=3", "7, padding=3, dilation=1, padding_mode='reflect'", True),
        ("64, 32, 7, padding=3), torch.nn.ReLU(),", "64, 32, 7, padding=3),", True),
        ("conv(32, 16, 1)", "conv(32, 16, 1, bias=False)", True),
    ],
)
def test_another_network_is_found(peers, tmp_path, old, new, found):
    folder = tmp_path / "powerqe" / "models" / "backbones"
    folder.mkdir(parents=True)
    (folder.parent / "registry.py").write_text("from mmedit.models import MODELS\nBACKBONES = MODELS\n")
    (folder / "arcnn.py").write_text(ARCNN.replace(old, new))
    rows = peers.powerqe_networks(tmp_path, ("ARCNN",))
    assert rows and bool(bad(rows)) == found
    assert not [m for m in sys.modules if m.split(".")[0] in ("powerqe", "mmcv", "mmedit")] and not list(
        tmp_path.rglob("__pycache__")
    )


def test_no_checkout_is_one_line(peers, tmp_path, capsys):
    with pytest.raises(SystemExit):
        peers.main(["--basicsr", str(tmp_path)])
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"{tmp_path} holds no basicsr/models/esrgan_model.py: give the root of a checkout")
    )


@pytest.mark.slow
def test_powerqe(peers, powerqe):
    rows = peers.powerqe_networks(powerqe)
    assert not bad(rows) and {r["name"].split(",")[0] for r in rows} == set(peers.POWERQE)


@pytest.mark.slow
def test_basicsr_in_full(peers, basicsr, tmp_path, capsys):
    status = peers.main(["--basicsr", str(basicsr), "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert status == 0 and not bad(rows), capsys.readouterr().out
    names = {r["name"].split(",")[0] for r in rows}
    assert names == {
        "RRDBNet 64/23/32",
        "RRDBNet 32/16/32",
        "VGGStyle",
        "UNetSN",
        "psi",
        "ESRGAN step",
        "Real-ESRGAN step",
    }
    assert {
        r["what"].split(",")[0]
        for r in rows
        if r["verdict"] == "documented" and r["name"].startswith("ESRGAN")
    } == {"running statistics", "batches counted"}


CHANGES = {
    "ESRGAN: half of the discriminator's loss": (
        "esrgan",
        "models/esrgan_model.py",
        "True, is_disc=True) * 0.5",
        "True, is_disc=True)",
        "losses",
    ),
    "ESRGAN: half of the generator's": (
        "esrgan",
        "models/esrgan_model.py",
        "l_g_gan = (l_g_real + l_g_fake) / 2",
        "l_g_gan = l_g_real + l_g_fake",
        "losses",
    ),
    "ESRGAN: a mean that lets gradients through": (
        "esrgan",
        "models/esrgan_model.py",
        "self.net_d(self.output).detach()",
        "self.net_d(self.output.detach())",
        "discriminator's gradients",
    ),
    "ESRGAN: the order of schedule and step": (
        "esrgan",
        "models/base_model.py",
        "if current_iter > 1:",
        "if current_iter > 2:",
        "losses",
    ),
    "EMA": ("esrgan", "models/base_model.py", "alpha=1 - decay", "alpha=1.001 - decay", "EMA weights"),
    "Real-ESRGAN: the generator's label": (
        "realesrgan",
        "models/realesrgan_model.py",
        "self.cri_gan(fake_g_pred, True",
        "self.cri_gan(fake_g_pred, False",
        "losses",
    ),
    "psi after ReLU": (
        "realesrgan",
        "archs/vgg_arch.py",
        "output[key] = x.clone()",
        "output[key] = x",
        "losses",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_another_step_is_found(peers, basicsr, tmp_path, change):
    method, file, old, new, where = CHANGES[change]
    shutil.copytree(basicsr / "basicsr", tmp_path / "basicsr")
    shutil.copytree(basicsr / "options" / "train", tmp_path / "options" / "train")
    code = (tmp_path / "basicsr" / file).read_text()
    assert code.count(old) == 1
    (tmp_path / "basicsr" / file).write_text(code.replace(old, new))
    peer = peers.load_basicsr(tmp_path, 4)
    rows = peers.compare_esrgan(peer, 4) if method == "esrgan" else peers.compare_realesrgan(peer, 4)
    assert any(r["what"].startswith(where) for r in bad(rows)), rows
    if method == "realesrgan":
        assert not [r for r in rows if r["verdict"] == "documented"]
