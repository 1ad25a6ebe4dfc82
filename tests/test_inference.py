"Every size, every tile, every way in which a file can be broken"

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qebias.core import QebiasError, read_rgb
from qebias.datasets import load_dataset
from qebias.discriminators import UNetSN, VGGStyle
from qebias.generators.arcnn import ARCNN
from qebias.generators.core import (
    Halo,
    fill,
    fingerprint,
    grid_of,
    load_weights,
    measured_halo,
    pad_to_multiple,
)
from qebias.generators.rrdb import RRDBNet
from qebias.inference import EXACT, VERSION, enhance, enhance_tensor, tile_for, tiling, to_rgb, to_tensor
from qebias.networks import build, load_network, read_header, save_network

SIZES = [(1, 1), (3, 5), (9, 17), (66, 54), (127, 65)]
SPEC = {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 4, "blocks": 1, "growth": 4}}


@pytest.fixture(scope="module")
def arcnn():
    return fill(ARCNN())


@pytest.fixture(scope="module")
def rrdb():
    torch.manual_seed(0)
    return RRDBNet(4, 1, 4)


def picture(h, w):
    return np.random.default_rng(h * 1000 + w).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("h, w", SIZES)
@pytest.mark.parametrize("tile, halo", [(None, None), (4, 0), (32, None), (50, 8), (1000, None)])
def test_every_size_and_tile_keeps_the_shape(rrdb, h, w, tile, halo):
    rgb = picture(h, w)
    kept = rgb.copy()
    out = enhance(rrdb, rgb, tile, halo)
    assert out.shape == rgb.shape and out.dtype == np.uint8 and np.array_equal(rgb, kept)


@pytest.mark.parametrize(
    "h, w, tile", [(h, w, tile) for h, w in SIZES for tile in (1, 16, 31, 64, 200) if tile > 1 or h * w < 200]
)
def test_tiles_of_arcnn_are_the_whole_picture(arcnn, h, w, tile):
    x = to_tensor(picture(h, w))
    whole = enhance_tensor(arcnn, x)
    assert (enhance_tensor(arcnn, x, tile) - whole).abs().max() < 1e-5
    with torch.no_grad():
        assert torch.equal(enhance_tensor(arcnn, x, exact=True), arcnn(x))
        assert 255 * (whole - arcnn(x)).abs().max() < 1e-3


@pytest.mark.parametrize("h, w", [(66, 54), (127, 65), (200, 180)])
def test_tiles_of_rrdb_are_the_whole_picture_with_a_halo_of_its_reach(rrdb, h, w):
    net, x = fill(RRDBNet(4, 1, 4)), to_tensor(picture(h, w))
    whole = enhance_tensor(net, x)
    assert (enhance_tensor(net, x, 32, net.reach) - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (enhance_tensor(net, x, 32, 4) - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("tile", [30, 31, 32, 33, 35])
def test_tiles_start_on_the_grid(rrdb, tile):
    "Off the grid, cells would be cut apart and no halo could fix it"
    x = to_tensor(picture(130, 90))
    assert tiling(rrdb, tile, 76)[0] % 4 == 0 and tiling(rrdb, tile, 76)[0] <= tile
    assert (enhance_tensor(rrdb, x, tile, 76) - enhance_tensor(rrdb, x)).abs().max() < 1e-5


@pytest.mark.parametrize(
    "reach, multiple, tile, want",
    [
        (9, 1, 128, (128, 9, "reach")),
        (9, 4, 130, (128, 12, "reach")),
        (EXACT, 4, 8, (8, EXACT, "reach")),
        (0, 1, 128, (128, 0, "reach")),
        (76, 4, 152, (152, 76, "reach")),
        (None, 8, 128, (None, 0, "global")),
        (None, 8, None, (None, 0, "whole")),
    ],
)
def test_default_plan(reach, multiple, tile, want):
    net = nn.Identity()
    net.reach, net.multiple = reach, multiple
    assert tiling(net, tile)[:3] == want


def test_padding_is_by_reflection(rrdb):
    x = to_tensor(picture(10, 7))
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (0, 2), (0, 1)], "reflect"))
    with torch.no_grad():
        assert torch.allclose(enhance_tensor(rrdb, x), rrdb(padded)[..., :10, :7], atol=1e-6)


def test_foreign_networks_work_without_our_attributes():
    net = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        assert torch.allclose(
            enhance_tensor(net, to_tensor(picture(9, 5)), 4), net(to_tensor(picture(9, 5))), atol=1e-6
        )


