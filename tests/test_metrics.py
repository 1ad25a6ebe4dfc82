"""Metrics and Fréchet distances: against independent computations, without network, on real photographs, and
through faults"""

import dataclasses
import importlib.util
import io
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from qebias import metrics, scorers
from qebias.core import QebiasError, file_digest, read_rgb
from qebias.metrics import METRICS, available, clean_resize, features, frechet_distance, metric, psnr, score
from qebias.weights import FILES, MissingWeights, convert_weights, find

pytestmark = pytest.mark.filterwarnings("ignore::qebias.metrics.FewImages")
HEADS = "LPIPS_v0.1_alex-df73285e.pth"
RNG = np.random.default_rng(0)


def jpeg(rgb, quality):
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def folder(variable, *inside):
    "A folder that an environment variable names, or skip"
    path = os.environ.get(variable)
    if not path or not all((Path(path) / name).exists() for name in inside):
        pytest.skip(f"set {variable} to a folder that holds {', '.join(inside)}")
    return Path(path)


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return np.ascontiguousarray(data.coffee()[:288, :288])


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    "A machine without any weight file"
    for variable in ("QEBIAS_WEIGHTS", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))


# --- without weights


def test_every_named_metric_without_its_files_is_refused_at_once_and_says_why(nowhere, no_network):
    need = [name for name, entry in METRICS.items() if entry.weights]
    start = time.perf_counter()
    for name in need:
        with pytest.raises(MissingWeights) as error:
            metric(name) if METRICS[name].kind != "set" else features(name)
        assert (
            name in str(error.value)
            and METRICS[name].weights[0] in str(error.value)
            and "\n" not in str(error.value)
        )
    assert time.perf_counter() - start < 2
    usable, reasons = available()
    assert usable == [name for name in METRICS if name not in need] and list(reasons) == need
    assert {"psnr", "ssim", "nlpd", "fd_nss"} <= set(usable)
    with pytest.raises(MissingWeights):
        score([], ["psnr", "musiq"])


def test_a_metric_is_refused_before_pyiqa_is_imported():
    code = (
        "import sys, qebias.metrics as m\n"
        "try: m.metric('ahiq')\n"
        "except m.QebiasError: pass\n"
        "m.metric('psnr'); assert 'pyiqa' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "QEBIAS_WEIGHTS": "/nonexistent", "TORCH_HOME": "/nonexistent"},
    )


def test_a_wrong_file_is_refused_by_name(nowhere, monkeypatch, tmp_path):
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    (tmp_path / "musiq_koniq_ckpt-e95806b9.pth").write_bytes(b"not weights")
    with pytest.raises(QebiasError, match="is not musiq_koniq_ckpt-e95806b9.pth"):
        metric("musiq")


@pytest.mark.parametrize("name", ["psnr", "ssim", "nlpd"])
def test_smallest_and_odd_sizes(name, photo, no_network):
    side, value = METRICS[name].min_side, metric(name)
    for h, w in ((side, side), (side + 1, side + 3), (97, 131)):
        assert np.isfinite(value(jpeg(photo, 20)[:h, :w], photo[:h, :w]))
    if side > 1:
        with pytest.raises(QebiasError, match=f"{name} needs images of at least {side}x{side} px"):
            value(photo[: side - 1], photo[: side - 1])


@pytest.mark.parametrize("name", ["ssim", "nlpd"])
def test_the_distances_of_a_pair_are_symmetric(name, photo):
    value, other = metric(name), jpeg(photo, 20)
    assert value(photo, other) == pytest.approx(value(other, photo), rel=1e-6)


def test_psnr_is_over_rgb_and_not_luma(photo):
    red = photo.copy()
    red[..., 0] ^= 8
    error = (red[..., 0].astype(float) - photo[..., 0]) / 255
    assert psnr(red, photo) == pytest.approx(-10 * np.log10((error**2).mean() / 3 + 1e-8))


def test_read_only_grey_and_opaque_images_are_taken(photo):
    photo.flags.writeable = False
    grey = photo[..., 0]
    assert metric("nlpd")(grey, np.repeat(grey[..., None], 3, 2)) == 0
    assert features("fd_nss")(photo).shape == (9, 36)


def test_score_takes_a_generator_in_one_pass_and_names_the_image_that_fails(photo):
    seen = []

    def images():
        for name in "ab":
            seen.append(name)
            yield name, jpeg(photo, 20), photo

    table = score(images(), ["psnr", "fd_nss", "psnr"])
    assert (
        seen == ["a", "b"]
        and list(table.metric) == ["psnr", "psnr", "fd_nss"]
        and list(table.image) == ["a", "b", ""]
    )
    with pytest.raises(QebiasError, match="^b: psnr compares images of one size"):
        score([("a", photo, photo), ("b", photo[1:], photo)], ["psnr"], errors="raise")
    assert len(score([], ["psnr", "fd_nss"])) == 0


