"Every size, every tile, every way in which a file can be broken"
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qebias.core import QebiasError, read_rgb
from qebias.discriminators import UNetSN, VGGStyle
from qebias.generators.arcnn import ARCNN
from qebias.generators.core import fill, load_weights
from qebias.generators.rrdb import RRDBNet
from qebias.inference import HALO, enhance, enhance_tensor, tiling, to_rgb, to_tensor
from qebias.networks import build, load_network, read_header, save_network

SIZES = [(1, 1), (3, 5), (9, 17), (66, 54), (127, 65)]
SPEC = {"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 4, "blocks": 1, "growth": 4}}


@pytest.fixture(scope="module")
def arcnn(): return fill(ARCNN())


@pytest.fixture(scope="module")
def rrdb():
    torch.manual_seed(0)
    return RRDBNet(4, 1, 4)


def picture(h, w): return np.random.default_rng(h*1000 + w).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize("h, w", SIZES)
@pytest.mark.parametrize("tile, halo", [(None, None), (4, 0), (32, None), (50, 8), (1000, None)])
def test_every_size_and_tile_keeps_the_shape(rrdb, h, w, tile, halo):
    rgb = picture(h, w)
    kept = rgb.copy()
    out = enhance(rrdb, rgb, tile, halo)
    assert out.shape == rgb.shape and out.dtype == np.uint8 and np.array_equal(rgb, kept)


@pytest.mark.parametrize("h, w, tile", [(h, w, tile) for h, w in SIZES for tile in (1, 16, 31, 64, 200) if tile > 1 or h*w < 200])
def test_tiles_of_arcnn_are_the_whole_picture(arcnn, h, w, tile):
    x = to_tensor(picture(h, w))
    whole = enhance_tensor(arcnn, x)
    assert (enhance_tensor(arcnn, x, tile) - whole).abs().max() < 1e-5
    with torch.no_grad(): assert torch.equal(whole, arcnn(x))


@pytest.mark.parametrize("h, w", [(66, 54), (127, 65), (200, 180)])
def test_tiles_of_rrdb_are_the_whole_picture_with_a_halo_of_its_reach(rrdb, h, w):
    net, x = fill(RRDBNet(4, 1, 4)), to_tensor(picture(h, w))
    whole = enhance_tensor(net, x)
    assert (enhance_tensor(net, x, 32, net.reach) - whole).abs().max() < 1e-5*whole.abs().max()
    assert (enhance_tensor(net, x, 32, 4) - whole).abs().max() > 1e-3*whole.abs().max()


@pytest.mark.parametrize("tile", [30, 31, 32, 33, 35])
def test_tiles_start_on_the_grid(rrdb, tile):
    "Off the grid, cells would be cut apart and no halo could mend it"
    x = to_tensor(picture(130, 90))
    assert tiling(rrdb, tile)[0] % 4 == 0 and tiling(rrdb, tile)[0] <= tile
    assert (enhance_tensor(rrdb, x, tile, 76) - enhance_tensor(rrdb, x)).abs().max() < 1e-5


@pytest.mark.parametrize("reach, multiple, want", [(9, 1, 9), (9, 4, 12), (76, 4, HALO), (None, 8, HALO), (0, 1, 0)])
def test_default_halo(reach, multiple, want):
    net = nn.Identity()
    net.reach, net.multiple = reach, multiple
    assert tiling(net, 128) == (128, want)


def test_padding_is_by_reflection(rrdb):
    x = to_tensor(picture(10, 7))
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (0, 2), (0, 1)], "reflect"))
    with torch.no_grad(): assert torch.allclose(enhance_tensor(rrdb, x), rrdb(padded)[..., :10, :7], atol=1e-6)


def test_foreign_networks_work_without_our_attributes():
    net = nn.Conv2d(3, 3, 1)
    with torch.no_grad(): assert torch.allclose(enhance_tensor(net, to_tensor(picture(9, 5)), 4), net(to_tensor(picture(9, 5))), atol=1e-6)


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
    assert torch.allclose(enhance_tensor(arcnn, x, 16), torch.cat([enhance_tensor(arcnn, x[i:i+1]) for i in range(3)]), atol=1e-5)


def test_read_only_and_sliced_arrays(rrdb):
    big = picture(40, 40)
    view = big[3:24:2, 5:18]
    view.setflags(write=False)
    assert np.array_equal(enhance(rrdb, view), enhance(rrdb, np.ascontiguousarray(view)))


def test_rounding_is_half_up_and_clamped():
    x = torch.tensor([-1., -.001, .5/255, 1.499/255, 254.5/255, 1.2]).expand(3, 1, 6)
    assert to_rgb(x)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_weights_do_not_become_pictures(value):
    net = ARCNN()
    nn.init.constant_(net.reconstruction.bias, value)
    with pytest.raises(QebiasError, match="not finite"): enhance(net, picture(8, 8))


@pytest.mark.parametrize("kwargs, what", [
    (dict(tile=2), "too small"), (dict(tile=-8), "too small"), (dict(tile=8., ), "whole number"), (dict(tile=True), "whole number"),
    (dict(tile=8, halo=-4), "halo is -4"), (dict(tile=8, halo="4"), "whole number"), (dict(halo=8), "border of a tile"),
    (dict(device="tpu9"), "device 'tpu9'"), (dict(device="cuda:77"), "cuda:77 is not there"), (dict(precision="half"), "fp32 or bf16")])