def test_modes_device_and_type_are_the_caller_s():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    net[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    y = enhance_tensor(net, x)
    assert y.dtype == torch.float64 and y.shape == x.shape and not y.requires_grad and y.is_contiguous()
    assert [m.training for m in net.modules()] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert enhance_tensor(fill(ARCNN().double()), x).dtype == torch.float64


def test_batches_are_pictures_one_by_one(arcnn):
    x = torch.rand(3, 3, 20, 30)
    assert torch.allclose(
        enhance_tensor(arcnn, x, 16),
        torch.cat([enhance_tensor(arcnn, x[i : i + 1]) for i in range(3)]),
        atol=1e-5,
    )


def test_read_only_and_sliced_arrays(rrdb):
    big = picture(40, 40)
    view = big[3:24:2, 5:18]
    view.setflags(write=False)
    assert np.array_equal(enhance(rrdb, view), enhance(rrdb, np.ascontiguousarray(view)))


def test_rounding_is_half_up_and_clamped():
    x = torch.tensor([-1.0, -0.001, 0.5 / 255, 1.499 / 255, 254.5 / 255, 1.2]).expand(3, 1, 6)
    assert to_rgb(x)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_weights_do_not_become_pictures(value):
    net = ARCNN()
    nn.init.constant_(net.reconstruction.bias, value)
    with pytest.raises(QebiasError, match="not finite"):
        enhance(net, picture(8, 8))


@pytest.mark.parametrize(
    "kwargs, what",
    [
        (dict(tile=2), "too small"),
        (dict(tile=-8), "tile is -8"),
        (
            dict(
                tile=8.0,
            ),
            "whole number",
        ),
        (dict(tile=True), "whole number"),
        (dict(tile=8, halo=-4), "halo is -4"),
        (dict(tile=8, halo="4"), "whole number"),
        (dict(halo=8), "border of a tile"),
        (dict(device="tpu9"), "device 'tpu9'"),
        (dict(device="cuda:77"), "cuda:77 is not there"),
        (dict(precision="half"), "fp32 or tf32 or bf16"),
    ],
)
def test_impossible_requests_are_one_line(rrdb, kwargs, what):
    with pytest.raises(QebiasError) as error:
        enhance(rrdb, picture(8, 8), **kwargs)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_lack_of_memory_is_one_line_and_other_errors_stay():
    class Fails(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, x):
            raise self.error

    with pytest.raises(QebiasError, match="pass a tile or a smaller one"):
        enhance(Fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")), picture(8, 8))
    with pytest.raises(RuntimeError, match="something else"):
        enhance(Fails(RuntimeError("something else")), picture(8, 8))


@pytest.mark.parametrize(
    "net, spec",
    [
        (lambda: RRDBNet(4, 1, 4), SPEC),
        (ARCNN, {"class": "qebias.generators.arcnn:ARCNN"}),
        (
            lambda: VGGStyle(6, 2, 32),
            {"class": "qebias.discriminators:VGGStyle", "kwargs": {"in_channels": 6, "width": 2, "size": 32}},
        ),
        (lambda: UNetSN(3, 4), {"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 4}}),
    ],
    ids=["rrdb", "arcnn", "vgg", "unet"],
)
def test_every_network_comes_back_from_its_file(tmp_path, net, spec):
    net = net()
    x = torch.rand(1, getattr(net, "in_channels", 3), 32, 32)
    net.train()(x)  # moves running statistics and power-iteration vectors
    save_network(tmp_path / "n.safetensors", net, spec, {"seed": 1})
    again = load_network(tmp_path / "n.safetensors")
    with torch.no_grad():
        assert torch.equal(again(x), net.eval()(x))
    assert read_header(tmp_path / "n.safetensors") == {"spec": spec, "provenance": {"seed": 1}}
    assert [f.name for f in tmp_path.iterdir()] == ["n.safetensors"]


@pytest.fixture()
def saved(tmp_path, rrdb):
    path = tmp_path / "generator.safetensors"
    save_network(path, rrdb, SPEC, {})
    return path


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_files_are_one_line(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(QebiasError) as error:
        load_network(saved)
    assert "generator.safetensors is not a whole safetensors file" in str(error.value) and "\n" not in str(
        error.value
    )


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"qebias": "{"}, {"qebias": "[]"}, {"qebias": '{"spec": {}}'}]
)
def test_files_without_a_spec_are_one_line(tmp_path, rrdb, metadata):
    save_file(rrdb.state_dict(), tmp_path / "n.safetensors", metadata)
    with pytest.raises(QebiasError, match="n.safetensors does not say which network it holds"):
        load_network(tmp_path / "n.safetensors")


@pytest.mark.parametrize(
    "spec, what",
    [
        (
            {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 8, "blocks": 1, "growth": 4}},
            "the header says width 8, the tensors say 4: they belong to two networks",
        ),
        ({"class": "qebias.generators.arcnn:ARCNN"}, "the weights lack extraction.weight"),
        ({"class": "qebias.generators.rrdb:Other"}, "'qebias.generators.rrdb:Other' is not known here"),
        ({"class": "../evil:Net"}, "the module '../evil' would be imported"),
        ({"class": "subprocess:Popen", "kwargs": {"args": "true"}}, "Pass --trust (trust=True) if you know"),
        ({"class": "qebias.cli:app"}, "'qebias.cli:app' is not known here"),
        ({"class": ["a"]}, "a spec is"),
        ({"class": "qebias.generators.rrdb:RRDBNet", "kwargs": [1]}, "they map arguments to values"),
        ({"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"depth": 1}}, "takes no depth"),
        ({"net": "x"}, "a spec is"),
        ("RRDBNet", "a spec is"),
    ],
)
def test_files_with_a_wrong_spec_are_one_line(tmp_path, rrdb, spec, what):
    save_file(
        rrdb.state_dict(),
        tmp_path / "n.safetensors",
        {"qebias": json.dumps({"spec": spec, "provenance": {}})},
    )
    with pytest.raises(QebiasError) as error:
        load_network(tmp_path / "n.safetensors")
    assert "n.safetensors: " in str(error.value) and what in str(error.value) and "\n" not in str(error.value)


def test_a_class_from_elsewhere_is_imported_only_on_trust(tmp_path, rrdb, monkeypatch):
    module, left = tmp_path / "strangers_net.py", tmp_path / "ran"
    module.write_text(
        f"open({str(left)!r}, 'w').close()\nfrom torch import nn\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path, spec = tmp_path / "n.safetensors", {"class": "strangers_net:Net"}
    save_file(
        nn.Conv2d(3, 3, 1).state_dict(prefix="conv."),
        path,
        {"qebias": json.dumps({"spec": spec, "provenance": {}})},
    )
    for trust in (False, (), {"another:Net"}):
        with pytest.raises(QebiasError, match="the module 'strangers_net' would be imported"):
            load_network(path, trust=trust)
    assert not left.exists() and "strangers_net" not in sys.modules
    for trust in (True, {"strangers_net:Net"}):
        assert type(load_network(path, trust=trust)).__name__ == "Net"
    assert left.exists()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"blocks": 10**9},
        {"blocks": 1000},  # as many as may be built, in minutes
        {"width": 10**9},
        {"growth": 10**9},
        {"blocks": True},
        {"blocks": 1.0},
        {"blocks": "1"},
        {"blocks": [1]},
        {"blocks": {"a": 1}},
        {"blocks": -1},
        {"blocks": None},
        {"blocks": float("nan")},
        {str(i): i for i in range(1000)},
    ],
)
def test_sizes_are_checked_before_anything_is_built(tmp_path, rrdb, kwargs):
    path = tmp_path / "n.safetensors"
    spec = {"class": SPEC["class"], "kwargs": SPEC["kwargs"] | kwargs}
    save_file(rrdb.state_dict(), path, {"qebias": json.dumps({"spec": spec, "provenance": {}})})
    start = time.process_time()
    with pytest.raises(QebiasError) as error:
        load_network(path)
    assert time.process_time() - start < 2
    assert "n.safetensors: " in str(error.value) and "\n" not in str(error.value)
    if any(type(size) is int and size > 1 for size in kwargs.values()) and len(kwargs) == 1:
        assert "they belong to two networks" in str(error.value)  # before any limit is asked
    assert len(str(error.value)) < 400 + len(str(path))


def test_a_file_of_very_many_tensors_ends_at_once(tmp_path):
    state = {f"body.{i}.rdb1.conv1.weight": torch.zeros(0) for i in range(6000)}
    path = tmp_path / "n.safetensors"
    save_file(state, path, {"qebias": json.dumps({"spec": SPEC, "provenance": {}})})
    with pytest.raises(QebiasError, match="it holds 6,000 tensors"):
        load_network(path)


@pytest.mark.parametrize(
    "kind", ["deep", "digits", "halo", "halo of text", "wide halo", "nothing", "provenance"]
)
def test_damaged_headers_are_one_line(tmp_path, rrdb, kind):
    spec = json.dumps(SPEC)
    header = {
        "deep": '{"spec": ' + "[" * 100_000 + "]" * 100_000 + ', "provenance": {}}',
        "digits": '{"spec": ' + "9" * 5000 + ', "provenance": {}}',
        "halo": f'{{"spec": {spec}, "provenance": {{"halo": {{"pixels": 1, "x": 2}}}}}}',
        "halo of text": f'{{"spec": {spec}, "provenance": {{"halo": {{"pixels": "1", "difference": 2}}}}}}',
        "wide halo": f'{{"spec": {spec}, "provenance": {{"halo": {{"pixels": 99999, "difference": 0}}}}}}',
        "nothing": f'{{"spec": {spec}, "provenance": null}}',
        "provenance": f'{{"spec": {spec}, "provenance": [1]}}',
    }[kind]
    path = tmp_path / "n.safetensors"
    save_file(rrdb.state_dict(), path, {"qebias": header})
    with pytest.raises(QebiasError) as error:
        load_network(path)
    assert "n.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_any_damaged_byte_of_a_header_ends_in_one_line_or_in_the_network(saved):
    data, random = saved.read_bytes(), np.random.default_rng(0)
    length = int.from_bytes(data[:8], "little") + 8
    for _ in range(200):
        damaged = bytearray(data)
        damaged[random.integers(length)] = random.integers(256)
        saved.write_bytes(damaged)
        try:
            load_network(saved)
        except QebiasError as error:
            assert "generator.safetensors" in str(error) and "\n" not in str(error)


def test_a_failing_save_leaves_the_old_file(saved, rrdb, monkeypatch):
    old = saved.read_bytes()

    def fails(path, content):
        path.touch()
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError):
        save_network(saved, rrdb, SPEC, {"new": True})
    assert saved.read_bytes() == old and len(list(saved.parent.iterdir())) == 1


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(QebiasError, match="does not exist, or is no file"):
        load_network(tmp_path)