def test_a_flat_block_is_left_out_of_both_sets(photo):
    burnt = photo.copy()
    burnt[:96, :96] = 255
    value = score([("x", jpeg(photo, 20), burnt)], ["fd_nss"]).value.item()
    nss = features("fd_nss")
    assert value == pytest.approx(frechet_distance(nss(jpeg(photo, 20))[1:], nss(burnt)[1:]))


# --- Fréchet


@pytest.mark.parametrize("n,m,d", [(50, 60, 3), (400, 300, 64), (200, 900, 36), (37, 36, 36), (41, 90, 40)])
def test_frechet_equals_the_square_root_form(n, m, d):
    from scipy.linalg import sqrtm

    a, b = (
        RNG.normal(size=(n, d)) @ (np.eye(d) + 0.3 * RNG.normal(size=(d, d))),
        2 * RNG.normal(size=(m, d)) + RNG.normal(size=d),
    )
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_equals_pyiqas_where_that_is_stable(monkeypatch):
    from pyiqa.archs import fid_arch

    sqrtm, theirs = fid_arch.linalg.sqrtm, fid_arch.frechet_distance
    monkeypatch.setattr(
        fid_arch.linalg, "sqrtm", lambda matrix, disp=True: sqrtm(matrix) if disp else (sqrtm(matrix), 0.0)
    )  # scipy 1.18 has no `disp`, which pyiqa passes
    a, b = RNG.normal(size=(500, 20)), RNG.normal(size=(400, 20)) * 1.5 + 0.2
    assert frechet_distance(a, b) == pytest.approx(
        theirs(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)), rel=1e-6
    )


def test_frechet_of_few_rows_in_many_dimensions_is_exact():
    """Two samples that live in orthogonal planes: the covariances share no direction, so the cross term is
    nought"""
    a, b = np.zeros((5, 1000)), np.zeros((7, 1000))
    a[:, :4], b[:, 500:506] = RNG.normal(size=(5, 4)), RNG.normal(size=(7, 6))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a, a + 1) == pytest.approx(1000, rel=1e-10)


def test_frechet_of_gaussians_in_one_dimension_and_diagonal():
    a, b = 3 * RNG.normal(size=(20000, 2)) * [1, 2] + [1, 0], RNG.normal(size=(20000, 2)) + [0, 2]
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (3 - 1) ** 2 + (6 - 1) ** 2, rel=0.05)
    one = frechet_distance(a[:, :1], b[:, :1])
    assert one == pytest.approx(
        (a[:, 0].mean() - b[:, 0].mean()) ** 2 + (a[:, 0].std(ddof=1) - b[:, 0].std(ddof=1)) ** 2, rel=1e-9
    )


def test_frechet_is_invariant_under_rotation_and_common_shift_and_quadratic_in_scale():
    a, b = RNG.normal(size=(60, 10)), RNG.normal(size=(80, 10)) * 2 + 1
    turn = np.linalg.qr(RNG.normal(size=(10, 10)))[0]
    value = frechet_distance(a, b)
    assert frechet_distance(a @ turn + 5, b @ turn + 5) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)


def test_frechet_of_100_images_is_fast():
    a, b = RNG.normal(size=(100, 2048)), RNG.normal(size=(100, 2048))
    took = min(timed(lambda: frechet_distance(a, b)) for _ in range(5))
    assert took < 0.1


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "a,b,message",
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "the first set has shape"),
        (np.zeros(3), np.zeros((4, 3)), "the first set has shape"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "3 and 4 features"),
        (np.zeros((2, 3)), np.full((2, 3), np.inf), "the second set has 2 of 2 rows"),
    ],
)
def test_frechet_refuses_in_one_line(a, b, message):
    with pytest.raises(QebiasError, match=message) as error:
        frechet_distance(a, b)
    assert "\n" not in str(error.value)


# --- features


def test_nss_rows_go_along_the_rows_of_the_image(photo):
    coded = photo.copy()
    coded[96:192, 192:288] = RNG.integers(0, 256, (96, 96, 3), np.uint8)  # row 1, column 2
    change = np.abs(features("fd_nss")(coded) - features("fd_nss")(photo)).max(1)
    assert change.argmax() == 1 * 3 + 2
    tall = features("fd_nss")(coded[:, :192])
    assert tall.shape == (6, 36)


def test_nss_is_what_pyiqas_niqe_computes(photo):
    from pyiqa.archs.niqe_arch import calculate_niqe

    mean, root = RNG.normal(size=36), RNG.normal(size=(36, 36))
    theirs = calculate_niqe(
        torch.tensor(photo).permute(2, 0, 1)[None] / 255,
        mu_pris_param=torch.tensor(mean),
        cov_pris_param=torch.tensor(root @ root.T),
    )
    rows = features("fd_nss")(photo)
    off, pooled = mean - rows.mean(0), (root @ root.T + np.cov(rows, rowvar=False)) / 2
    assert float(theirs) == pytest.approx(np.sqrt(off @ np.linalg.pinv(pooled) @ off), rel=1e-9)