def test_impossible_requests_are_one_line(rrdb, kwargs, what):
    with pytest.raises(QebiasError) as error: enhance(rrdb, picture(8, 8), **kwargs)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_lack_of_memory_is_one_line_and_other_errors_stay():
    class Fails(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error = error
        def forward(self, x): raise self.error
    with pytest.raises(QebiasError, match="pass a tile, or a smaller one"):
        enhance(Fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")), picture(8, 8))
    with pytest.raises(RuntimeError, match="something else"): enhance(Fails(RuntimeError("something else")), picture(8, 8))


@pytest.mark.parametrize("net, spec", [
    (lambda: RRDBNet(4, 1, 4), SPEC), (ARCNN, {"class": "qebias.generators.arcnn:ARCNN"}),
    (lambda: VGGStyle(6, 2, 32), {"class": "qebias.discriminators:VGGStyle", "kwargs": {"in_channels": 6, "width": 2, "size": 32}}),
    (lambda: UNetSN(3, 4), {"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 4}})], ids=["rrdb", "arcnn", "vgg", "unet"])
def test_every_network_comes_back_from_its_file(tmp_path, net, spec):
    net = net()
    x = torch.rand(1, getattr(net, "in_channels", 3), 32, 32)
    net.train()(x)   # moves running statistics and power-iteration vectors
    save_network(tmp_path/"n.safetensors", net, spec, {"seed": 1})
    again = load_network(tmp_path/"n.safetensors")
    with torch.no_grad(): assert torch.equal(again(x), net.eval()(x))
    assert read_header(tmp_path/"n.safetensors") == {"spec": spec, "provenance": {"seed": 1}}
    assert [f.name for f in tmp_path.iterdir()] == ["n.safetensors"]


@pytest.fixture()
def saved(tmp_path, rrdb):
    path = tmp_path/"generator.safetensors"
    save_network(path, rrdb, SPEC, {})
    return path


@pytest.mark.parametrize("keep", [0, 4, 100, .5, .999])
def test_truncated_files_are_one_line(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[:keep if isinstance(keep, int) else int(keep*len(data))])
    with pytest.raises(QebiasError) as error: load_network(saved)
    assert "generator.safetensors is not a whole safetensors file" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"qebias": "{"}, {"qebias": "[]"}, {"qebias": '{"spec": {}}'}])
def test_files_without_a_spec_are_one_line(tmp_path, rrdb, metadata):
    save_file(rrdb.state_dict(), tmp_path/"n.safetensors", metadata)
    with pytest.raises(QebiasError, match="n.safetensors does not say which network it holds"): load_network(tmp_path/"n.safetensors")


@pytest.mark.parametrize("spec, what", [
    ({"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"width": 8, "blocks": 1, "growth": 4}}, "conv_first.weight has shape (4, 48, 3, 3) in the weights, expected (8, 48, 3, 3)"),
    ({"class": "qebias.generators.arcnn:ARCNN"}, "the weights lack extraction.weight"),
    ({"class": "qebias.generators.rrdb:Other"}, "'qebias.generators.rrdb:Other' is not known here"),
    ({"class": "../evil:Net"}, 'write it as "module:Class"'), ({"class": "subprocess:Popen", "kwargs": {"args": "true"}}, "subprocess:Popen is no network"),
    ({"class": "qebias.generators.rrdb:RRDBNet", "kwargs": {"depth": 1}}, "takes no depth"), ({"net": "x"}, "a spec is"), ("RRDBNet", "a spec is")])
def test_files_with_a_wrong_spec_are_one_line(tmp_path, rrdb, spec, what):
    save_file(rrdb.state_dict(), tmp_path/"n.safetensors", {"qebias": json.dumps({"spec": spec, "provenance": {}})})
    with pytest.raises(QebiasError) as error: load_network(tmp_path/"n.safetensors")
    assert "n.safetensors: " in str(error.value) and what in str(error.value) and "\n" not in str(error.value)


def test_a_failing_save_leaves_the_old_file(saved, rrdb, monkeypatch):
    import qebias.networks as module
    old = saved.read_bytes()
    def fails(state, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")
    monkeypatch.setattr(module, "save_file", fails)
    with pytest.raises(OSError): save_network(saved, rrdb, SPEC, {"new": True})
    assert saved.read_bytes() == old and len(list(saved.parent.iterdir())) == 1


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(QebiasError, match="does not exist, or is no file"): load_network(tmp_path)


def test_equal_networks_make_equal_files(saved, rrdb, tmp_path):
    save_network(tmp_path/"b.safetensors", load_weights(build(SPEC), rrdb.state_dict()), dict(reversed(SPEC.items())), {})
    assert (tmp_path/"b.safetensors").read_bytes() == saved.read_bytes()


def test_saving_and_loading_leave_the_random_state(saved, rrdb):
    torch.manual_seed(11)
    want = torch.rand(3)
    torch.manual_seed(11)
    load_network(saved)
    save_network(saved, rrdb, SPEC, {})
    assert torch.equal(torch.rand(3), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_picture(rrdb):
    rgb = picture(127, 65)
    want = enhance(rrdb, rgb).astype(int)
    found = enhance(load_weights(build(SPEC), rrdb.state_dict()), rgb, device="cuda").astype(int)
    assert np.abs(found - want).max() <= 1


def test_real_photograph_in_tiles(arcnn):
    folder = Path(os.environ.get("QEBIAS_DATA", "/nonexistent"))/"kodak24"
    if not folder.is_dir(): pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    rgb = read_rgb(sorted(p for p in folder.iterdir() if p.suffix == ".png" or p.suffix == ".webp")[0])
    whole = enhance(arcnn, rgb)
    assert whole.shape == rgb.shape and np.abs(enhance(arcnn, rgb, 200).astype(int) - whole).max() <= 1