def test_equal_networks_make_equal_files(saved, rrdb, tmp_path):
    save_network(
        tmp_path / "b.safetensors",
        load_weights(build(SPEC), rrdb.state_dict()),
        dict(reversed(SPEC.items())),
        {},
    )
    assert (tmp_path / "b.safetensors").read_bytes() == saved.read_bytes()


def test_saving_and_loading_leave_the_random_state(saved, rrdb):
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    load_network(saved)
    save_network(saved, rrdb, SPEC, {})
    assert torch.equal(torch.rand(3), want)


# ---------------------------------------------------------------- halos

NETWORKS = {
    "arcnn": ("ARCNN", {}),
    "dcad": ("DCAD", {}),
    "dncnn": ("DnCNN", {}),
    "cbdnet": ("CBDNet", {"width": 8}),
    "rdn": ("RDN", {}),
    "rbqe": ("RBQE", {"width": 4}),
    "mprnet": ("MPRNet", {}),
    "rrdb": ("RRDBNet", {"width": 4, "blocks": 1, "growth": 4}),
}


def network(name):
    module = pytest.importorskip(f"qebias.generators.{name}")
    cls, kwargs = NETWORKS[name]
    torch.manual_seed(0)
    return getattr(module, cls)(**kwargs)


class Convolved(nn.Module):
    """Known influence: every pixel sees the ones around it with the weight `decay` to the power of their
    distance, on every side"""

    multiple = 1

    def __init__(self, decay=0.5, radius=100, multiple=1, sides=(1, 1, 1, 1)):
        super().__init__()
        self.reach, self.multiple, self.radius = radius, multiple, radius
        d = torch.arange(-radius, radius + 1)
        kernel = decay ** d.abs().double()
        up, down, left, right = (
            kernel * (d < 0) * s if i % 2 == 0 else kernel * (d > 0) * s for i, s in enumerate(sides)
        )
        self.column, self.row = up + down + (d == 0), left + right + (d == 0)

    def forward(self, x):
        assert x.shape[2] % self.multiple == x.shape[3] % self.multiple == 0
        n, c, h, w = x.shape
        x = nn.functional.conv2d(
            x.reshape(n * c, 1, h, w), self.column.to(x).view(1, 1, -1, 1), padding=(self.radius, 0)
        )
        return nn.functional.conv2d(x, self.row.to(x).view(1, 1, 1, -1), padding=(0, self.radius)).reshape(
            n, c, h, w
        )


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