@pytest.mark.parametrize("h,w", [(288, 200), (17, 400), (299, 299)])
def test_clean_resize_is_pyiqas(h, w, tmp_path, photo):
    from pyiqa.archs.fid_arch import ResizeDataset

    rgb = np.resize(photo, (h, w, 3))
    Image.fromarray(rgb).save(tmp_path / "p.png")
    theirs = ResizeDataset([tmp_path / "p.png"], "clean")[0].permute(1, 2, 0).numpy()
    assert np.array_equal(clean_resize(rgb), theirs)


# --- with real weights


def lpips_by_hand(x, y, weights):
    "LPIPS-alex straight from the files, with functional calls only"
    trunk, heads = (
        torch.load(weights / metrics.ALEXNET[1], map_location="cpu"),
        torch.load(weights / HEADS, map_location="cpu"),
    )
    shift, scale = (
        torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1),
        torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1),
    )

    def stages(rgb):
        h = (2 * torch.tensor(rgb).permute(2, 0, 1)[None].float() / 255 - 1 - shift) / scale
        for layer, (stride, padding) in {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}.items():
            if layer in (3, 6):
                h = F.max_pool2d(h, 3, 2)
            h = F.relu(
                F.conv2d(
                    h, trunk[f"features.{layer}.weight"], trunk[f"features.{layer}.bias"], stride, padding
                )
            )
            yield h

    total = 0
    for i, (a, b) in enumerate(zip(stages(x), stages(y))):
        difference = (
            a / (a.norm(dim=1, keepdim=True) + 1e-10) - b / (b.norm(dim=1, keepdim=True) + 1e-10)
        ) ** 2
        total += (difference * heads[f"lin{i}.model.1.weight"]).sum(1).mean()
    return float(total)


def test_lpips_is_the_one_computed_by_hand_and_a_turned_kernel_would_show(photo, no_network, monkeypatch):
    weights = folder("QEBIAS_WEIGHTS", metrics.ALEXNET[1], HEADS)
    lpips, other = metric("lpips-alex"), jpeg(photo, 20)
    assert lpips(photo, photo) == 0
    assert lpips(other, photo) == pytest.approx(lpips_by_hand(other, photo, weights), rel=1e-5)
    assert lpips(photo, other) == pytest.approx(lpips(other, photo), rel=1e-5)
    turned = {
        key: value.transpose(-1, -2) if value.ndim == 4 else value
        for key, value in metrics.state_of(metrics.ALEXNET[0], "").items()
    }
    real = metrics.state_of
    monkeypatch.setattr(
        metrics,
        "state_of",
        lambda file, *args, **kw: turned if file == metrics.ALEXNET[0] else real(file, *args, **kw),
    )
    assert abs(metric("lpips-alex")(other, photo) - lpips(other, photo)) > 0.001


def test_lpips_refuses_a_trunk_that_does_not_fit(no_network, monkeypatch):
    folder("QEBIAS_WEIGHTS", metrics.ALEXNET[1], HEADS)
    real = metrics.state_of

    def broken(file, *args, **kw):
        state = real(file, *args, **kw)
        return {key: value for key, value in state.items() if key != "features.8.bias"}

    monkeypatch.setattr(metrics, "state_of", broken)
    with pytest.raises(QebiasError, match="alexnet-owt-7be5be79.pth does not fit its network"):
        metric("lpips-alex")


def test_niqe_from_our_features_is_pyiqas_value(photo, no_network):
    from scipy.io import loadmat

    model = loadmat(folder("QEBIAS_WEIGHTS", "niqe_modelparameters.mat") / "niqe_modelparameters.mat")
    rows = features("fd_nss")(photo)
    off, pooled = (
        model["mu_prisparam"].ravel() - rows.mean(0),
        (model["cov_prisparam"] + np.cov(rows, rowvar=False)) / 2,
    )
    assert metric("niqe")(photo) == pytest.approx(np.sqrt(off @ np.linalg.pinv(pooled) @ off), rel=1e-6)


def test_alexnet_features(photo, no_network):
    folder("QEBIAS_WEIGHTS", metrics.ALEXNET[1])
    alex = features("fd_alex")
    row = alex(photo)
    assert row.shape == (1, 256) and row.dtype == np.float64 and (row >= 0).all() and row.any()
    assert alex(photo[:31, :40]).shape == (1, 256)
    images = [(str(i), jpeg(photo[:, :200], 10 + 20 * i), photo[:, :200]) for i in range(3)]
    value = score(images, ["fd_alex"]).value.item()
    assert value == pytest.approx(
        frechet_distance(*(np.concatenate([alex(x[k]) for x in images]) for k in (1, 2)))
    )


def test_kodak_photographs(no_network):
    """Real photographs: the order of qualities is kept by every metric, and an image is at distance nought of
    itself"""
    photographs = [
        read_rgb(path)[:256, :256]
        for path in sorted((folder("QEBIAS_DATA", "kodak24") / "kodak24").glob("*.png"))[:3]
    ]
    usable, _ = available(["psnr", "ssim", "nlpd", "lpips-alex"])
    for name in usable:
        value, sign = metric(name), 1 if METRICS[name].better == "higher" else -1
        for raw in photographs:
            found = [sign * value(jpeg(raw, q), raw) for q in (10, 30, 50, 90)] + [sign * value(raw, raw)]
            assert found == sorted(found), name


PUBLISHED = {
    "psnr": (21.1136, 20.9872, 27.0139, 23.3002, 21.6186),
    "ssim": (0.6997, 0.9978, 0.9989, 0.9671, 0.6522),
    "nlpd": (0.5616, 0.0139, 0.0110, 0.3033, 0.4335),
    "lpips-alex": (0.7237, 0.2572, 0.0508, 0.0521, 0.4253),
    "niqe": (15.6538, 3.6549, 3.2342, 3.1922, 9.0722),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_pyiqas_five_calibration_pairs(name, no_network):
    """The values that IQA-PyTorch publishes for its own five pairs (its folder ResultsCalibra, which its
    wheel carries)"""
    pairs = Path(importlib.util.find_spec("pyiqa").origin).parent.parent / "ResultsCalibra"
    if not (pairs / "ref_dir").is_dir():
        pytest.skip("this pyiqa does not carry its calibration pairs")
    if name not in available([name])[0]:
        pytest.skip(f"set QEBIAS_WEIGHTS to a folder that holds {', '.join(METRICS[name].weights)}")
    images = [
        (image, *(pairs / side / f"{image}.bmp" for side in ("dist_dir", "ref_dir")))
        for image in ("I03", "I04", "I06", "I08", "I19")
    ]
    found = score(images, [name]).value.to_list()
    assert found == pytest.approx(PUBLISHED[name], rel=2e-4, abs=6e-5)


# --- what is done in another way than pyiqa does it


def pyiqa_tensor(rgb):
    from torchvision.transforms.functional import to_tensor

    return to_tensor(rgb)[None]


@pytest.mark.parametrize("h,w", [(192, 192), (200, 301), (288, 288)])
@pytest.mark.parametrize("quality", [5, 60])
def test_ssim_and_block_statistics_are_pyiqas(photo, h, w, quality):
    "Also where JPEG leaves flat areas, in which the sign of a difference of 1e-8 decides"
    from pyiqa.archs.niqe_arch import blockproc, compute_feature, imresize, normalize_img_with_gauss
    from pyiqa.archs.ssim_arch import SSIM, to_y_channel

    raw = np.ascontiguousarray(np.tile(photo, (1, 2, 1))[:h, :w])
    enhanced = jpeg(raw, quality)
    enhanced[:70, :80] = 255
    assert metric("ssim")(enhanced, raw) == pytest.approx(
        float(SSIM()(pyiqa_tensor(enhanced), pyiqa_tensor(raw))), rel=1e-12
    )
    rows, columns = h // 96, w // 96
    luma, theirs = (
        to_y_channel(pyiqa_tensor(enhanced), 255, "yiq").double()[..., : rows * 96, : columns * 96],
        [],
    )
    for side in (96, 48):
        theirs.append(
            blockproc(normalize_img_with_gauss(luma, padding="replicate"), [side, side], fun=compute_feature)
        )
        luma = imresize(luma / 255, scale=0.5, antialiasing=True) * 255
    theirs = torch.cat(theirs, -1)[0].reshape(columns, rows, 36).transpose(0, 1).reshape(-1, 36)
    assert np.allclose(
        metrics._View(enhanced).statistics.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-11, equal_nan=True
    )


def test_a_flat_image_has_no_niqe(photo):
    flat = np.full((192, 192, 3), 90, np.uint8)
    assert np.isnan(metrics._niqe_distance(metrics._View(flat).statistics, torch.zeros(36), torch.eye(36)))
    half = photo[:192, :192].copy()
    half[:, 96:] = 0
    assert np.isfinite(metrics._niqe_distance(metrics._View(half).statistics, torch.zeros(36), torch.eye(36)))


def test_values_lie_in_their_range(photo):
    for name in available()[0]:
        if METRICS[name].kind == "set":
            continue
        low, high = METRICS[name].range
        for quality in (5, 95):
            assert low <= metric(name)(jpeg(photo, quality), photo) <= high
        if METRICS[name].kind == "full-reference":
            assert low <= metric(name)(np.full_like(photo, 7), photo) <= high, name
    assert metric("psnr")(
        np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    ) == pytest.approx(0, abs=1e-6)


def test_the_table_agrees_with_pyiqa_and_with_the_table_of_files():
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, entry in METRICS.items():
        theirs = DEFAULT_CONFIGS.get({"lpips-alex": "lpips"}.get(name, name))
        if theirs:
            assert entry.better == ("lower" if theirs.get("lower_better") else "higher"), name
        if theirs and entry.kind != "set":
            assert entry.kind == {"FR": "full-reference", "NR": "no-reference"}[theirs["metric_mode"]], name
        assert entry.range[0] < entry.range[1] and entry.min_side >= 1
        used = {file for file, row in FILES.items() if name in row.used_by}
        assert set(entry.weights) == used - {metrics.ALEXNET[1]}, name


# --- the metrics whose files are rarely at hand: random files of the right shape stand for them,
# to show that our code builds, fills and runs each network


def random_like(net):
    "The state of a freshly made network; another one differs from it in every random weight"
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.fixture
def fake(monkeypatch, tmp_path, nowhere):
    """Store a file where the user keeps weights, under the name of a weight file whose row in the table then
    has its size and hash"""
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))

    def place(file, value):
        path = tmp_path / file
        path.unlink(missing_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif file.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file({k: v.contiguous() for k, v in value.items()}, path)
        elif file.endswith(".mat"):
            from scipy.io import savemat

            savemat(path, value)
        elif isinstance(value, torch.jit.ScriptModule):
            value.save(str(path))
        else:
            torch.save(value, path)
        monkeypatch.setitem(
            FILES, file, dataclasses.replace(FILES[file], bytes=path.stat().st_size, sha256=file_digest(path))
        )
        return path

    return place


TABLE3 = [
    "ahiq",
    "clipiqa",
    "dists",
    "fid",
    "hyperiqa",
    "lpips-alex",
    "musiq",
    "niqe",
    "pi",
    "psnr",
    "topiq_fr",
]


def build(name):
    return features(name) if METRICS[name].kind == "set" else metric(name)


@pytest.mark.parametrize("name", [n for n in TABLE3 if METRICS[n].weights])
def test_placing_hashing_and_failure_of_each_metrics_files(name, fake, no_network):
    """Small files of the right name: none, all but one, all but a wrong one, all but a truncated one; then
    right by hash, and of no use as weights"""
    files = METRICS[name].weights
    with pytest.raises(MissingWeights, match=f"metric '{name}' needs"):
        build(name)
    places = [fake(file, f"small stand-in for {file}".encode() * 4) for file in files]
    for file, path in zip(files, places):
        content = path.read_bytes()
        for other, words in (
            (None, "needs"),
            (content[::-1], "expected sha256"),
            (content[:-1], "bytes, found"),
        ):
            path.unlink(missing_ok=True)
            if other:
                path.write_bytes(other)
            with pytest.raises(QebiasError) as error:
                build(name)
            assert file in str(error.value) and words in str(error.value) and "\n" not in str(error.value)
            assert isinstance(error.value, MissingWeights) == (other is None) and name in available([name])[1]
        path.unlink()
        path.write_bytes(content)
    assert available([name]) == ([name], {})
    words = (
        f"metric '{name}' cannot load .*fetch the file again|is no readable weight file .*: fetch it again"
    )
    with pytest.raises(QebiasError, match=words) as error:
        build(name)
    assert "\n" not in str(error.value)


def test_small_files_of_niqe_load_and_are_used(fake, no_network, photo):
    mean, root = RNG.normal(size=36), RNG.normal(size=(36, 36))
    fake("niqe_modelparameters.mat", {"mu_prisparam": mean[None], "cov_prisparam": root @ root.T})
    from pyiqa.archs.niqe_arch import calculate_niqe

    theirs = calculate_niqe(
        pyiqa_tensor(photo), mu_pris_param=torch.tensor(mean), cov_pris_param=torch.tensor(root @ root.T)
    )
    assert metric("niqe")(photo) == pytest.approx(float(theirs), rel=1e-9)


def test_small_files_of_lpips_load_and_are_used(fake, no_network, photo, monkeypatch):
    "AlexNet's convolutions alone do as well as the whole file"
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = {
            f"features.{k}": v.clone() for k, v in torchvision.models.alexnet().features.state_dict().items()
        }
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}
    fake(HEADS, heads)
    fake(metrics.ALEXNET[1], trunk)
    value = metric("lpips-alex")(jpeg(photo, 20), photo)
    assert value > 0 and metric("lpips-alex")(photo, photo) == 0
    fake(HEADS, {k: 2 * v for k, v in heads.items()})
    assert metric("lpips-alex")(jpeg(photo, 20), photo) == pytest.approx(2 * value, rel=1e-5)
    heads.pop("lin4.model.1.weight")
    fake(HEADS, heads)
    with pytest.raises(QebiasError, match=f"{HEADS} does not fit its network"):
        metric("lpips-alex")