class Halving(nn.Module):
    "Looks one pixel far, if it is looked at on the right grid; takes every size"

    def __init__(self, grid):
        super().__init__()
        self.cell = grid

    def forward(self, x):
        y = nn.functional.avg_pool2d(pad_to_multiple(x, self.cell), self.cell)
        return nn.functional.interpolate(y, scale_factor=self.cell)[..., : x.shape[2], : x.shape[3]]


def gap(net, x, *plan):
    return (enhance_tensor(net, x, *plan) - enhance_tensor(net, x)).abs().max().item()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("h, w", SIZES)
def test_every_network_takes_every_size(name, h, w):
    net, x = network(name), to_tensor(picture(h, w))
    out = enhance(net, picture(h, w), exact=True)
    assert out.shape == (h, w, 3)
    padded = pad_to_multiple(x, net.multiple)
    with torch.no_grad():
        assert np.array_equal(out, to_rgb(net.eval()(padded)[..., :h, :w]))


@pytest.mark.parametrize("name", ["arcnn", "dcad", "dncnn", "cbdnet", "rdn"])
@pytest.mark.parametrize(
    "h, w, tile", [(64, 64, 32), (65, 127, 33), (101, 90, 50), (86, 99, 64), (67, 130, 16), (63, 65, 7)]
)
def test_tiles_of_a_small_reach_are_exact(name, h, w, tile):
    "Whatever the picture's size is modulo the grid: CBDNet shifts its coarse levels where that is not nought"
    net, x = network(name), to_tensor(picture(h, w))
    assert tiling(net, tile, x=x).how == "reach" and tiling(net, tile)[0] % grid_of(net) == 0
    assert gap(net, x, tile) < 1e-5