def filled(monkeypatch, name):
    "Build a metric and catch the network that it runs"
    caught = []
    real = metrics._network
    monkeypatch.setattr(metrics, "_network", lambda net, device: caught.append(net) or real(net, device))
    value = metric(name)
    return value, caught[0]


def converted(monkeypatch, path):
    "Let a file be known by eight digits only, and convert it"
    monkeypatch.setitem(
        FILES, path.name, dataclasses.replace(FILES[path.name], bytes=None, sha256=file_digest(path, 8))
    )
    made = convert_weights(path.name)
    assert find(path.name) == made != path


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,module,network,key,options",
    [
        ("musiq", "musiq_arch", "MUSIQ", None, {}),
        ("hyperiqa", "hypernet_arch", "HyperNet", "params", {}),
        (
            "topiq_fr",
            "topiq_arch",
            "CFANet",
            "params",
            dict(
                semantic_model_name="resnet50",
                model_name="cfanet_fr_kadid_res50",
                use_ref=True,
                backbone_pretrain=False,
            ),
        ),
    ],
)
def test_whole_networks_are_filled_from_their_file(
    name, module, network, key, options, fake, no_network, monkeypatch, photo
):
    arch = metrics._arch(module)
    with (
        metrics._swapped(arch, timm=metrics.SimpleNamespace(create_model=metrics._bare))
        if name == "hyperiqa"
        else metrics.contextlib.nullcontext()
    ):
        state = random_like(getattr(arch, network)(pretrained=False, **options))
    path = fake(METRICS[name].weights[0], {key: state} if key else state)
    if key:
        converted(monkeypatch, path)
    value, net = filled(monkeypatch, name)
    assert all(torch.equal(tensor, state[k]) for k, tensor in net.state_dict().items()) and not net.training
    arguments = (
        (photo[:240, :240], photo[:240, :240])
        if METRICS[name].kind == "full-reference"
        else (photo[:240, :240],)
    )
    assert np.isfinite(value(*arguments))
    state.pop(next(iter(state)))
    fake(METRICS[name].weights[0], {key: state} if key else state)
    with pytest.raises(QebiasError, match=f"{METRICS[name].weights[0]} does not fit its network"):
        metric(name)


@pytest.mark.slow
def test_dists(fake, no_network, monkeypatch, photo):
    import torchvision

    with torch.device("meta"):
        trunk = torchvision.models.vgg16().features
    state = {f"features.{k}": torch.randn(v.shape) * 0.02 for k, v in trunk.state_dict().items()}
    fake("vgg16-397923af.pth", {**state, "classifier.0.weight": torch.zeros(3)})
    fake(
        "DISTS_weights-f5e65c96.pth", {"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)}
    )
    value, net = filled(monkeypatch, "dists")
    assert torch.equal(net.stage5.state_dict()["28.weight"], state["features.28.weight"])
    assert (
        value(photo[:64, :64], photo[:64, :64]) == pytest.approx(0, abs=1e-5)
        and value(jpeg(photo, 10)[:64, :64], photo[:64, :64]) > 1e-4
    )
    fake("DISTS_weights-f5e65c96.pth", {"alpha": torch.rand(1, 1475, 1, 1)})
    with pytest.raises(QebiasError, match="DISTS_weights-f5e65c96.pth does not fit"):
        metric("dists")


@pytest.mark.slow
def test_clipiqa(fake, no_network, monkeypatch, photo):
    from pyiqa.archs import clip_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = clip_model.CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
    root = (
        torch.nn.Module()
    )  # CLIP publishes a TorchScript archive: its tensors under their names are what is read
    for name, value in net.state_dict().items():
        *path, last = name.split(".")
        inner = root
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.register_buffer(last, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fake("RN50.pt", torch.jit.script(root))
    value, built = filled(monkeypatch, "clipiqa")
    assert torch.equal(
        built.clip_model[0].state_dict()["visual.layer4.2.conv3.weight"],
        net.half().float().state_dict()["visual.layer4.2.conv3.weight"],
    )
    assert 0 <= value(photo[:64, :64]) <= 1


@pytest.mark.slow
def test_ahiq(fake, no_network, monkeypatch):
    import timm

    files = METRICS["ahiq"].weights
    states = {
        file: random_like(timm.create_model(name, pretrained=False))
        for file, name in zip(files, ("resnet50", "vit_base_patch8_224"))
    }
    for file, state in states.items():
        fake(file, state)
    arch = metrics._arch("ahiq_arch")
    heads = {
        "regressor_model_state_dict": random_like(arch.Pixel_Prediction()),
        "deform_net_model_state_dict": random_like(arch.DeformFusion()),
    }
    converted(monkeypatch, fake(files[2], {**heads, "epoch": 33}))
    _, net = filled(monkeypatch, "ahiq")
    assert all(torch.equal(t, states[files[0]][k]) for k, t in net.resnet50.state_dict().items())
    assert all(torch.equal(t, states[files[1]][k]) for k, t in net.vit.state_dict().items())
    assert all(
        torch.equal(t, heads["regressor_model_state_dict"][k]) for k, t in net.regressor.state_dict().items()
    )
    assert not net.training


@pytest.mark.slow
def test_pi(fake, no_network, monkeypatch):
    forest = np.empty((1, 3), object)
    for i in range(3):  # one tree of a single leaf, in the order of fields that NRQM reads
        forest[0, i] = {
            name: np.ones((1, 1))
            for name in ("lDau", "rDau", "status", "count", "split", "prediction", "attribute")
        }
    fake("NRQM_model.mat", {"model": {"linear": np.ones((4, 1)), "rf": forest}})
    fake("niqe_modelparameters.mat", {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    _, net = filled(monkeypatch, "pi")
    assert (
        net.niqe.crop_border == net.nrqm.crop_border == 4
        and net.niqe.color_space == net.nrqm.color_space == "ycbcr"
    )
    parts = scorers.Pi(lambda x: torch.tensor(5.5), lambda x: torch.tensor(4.2))
    assert float(parts(None)) == pytest.approx((10 - 5.5 + 4.2) / 2)


@pytest.mark.slow
def test_fid(fake, no_network, photo):
    arch = metrics._arch("inception")
    with metrics._swapped(arch, load_pretrained_network=lambda net, url: None):
        inception = arch.fid_inception_v3()
    state = {
        k: torch.randn(v.shape) * 0.1 if v.is_floating_point() and "running_var" not in k else v
        for k, v in inception.state_dict().items()
    }
    fake("pt_inception-2015-12-05-6726825d.pth", state)
    row = features("fid")(photo)
    assert row.shape == (1, 2048) and np.isfinite(row).all()
    with metrics._swapped(arch, load_pretrained_network=lambda net, url: net.load_state_dict(state)):
        theirs = arch.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = theirs(
            (torch.tensor(clean_resize(photo)).permute(2, 0, 1)[None] - 128) / 128, False, False
        )[0].flatten(1)
    assert np.allclose(row, expected.numpy())
    table = score([("a", jpeg(photo, 10), photo), ("b", jpeg(photo[:100], 10), photo[:100])], ["fid"])
    assert table.value.item() > 0
    large = np.tile(photo, (2, 2, 1))[:520, :300]
    assert np.array_equal(
        features("fid_patch256")(large),
        np.concatenate([features("fid")(large[:256, :256]), features("fid")(large[256:512, :256])]),
    )
    with pytest.warns(metrics.FewImages, match="fid_patch256 of 4 patches is biased"):
        table = score([(n, large, large[::-1].copy()) for n in "ab"], ["fid_patch256"])
    assert table.metric.item() == "fid_patch256" and table.value.item() > 0
    state.pop("fc.bias")
    fake("pt_inception-2015-12-05-6726825d.pth", state)
    with pytest.raises(QebiasError, match="pt_inception-2015-12-05-6726825d.pth does not fit"):
        features("fid")


def test_a_metric_from_outside_is_one_row(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(
        "from qebias.metrics import Metric\n"
        "def brightness(enhanced): return enhanced.mean()\n"
        "row = Metric('brightness', 'Brightness', 'higher', 'no-reference', 1, (0, 255), "
        "function='my_metrics:brightness')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))
    grey = np.full((8, 8, 3), 77, np.uint8)
    assert metric("my_metrics:row")(grey) == 77
    assert metrics.metric_name("my_metrics:row") == "my_metrics:row"
    assert score([("a", grey, None)], ["my_metrics:row"]).value.item() == 77
    for name in ("my_metrics:brightness", "my_metrics:none", "no_such_module:row"):
        with pytest.raises(QebiasError, match="no metric is called"):
            metric(name)


@pytest.mark.parametrize("name", list(METRICS))
def test_every_row_says_where_it_is_computed(name):
    entry = METRICS[name]
    assert bool(entry.function) != bool(entry.build)
    assert callable(metrics._named(entry.function or entry.build))
    assert entry.version >= 1


# Large pictures go through in strips, and score what they would score whole


@pytest.fixture
def stripped(monkeypatch):
    "Everything is large, and strips are narrow"

    def begin(strip):
        monkeypatch.setattr(metrics, "MOST_WHOLE", 0)
        monkeypatch.setattr(metrics, "STRIP", strip)

    return begin


@pytest.mark.parametrize("height, width", [(200, 301), (201, 300), (193, 96), (97, 515), (33, 32)])
@pytest.mark.parametrize("strip", [500, 5000, 40_000])
def test_ssim_and_nlpd_in_strips_are_those_of_the_whole(stripped, monkeypatch, height, width, strip):
    single = metrics._tensor
    monkeypatch.setattr(metrics, "_tensor", lambda rgb, device: single(rgb, device).double())
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    net = scorers.Nlpd().double()
    ssim, views = metric("ssim")(a, b), [metrics._View(x) for x in (a, b)]
    nlpd = float(net(*(view.tensor for view in views)))
    stripped(strip)
    assert metric("ssim")(a, b) == pytest.approx(ssim, rel=1e-12)
    assert scorers.nlpd_in_strips(net, views) == pytest.approx(nlpd, rel=1e-12)


def test_nlpd_in_strips_in_single_precision(stripped, photo):
    other = np.ascontiguousarray(photo[::-1])
    whole = metric("nlpd")(photo, other)
    stripped(9000)
    assert metric("nlpd")(photo, other) == pytest.approx(whole, rel=2e-7)


@pytest.mark.parametrize("height, width", [(192, 290), (300, 97), (400, 400)])
def test_block_statistics_in_strips_are_those_of_the_whole(stripped, height, width):
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rgb[96:192, :96] = 7  # without variation
    whole = features("fd_nss")(rgb)
    stripped(100)
    assert np.array_equal(features("fd_nss")(rgb), whole, equal_nan=True)
    assert np.isnan(whole).any() and len(whole) == (height // 96) * (width // 96)


def test_a_large_picture_is_never_a_tensor_as_a_whole(stripped, monkeypatch, photo):
    made = []
    single = metrics._tensor
    monkeypatch.setattr(metrics, "_tensor", lambda rgb, device: made.append(len(rgb)) or single(rgb, device))
    stripped(9000)
    photo = np.tile(photo, (3, 1, 1))
    for name in ("ssim", "nlpd"):
        metric(name)(photo, photo)
    features("fd_nss")(photo)
    assert made and max(made) < len(photo)


@pytest.mark.parametrize("height, width", [(256, 384), (250, 203), (131, 350), (350, 131)])
def test_alexnet_in_strips_sees_what_it_sees_in_the_whole_picture(weights, kodak, monkeypatch, height, width):
    "Strips of 16 rows and more, at heights that no stride divides"
    from qebias import metrics
    from qebias.core import read_rgb

    raw = np.ascontiguousarray(np.tile(read_rgb(sorted(kodak.glob("*.png"))[0]), (2, 1, 1))[:height, :width])
    noise = np.random.default_rng(0).integers(-20, 21, raw.shape)
    enhanced = np.clip(raw + noise, 0, 255).astype(np.uint8)
    lpips, alex = metrics.metric("lpips-alex"), metrics.features("fd_alex")
    whole = lpips(enhanced, raw), alex(enhanced)
    monkeypatch.setattr(metrics, "MOST_WHOLE_DEEP", 1000)
    for pixels in (1000, 20_000):
        monkeypatch.setattr(metrics, "STRIP_DEEP", pixels)
        assert lpips(enhanced, raw) == pytest.approx(whole[0], rel=1e-6)
        np.testing.assert_allclose(alex(enhanced), whole[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["psnr", "rmse"])
def test_what_is_not_8_bit_has_no_psnr(name):
    "Floats in [0, 1] once had 75 dB"
    rgb, call = np.zeros((8, 9, 3), np.uint8), getattr(metrics, name)
    for enhanced, raw in ((rgb / 255, rgb), (rgb, rgb[:1]), (rgb[:, :8], rgb), (torch.tensor(rgb), rgb)):
        with pytest.raises(QebiasError, match="uint8|one size"):
            call(enhanced, raw)


def test_features_come_from_tensors_and_are_numbers():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    found = frechet_distance(torch.tensor(rows, requires_grad=True), torch.tensor(rows + 1).bfloat16())
    assert found == pytest.approx(frechet_distance(rows, rows + 1), abs=0.05)
    for bad in (rows + 1j, [[1, 2], [3]], "rows", rows[:, :0]):
        with pytest.raises(QebiasError, match="the first set"):
            frechet_distance(bad, rows)


def test_a_device_that_is_not_there_is_refused_at_once():
    for call in (metric, features):
        with pytest.raises(QebiasError, match="device"):
            call("psnr" if call is metric else "fd_nss", device="tpu")
    with pytest.raises(QebiasError, match="no metric is called .None"):
        metric(None)


@pytest.mark.parametrize("name", ["ssim", "nlpd"])
def test_a_metric_within_a_caller_s_autocast_is_the_same(name, photo):
    "As in the validation of a training in bf16: NLPD once was .3125 in .3046's place"
    blurred, value = jpeg(photo, 10), metric(name)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value(blurred, photo), features("fd_nss")(photo)
    assert inside[0] == value(blurred, photo)
    np.testing.assert_array_equal(inside[1], features("fd_nss")(photo))


@pytest.mark.parametrize("name", ["ssim", "nlpd", "lpips-alex", "fd_nss", "fd_alex"])
def test_a_program_that_computes_in_double_has_the_same_metrics(name, photo):
    if METRICS[name].weights:
        folder("QEBIAS_WEIGHTS")

    def value():
        return features(name)(photo) if name.startswith("fd") else metric(name)(jpeg(photo, 10), photo)

    expected = value()
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(value(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