def test_cbdnet_needs_windows_that_end_like_the_picture():
    "Tiles as many would cut them, on the grid at both ends, do not agree on an odd picture"
    net, x = fill(network("cbdnet")), to_tensor(picture(99, 99))
    with torch.no_grad():
        naive, whole = net.eval()(x[..., :96, :96])[..., :32, :32], net(x)[..., :32, :32]
    assert (naive - whole).abs().max() > 1e-3
    assert gap(net, x, 32) < 1e-5


@pytest.mark.parametrize("name", ["rbqe", "rrdb"])
def test_a_halo_of_the_reach_is_exact_for_every_network(name):
    net, x = network(name), torch.rand(1, 3, 290, 301, generator=torch.Generator().manual_seed(0))
    assert gap(net, x, 64, net.reach) < 1e-5


@pytest.mark.parametrize(
    "sides, shape",
    [
        ((1, 1, 1, 1), (300, 300)),
        ((1, 0, 0, 0), (300, 200)),
        ((0, 1, 0, 0), (300, 200)),
        ((0, 0, 1, 0), (200, 300)),
        ((0, 0, 0, 1), (200, 300)),
    ],
)
@pytest.mark.parametrize("grid", [1, 4])
def test_measured_halo_sees_both_sides_of_a_seam_on_both_axes(sides, shape, grid):
    "Against brute force: the smallest halo on the grid at which real tiles agree"
    net, x = Convolved(0.5, 40, grid, sides), torch.ones(1, 3, *shape, dtype=torch.float64)
    found = measured_halo(net, x)
    brute = next(h for h in range(0, 41, grid) if gap(net, x, 50 // grid * grid, h) <= 5e-4)
    assert found.pixels == brute > 0 and found.difference <= 5e-4


def test_measured_halo_is_the_smallest_at_its_seams():
    "In one dimension by hand: a halo of h drops the sum of .5^d beyond it, .5^h"
    net, x = Convolved(0.5, 60, 1, (0, 0, 1, 0)), torch.ones(1, 3, 4, 400, dtype=torch.float64)
    for tolerance, want in [(1e-1, 4), (1e-2, 7), (1e-3, 10), (1e-5, 17)]:
        found = measured_halo(net, x, tolerance)
        assert found.pixels == want and abs(found.difference - 0.5**want) < 1e-12


@pytest.mark.parametrize("decay", [0.6, 0.8, 0.9])
def test_wide_halos_take_coarser_cuts(decay):
    net, x = Convolved(decay, 250, 1, (0, 0, 0, 1)), torch.ones(1, 3, 2, 700, dtype=torch.float64)
    found = measured_halo(net, x, 1e-3 * decay / (1 - decay))
    want = next(h for h in range(300) if decay**h <= 1e-3)
    assert abs(found.pixels - want) <= 1


@pytest.mark.parametrize("grid", [2, 8, 32])
def test_a_grid_that_is_not_stated_is_found_out(grid):
    net, x = Halving(grid), torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    assert measured_halo(net, x, grid=grid) == Halo(0, 0.0)
    assert measured_halo(net, x, grid=grid // 2).pixels is None
    assert tiling(net, 128, x=x)[:3] == (128, 0, "measured")  # states nothing: 32 is assumed


def test_a_network_coarser_than_assumed_is_taken_whole_and_said():
    net, x = Halving(64), torch.rand(1, 3, 640, 700, generator=torch.Generator().manual_seed(0))
    with pytest.warns(
        UserWarning,
        match="Halving takes the whole picture at once: no halo tried was enough, tiles are still",
    ):
        found = enhance_tensor(net, x, 128)
    assert torch.equal(found, enhance_tensor(net, x))


def test_an_influence_that_never_dies_is_told():
    x = torch.linspace(0, 1, 700).expand(1, 3, 600, 700)
    found = measured_halo(Mean(), x)
    assert found.pixels is None and found.difference > 0.1
    plan = tiling(Mean(), 128, x=x)
    assert plan.how == "global" and plan.tile is None and plan.difference > 0.01 and "\n" not in str(plan)
    assert tiling(Mean(), 128, 64, x=x)[:3] == (128, 64, "given")


def test_weights_that_are_broken_never_agree():
    net = network("rrdb")
    nn.init.constant_(net.conv_last.bias, float("nan"))
    assert measured_halo(net, torch.rand(1, 3, 200, 200)) == Halo(None, float("inf"))


def test_global_networks_take_the_full_frame_and_say_so():
    net, rgb = network("mprnet"), picture(80, 72)
    assert net.reach is None
    with pytest.warns(
        UserWarning, match="MPRNet takes the whole picture at once: the network looks at all of it"
    ) as said:
        tiled = enhance(net, rgb, 32)
    assert len(said) == 1 and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said where no tile was asked for, or the plan is known
        assert np.array_equal(tiled, enhance(net, rgb))
        assert np.array_equal(tiled, enhance(net, rgb, tiling(net, 32)))
        assert not np.array_equal(tiled, enhance(net, rgb, 32, 8))


def test_a_stored_halo_is_used():
    net, x = RRDBNet(4, 1, 4), torch.rand(1, 3, 120, 120)
    net.halo = Halo(8, 0.0004)
    assert tiling(net, 32) == tiling(net, 32, x=x) == (32, 8, "stored", 0.0004)
    assert torch.equal(enhance_tensor(net, x, 32), enhance_tensor(net, x, 32, 8))
    assert not torch.equal(enhance_tensor(net, x, 32), enhance_tensor(net, x, 32, 0))
    assert tiling(net, 32, 12).how == "given" and tiling(net, 160).how == "reach"
    net.halo = 10
    assert tiling(net, 32) == (32, 12, "stored", None)


@pytest.mark.parametrize("h, w", [(40, 600), (1, 300), (300, 1), (257, 300), (600, 5)])
def test_halos_are_measured_on_pictures_of_any_shape(h, w):
    net, x = Convolved(0.5, 90), torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    plan = tiling(net, 64, x=x)
    assert plan.how == "measured" and plan.halo < 20
    assert gap(net, x, 64) <= 1e-3


def test_a_halo_beyond_the_picture_is_no_trouble(rrdb):
    x = to_tensor(picture(60, 50))
    assert gap(rrdb, x, 32, 1000) < 1e-6


def test_measuring_needs_a_picture_and_room(rrdb):
    with pytest.raises(
        QebiasError,
        match="RRDBNet has no halo stored with its weights: pass the picture to measure one on, or a halo",
    ):
        tiling(rrdb, 64)
    with pytest.raises(
        QebiasError,
        match="cannot be measured on pictures of at most 12 pixels a side: pass pictures of 20 or more",
    ):
        measured_halo(rrdb, torch.rand(1, 3, 12, 10))


def test_measuring_leaves_the_network_as_it_was(rrdb):
    rrdb.train()
    before = {k: v.clone() for k, v in rrdb.state_dict().items()}
    rgb = np.concatenate([picture(300, 200)] * 2, 1)
    assert tiling(rrdb, 64, x=rgb) == tiling(rrdb, 64, x=to_tensor(rgb))
    assert (
        rrdb.training
        and not hasattr(rrdb, "halo")
        and all(torch.equal(v, before[k]) for k, v in rrdb.state_dict().items())
    )


@pytest.fixture(scope="module", params=["fresh", "trained", "filled"])
def weighted(request):
    """A deep narrow RRDBNet (reach 256): fresh, trained for a moment to take noise off, and with the wide
    influence of the fill rule, scaled to a picture's range"""
    torch.manual_seed(0)
    net = RRDBNet(8, 4, 8)
    if request.param == "filled":
        fill(net)
        with torch.no_grad():
            scale = 0.3 / net(torch.rand(1, 3, 128, 128)).std()
            net.conv_last.weight *= scale
            net.conv_last.bias *= scale
    if request.param == "trained":
        raw, cut = to_tensor(scene("train", "astronaut")), torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(150):
            i, j = torch.randint(0, 512 - 64, (2,), generator=cut).tolist()
            batch = raw[..., i : i + 64, j : j + 64]
            loss = (
                (net((batch + 0.1 * torch.randn(batch.shape, generator=cut)).clamp(0, 1)) - batch)
                .abs()
                .mean()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def scene(split, name):
    return next(image for image in load_dataset("sample", split) if image.name == name).load()


@pytest.mark.parametrize("tile", [64, 100, 200])
def test_the_tolerance_is_kept_on_a_real_photograph(weighted, tile):
    x = to_tensor(scene("eval", "coffee"))[..., :320, 100:500]  # not trained on
    plan = tiling(weighted, tile, x=x)
    assert plan.how in ("measured", "global") and plan.how == "global" or plan.difference <= 5e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert gap(weighted, x, plan) <= 1e-3
    if plan.how == "measured":
        assert gap(weighted, x, tile, max(plan.halo - 12, 0)) > 1e-3  # and hardly wider than needed


def test_peak_memory_is_bounded_by_the_tile():
    "Three times as high and as wide, the same tiles: not more memory"
    if not os.path.exists("/proc/self/status"):
        pytest.skip("peak memory is read from /proc")
    cases = [("arcnn", 128, (256, 256)), ("arcnn", 128, (768, 768)), ("arcnn", None, (512, 512))]
    small, large, whole = peaks(*cases)
    assert large - small < 24 and large < whole / 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arcnn", "rrdb"])
def test_peak_memory_at_2040_by_1356(name):
    if not os.path.exists("/proc/self/status"):
        pytest.skip("peak memory is read from /proc")
    tiles = (256, 512, None)
    found = dict(zip(tiles, peaks(*((name, tile, (1356, 2040)) for tile in tiles))))
    print(name, {tile: f"{mb:.0f} MiB" for tile, mb in found.items()})
    assert found[256] < found[None] / 5 and found[512] < found[None] / 2


def peaks(*cases):
    "MiB above the start, of each (network, tile, size) in a process of its own"
    command = [sys.executable, str(Path(__file__).parent / "benchmarks" / "memory.py")]
    for name, tile, size in cases:
        command += [name, str(tile), *map(str, size), "--"]
    done = subprocess.run(command[:-1], capture_output=True, text=True, check=True)
    return [float(json.loads(line)["peak"]) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_picture(rrdb):
    rgb = picture(127, 65)
    want = enhance(rrdb, rgb).astype(int)
    found = enhance(load_weights(build(SPEC), rrdb.state_dict()), rgb, device="cuda").astype(int)
    assert np.abs(found - want).max() <= 1


def test_real_photograph_in_tiles(arcnn):
    folder = Path(os.environ.get("QEBIAS_DATA", "/nonexistent")) / "kodak24"
    if not folder.is_dir():
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    rgb = read_rgb(sorted(p for p in folder.iterdir() if p.suffix == ".png" or p.suffix == ".webp")[0])
    whole = enhance(arcnn, rgb)
    assert whole.shape == rgb.shape and np.abs(enhance(arcnn, rgb, 200).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_way_through_memory_changes_no_number(name):
    "`enhance` and the plain call beside it"
    net, x = network(name).eval(), to_tensor(picture(48, 72))
    with torch.no_grad():
        plain = net(x)
    exact, found = enhance_tensor(net, x, exact=True), enhance_tensor(net, x)
    assert torch.equal(exact, plain) and exact.is_contiguous() and found.is_contiguous()
    assert (found - plain).abs().max() < 1e-5 * max(1, plain.abs().max())
    bf16 = enhance_tensor(net, x, precision="bf16")
    assert not torch.equal(bf16, plain) and (bf16 - plain).abs().mean() < 0.02 * max(1, plain.abs().max())
    assert all(p.is_contiguous() for p in net.parameters())  # the caller's weights stay where they lie


def test_bf16_leaves_the_ends_of_a_network_that_makes_the_picture_in_fp32():
    net = RRDBNet(8, 1, 8).eval()
    seen = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.dtype}))
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    enhance_tensor(net, to_tensor(picture(16, 16)), precision="bf16")
    assert seen.pop("conv_first") == seen.pop("conv_last") == torch.float32
    assert set(seen.values()) == {torch.bfloat16}
    for hook in hooks:
        hook.remove()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    enhance_tensor(net, to_tensor(picture(16, 16)), precision="bf16")
    assert not torch.is_autocast_enabled("cpu")


def test_a_network_that_fails_in_bf16_leaves_no_autocast_behind():
    class Fails(RRDBNet):
        def forward(self, x):
            super().forward(x)
            raise QebiasError("no")

    class FailsInside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 3, 1)

        def forward(self, x):
            return self.conv(x)

    for net, error in ((Fails(4, 1, 4), QebiasError), (FailsInside(), RuntimeError)):
        with pytest.raises(error):
            enhance_tensor(net, to_tensor(picture(16, 16)), precision="bf16")
        assert not torch.is_autocast_enabled("cpu")
        assert not any(m._forward_pre_hooks for m in net.modules())


def test_progress_counts_tiles(arcnn):
    said = []
    enhance(arcnn, picture(40, 70), 32, progress=lambda done, total: said.append((done, total)))
    assert said == [(i, 6) for i in range(1, 7)]


def test_a_photograph_gets_tiles_and_a_small_picture_none():
    assert tile_for(4000, 3000) == 512 and tile_for(512, 768) is None


def test_numbers_have_the_version_that_they_say():
    "Padding, tiles, halos and rounding in double precision; another number needs another VERSION"
    cases = {}
    for name, net in {"arcnn": fill(ARCNN().double()), "rrdb": fill(RRDBNet(4, 1, 4).double())}.items():
        rgb = (np.arange(53 * 41 * 3).reshape(53, 41, 3) * 37 % 256).astype(np.uint8)
        for tile, halo in ((None, None), (16, 4), (32, None)):
            x = torch.from_numpy(rgb).permute(2, 0, 1)[None].double() / 255
            values = fingerprint(enhance_tensor(net, x, tile, halo))
            cases[f"{name}, tile {tile}, halo {halo}"] = [float(f"{v:.8g}") for v in values]
    levels = torch.linspace(-0.1, 1.1, 3001, dtype=torch.float64).expand(3, 1, -1)
    cases["rounding"] = int(to_rgb(levels).astype(int).sum())
    path = Path(__file__).parent / "numbers" / "inference.json"
    stored = json.loads(path.read_text())
    assert set(stored) == {str(VERSION)}, f"raise VERSION, or store its numbers in {path}"
    for name, found in cases.items():
        assert stored[str(VERSION)][name] == pytest.approx(found, rel=1e-6), f"{name}: raise VERSION"


def test_to_rgb_rounds_as_written_down():
    x = torch.cat([torch.linspace(-0.2, 1.2, 40001), (torch.arange(256) + 0.5) / 255])
    want = ((x.double().clamp(0, 1).float() * 255 + 0.5).floor()).to(torch.uint8)
    assert np.array_equal(to_rgb(x.expand(3, 1, -1))[0, :, 0], want.numpy())
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = torch.rand(3, 5, 4)
        broken[1, 2, 3] = bad
        with pytest.raises(QebiasError, match="not finite"):
            to_rgb(broken)


def test_what_is_no_generator_is_one_line():
    class Several(nn.Module):
        def forward(self, x):
            return [x, x]

    rgb = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(QebiasError, match="a generator is a torch.nn.Module, not a function"):
        enhance(lambda x: x, rgb)
    with pytest.raises(QebiasError, match="Several gave a list: a generator gives one tensor"):
        enhance(Several(), rgb)
    with pytest.raises(QebiasError, match=r"these go up to 200: divide them by 255"):
        enhance_tensor(nn.Identity(), torch.full((1, 3, 8, 8), 200.0))


def test_a_picture_in_another_form_is_one_line():
    x = torch.rand(2, 3, 8, 8)
    for call, bad, words in [
        (lambda x: enhance_tensor(nn.Identity(), x), np.zeros((1, 3, 8, 8)), "not a ndarray"),
        (lambda x: enhance_tensor(nn.Identity(), x), [x], "not a list"),
        (to_rgb, x, "takes one picture"),
        (to_rgb, x[:1, :2], "takes one picture"),
        (to_rgb, x[:1, :, :0], "takes one picture"),
        (to_rgb, (255 * x[:1]).byte(), "floating point"),
        (to_rgb, np.zeros((8, 8, 3)), "not a ndarray"),
    ]:
        with pytest.raises(QebiasError, match=words):
            call(bad)
    with pytest.warns(UserWarning, match="enhance takes pictures in .0, 1., these begin at -1"):
        enhance_tensor(nn.Identity(), torch.full((1, 3, 8, 8), -1.0))


def test_a_precision_is_the_call_s_and_not_the_caller_s_autocast(arcnn):
    rgb = picture(24, 31)
    whole, low = (enhance(arcnn, rgb, precision=precision) for precision in ("fp32", "bf16"))
    with torch.autocast("cpu", torch.float16):
        assert (enhance(arcnn, rgb) == whole).all()
        assert (enhance(arcnn, rgb, precision="bf16") == low).all()
