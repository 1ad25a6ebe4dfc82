"Enhancement bias: geometry, bootstraps against brute force, judges in the right mode, the same patches for every method"

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import nn

from qebias import bias
from qebias.bias import (
    DISTANCES,
    Measured,
    deviation,
    difference,
    disparity,
    is_triangle,
    measure,
    realism,
    realism_table,
    slope,
)
from qebias.core import QebiasError, read_rgb
from qebias.metrics import features, frechet_distance, metric
from qebias.weights import MissingWeights

RNG = np.random.default_rng(0)


def jpeg(rgb, quality):
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def blur(rgb):
    return np.array(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(0.7)))


def crops(count, side=192):
    "Crops of scikit-image's photographs as images, with names"
    from skimage import data

    pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    raw = []
    for i in range(count):
        picture, rng = pictures[i % 3], np.random.default_rng(i)
        y, x = rng.integers(0, np.array(picture.shape[:2]) - side + 1)
        raw.append(np.ascontiguousarray(picture[y : y + side, x : x + side]))
    return raw, [jpeg(r, 20) for r in raw], [f"i{i}" for i in range(count)]


@pytest.fixture(scope="module")
def few():
    raw, compressed, names = crops(3)
    return raw, compressed, [blur(c) for c in compressed], names


@pytest.fixture(scope="module")
def many():
    raw, compressed, names = crops(11)
    raw[3], compressed[3] = raw[3][:100], compressed[3][:100]  # one image of another size: fewer blocks
    return raw, compressed, [blur(c) for c in compressed], names


@pytest.fixture(scope="module")
def measured(few, many):
    "Measured once for all tests: (distance, few or many) -> Measured"
    return {
        (distance, which): measure(distance, *images, patch=96)
        for distance in ("nlpd", "fd_nss")
        for which, images in dict(few=few, many=many).items()
    }


# --- geometry


def test_deviation_is_the_abscissa_of_the_vertex():
    c, r, e = RNG.normal(size=(3, 200, 2))
    ce, re, cr = (np.linalg.norm(a - b, axis=1) for a, b in ((c, e), (r, e), (c, r)))
    along = ((e - (c + r) / 2) * (r - c)).sum(1) / cr
    assert np.allclose(deviation(ce, re, cr), 100 * along / (cr / 2))
    assert all(is_triangle(*sides) for sides in zip(ce, re, cr))


@pytest.mark.parametrize("sides", [(1, 2, 4), (1, 4, 2), (4, 1, 2), (0, 3, 2)])
def test_what_is_no_triangle_is_told_whichever_side_is_too_long(sides):
    assert not is_triangle(*sides)


@pytest.mark.parametrize("sides", [(0, 2, 2), (1, 1, 2), (2, 3, 4), (1e-3, 1e-3, 1e-3)])
def test_degenerate_triangles_count(sides):
    assert is_triangle(*sides)


@pytest.mark.parametrize(
    "arguments", [(1, 1, 0), (-1, 1, 1), (1, np.inf, 1), (np.nan, 1, 1), ([1, 1], [1, 1], [1, 0])]
)
def test_deviation_refuses_in_one_line(arguments):
    with pytest.raises(QebiasError) as error:
        deviation(*arguments)
    assert "\n" not in str(error.value)


# --- measuring


def test_from_ten_images_on_the_unit_is_the_image(many, measured):
    for distance in ("nlpd", "fd_nss"):
        m = measured[distance, "many"]
        assert (m.unit, m.n, m.side, m.name, m.units[3]) == ("image", 11, 0, distance, "i3")
    nss = features("nss")
    stack = lambda images: np.concatenate([nss(x) for x in images])
    assert m.s.cr == pytest.approx(frechet_distance(stack(many[0]), stack(many[1])))
    assert m.s.ce == pytest.approx(frechet_distance(stack(many[1]), stack(many[2])))
    assert m.s.re == pytest.approx(frechet_distance(stack(many[0]), stack(many[2])))
    assert list(np.bincount(m.data["owner"])) == [4] * 3 + [2] + [4] * 7


def test_below_ten_images_the_unit_is_a_patch_and_the_name_says_so(few):
    m = measure("nlpd", *few, patch=64)
    assert (m.unit, m.n, m.side, m.name) == ("patch", 27, 64, "nlpd_patch64")
    nlpd = metric("nlpd")
    k = m.units.index("i1@64,128")
    cut = lambda images: images[1][64:128, 128:192]
    assert m.data["re"][k] == pytest.approx(nlpd(cut(few[2]), cut(few[0]))) and m.data["ce"][
        k
    ] == pytest.approx(nlpd(cut(few[2]), cut(few[1])))
    blocks = measure("fd_nss", *few, patch=64)
    assert (blocks.unit, blocks.n, blocks.side, blocks.name, blocks.units[5]) == (
        "patch",
        12,
        96,
        "fd_nss",
        "i1@0,96",
    )


def test_the_limits_of_an_enhancer(few):
    raw, compressed, _, names = few
    for distance in ("nlpd", "fd_nss"):
        assert measure(distance, raw, compressed, compressed, names, patch=96).deviation == pytest.approx(
            -100, abs=1e-6
        )
        assert measure(distance, raw, compressed, raw, names, patch=96).deviation == pytest.approx(
            100, abs=1e-6
        )


def test_interval_is_reproducible_and_contains_the_point(measured):
    for distance in ("nlpd", "fd_nss"):
        m = measured[distance, "many"]
        low, high = m.interval(n=300)
        assert low < m.deviation < high and m.interval(n=300) == (low, high) != m.interval(n=300, seed=1)
        inner = m.interval(level=0.5, n=300)
        assert low < inner[0] < inner[1] < high
    with pytest.raises(QebiasError, match="level lies between 0 and 1"):
        m.interval(level=95)


def brute_force(m, draws, seed):
    times = bias._resample(m.n, draws, seed)
    for draw in times:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(m.data["owner"] == unit), count) for unit, count in enumerate(draw)]
        ).astype(int)
        c, r, e = (m.data[domain][rows] for domain in ("compressed", "raw", "enhanced"))
        yield frechet_distance(c, e), frechet_distance(r, e), frechet_distance(c, r)


def invented(units, rows, width):
    owner = np.repeat(np.arange(units), rows)
    mix = RNG.normal(size=(width, width)) / np.sqrt(width)
    raw = RNG.normal(size=(units * rows, width)) @ mix + RNG.normal(size=(units, width))[owner]
    compressed = 0.8 * raw + 0.2 * RNG.normal(size=raw.shape) + 1
    enhanced = 0.5 * (raw + compressed) + 0.1 * RNG.normal(size=raw.shape)
    return Measured(
        "fid",
        "image",
        0,
        tuple(f"i{i}" for i in range(units)),
        0,
        dict(raw=raw, compressed=compressed, enhanced=enhanced, owner=owner),
    )


@pytest.mark.parametrize(
    "units,rows,width", [(12, 20, 36), (12, 1, 36), (15, 1, 300), (20, 10, 70), (3, 1, 64), (2, 1, 65)]
)
def test_the_draws_are_frechet_distances_of_the_drawn_rows(units, rows, width):
    m = invented(units, rows, width)
    assert np.allclose(m.draws(12, 5), list(brute_force(m, 12, 5)), rtol=1e-5, atol=1e-5)


def test_the_draws_of_real_blocks(measured):
    m = measured["fd_nss", "many"]
    assert np.allclose(m.draws(10), list(brute_force(m, 10, 0)), rtol=1e-6, atol=1e-7)


def test_a_bootstrap_of_36_features_is_fast():
    m, best = invented(24, 40, 36), np.inf
    for _ in range(3):
        start = time.perf_counter()
        m.draws(500)
        best = min(best, time.perf_counter() - start)
    assert best < 4


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, hits, trials, truth = np.random.default_rng(1), 0, 200, deviation(1.2, 1.6, 2.0)
    for trial in range(trials):
        scene = rng.gamma(8, 1 / 8, 40)  # what a scene contributes to all three sides
        sides = {
            side: mean * scene * rng.gamma(20, 1 / 20, 40)
            for side, mean in dict(ce=1.2, re=1.6, cr=2.0).items()
        }
        low, high = Measured("nlpd", "image", 0, tuple(map(str, range(40))), 0, sides).interval(
            n=400, seed=trial
        )
        hits += low <= truth <= high
    assert 0.88 <= hits / trials <= 0.99


def test_a_block_without_statistics_is_left_out_of_all_domains(few):
    raw, compressed, enhanced, names = few
    flat = [compressed[0].copy(), *compressed[1:]]
    flat[0][:96, :96] = 7
    m = measure("fd_nss", raw, flat, enhanced, names)
    assert (
        m.dropped == 1
        and m.n == 11
        and "i0@0,0" not in m.units
        and len(m.data["raw"]) == len(m.data["enhanced"]) == 11
    )
    assert m.interval(n=50)[0] < m.interval(n=50)[1]
    with pytest.raises(QebiasError, match="fd_nss found 0 usable patches"):
        measure(
            "fd_nss",
            [np.zeros((96, 96, 3), np.uint8)],
            *[[x[:96, :96]] for x in (compressed[0], enhanced[0])],
            ["x"],
        )


def test_one_unit_has_no_interval(few):
    m = measure("nlpd", *([x[0]] for x in few[:3]), ["only"], patch=192)
    assert m.n == 1 and np.isnan(m.interval()).all() and np.isnan(difference(m, m)[1]).all()


@pytest.mark.parametrize("distance,unit", [("nlpd", "few"), ("fd_nss", "few"), ("fd_nss", "many")])
def test_a_round_trip_through_a_file(distance, unit, measured, tmp_path):
    m = measured[distance, unit]
    np.savez(tmp_path / "m.npz", **{f"{distance}/{key}": value for key, value in m.to_arrays().items()})
    with np.load(tmp_path / "m.npz", allow_pickle=False) as stored:
        again = Measured.from_arrays({key.partition("/")[2]: stored[key] for key in stored})
    assert (again.s, again.units, again.name, again.unit, again.dropped, again.interval(n=20)) == (
        m.s,
        m.units,
        m.name,
        m.unit,
        m.dropped,
        m.interval(n=20),
    )
    assert difference(again, m, n=10) == (0, (0, 0))


def test_a_paired_difference_is_sharper_than_two_intervals(many, measured):
    raw, compressed, enhanced, names = many
    nearly = [
        np.clip(e.astype(int) + RNG.integers(-2, 3, e.shape), 0, 255).astype(np.uint8) for e in enhanced
    ]
    a, b = measure("nlpd", raw, compressed, nearly, names), measured["nlpd", "many"]
    value, (low, high) = difference(a, b, n=400)
    assert value == pytest.approx(a.deviation - b.deviation) and low <= value <= high
    widths = [np.subtract(*m.interval(n=400)[::-1]) for m in (a, b)]
    assert high - low < 0.7 * np.hypot(*widths)


def test_difference_refuses_unlike_things(few, measured):
    a, b = measured["nlpd", "many"], measured["nlpd", "few"]
    with pytest.raises(QebiasError, match="nlpd and nlpd_patch96 are different"):
        difference(a, b)
    with pytest.raises(QebiasError, match="different patch sets"):
        difference(b, measure("nlpd", *(x[:2] for x in few), patch=96))


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(distance="lpips"), "'lpips' is no distance between domains"),
        (dict(distance="vgg19"), "never a psi that a loss uses"),
        (dict(names=["a", "b"]), "2 names and 3 raw images"),
        (dict(names=["a", "b", "b"]), "two images are called b"),
        (dict(patch=193), "i0 has 192x192 px, and nlpd needs 193x193"),
        (dict(patch=8), "patches of at least 32 px, not 8"),
        (dict(raw=[], compressed=[], enhanced=[], names=[]), "at least one image"),
    ],
)
def test_measure_refuses_in_one_line(change, message, few):
    with pytest.raises(QebiasError, match=message) as error:
        measure(
            **{
                **dict(zip(("raw", "compressed", "enhanced", "names"), few)),
                "distance": "nlpd",
                "patch": 96,
                **change,
            }
        )
    assert "\n" not in str(error.value)


def test_a_distance_without_its_weights_is_refused_before_the_first_image(monkeypatch, tmp_path):
    for variable in ("QEBIAS_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    for distance in set(DISTANCES) - {"nlpd", "fd_nss"}:
        with pytest.raises(MissingWeights, match=distance):
            measure(distance, ["not looked at"], [], [], ["x"])


def test_alexnets_distances(few, many):
    if (
        not os.environ.get("QEBIAS_WEIGHTS")
        or not (Path(os.environ["QEBIAS_WEIGHTS"]) / "LPIPS_v0.1_alex-df73285e.pth").exists()
    ):
        pytest.skip("set QEBIAS_WEIGHTS to a folder that holds AlexNet's and LPIPS's files")
    for distance in ("lpips-alex", "fd_alex"):
        m = measure(distance, *few, patch=64)
        assert m.name == f"{distance}_patch64" and m.n == 27 and m.deviation < 0 and m.interval(n=50)[1] < 0
    m = measure("fd_alex", *many)
    assert m.unit == "image" and m.n == 11 and m.data["raw"].shape == (11, 256)
    assert np.allclose(m.draws(5), list(brute_force(m, 5, 0)), rtol=1e-6, atol=1e-6)


def test_kodak_photographs_a_blurred_jpeg_leans_to_compressed():
    folder = os.environ.get("QEBIAS_DATA")
    if not folder or not (Path(folder) / "kodak24").exists():
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    files = sorted((Path(folder) / "kodak24").glob("*.png"))[:12]
    raw = [read_rgb(file)[100:292, 100:292] for file in files]
    compressed = [jpeg(r, 20) for r in raw]
    for distance in ("nlpd", "fd_nss"):
        m = measure(distance, raw, compressed, [blur(c) for c in compressed], [file.stem for file in files])
        low, high = m.interval(n=300)
        assert m.unit == "image" and low < m.deviation < high < 0


# --- realism


class Norm(nn.Module):
    "A judge with batch norm and dropout, whose training mode would show"

    def __init__(self, maps=True):
        super().__init__()
        self.seen = []
        self.body, self.maps = (
            nn.Sequential(
                nn.Conv2d(6, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.Dropout(0.5),
                nn.Conv2d(4, 1, 3, padding=1),
            ),
            maps,
        )

    def forward(self, image, compressed):
        self.seen.append((image, compressed))
        found = self.body(torch.cat([image, compressed], 1))
        return found if self.maps else found.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("gan", ["vanilla", "relativistic"])
def test_scores_by_hand_in_evaluation_mode_whatever_the_batch(few, maps, gan):
    judge = Norm(maps).train()
    judge.body[2].eval()
    state = {key: value.clone() for key, value in judge.state_dict().items()}
    df = realism(judge, *few, patch=96, gan=gan, batch=5)
    assert judge.training and judge.body[1].training and not judge.body[2].training
    assert all(torch.equal(value, state[key]) for key, value in judge.state_dict().items())
    again = realism(judge, *few, patch=96, gan=gan, batch=1)
    assert np.allclose(df.score, again.score, atol=1e-6) and np.allclose(df.logit, again.logit, atol=1e-6)
    judge.eval()
    tensor = lambda images: (
        torch.stack(
            [
                torch.tensor(image[y : y + 96, x : x + 96])
                for image in images
                for y in (0, 96)
                for x in (0, 96)
            ]
        ).permute(0, 3, 1, 2)
        / 255
    )
    with torch.no_grad():
        logits = {domain: judge(tensor(images), tensor(few[1])) for domain, images in zip(bias.DOMAINS, few)}
    for domain, other in dict(raw="enhanced", compressed="enhanced", enhanced="raw").items():
        shift = logits[other].mean() if gan == "relativistic" else 0
        part = df[df.domain == domain]
        assert np.allclose(part.score, torch.sigmoid(logits[domain] - shift).flatten(1).mean(1), atol=1e-6)
        assert np.allclose(part.logit, logits[domain].flatten(1).mean(1), atol=1e-6)


def test_compressed_is_judged_beside_itself_and_the_others_beside_compressed(few):
    judge = Norm()
    realism(judge, *few, patch=96, batch=100)
    (raw, c1), (compressed, c2), (enhanced, c3) = judge.seen
    assert torch.equal(c1, c2) and torch.equal(c1, c3) and torch.equal(compressed, c2)
    assert (
        not torch.equal(raw, c1)
        and not torch.equal(enhanced, c3)
        and raw.max() <= 1
        and raw.dtype == torch.float32
    )


def test_the_modes_come_back_after_an_error_too(few):
    class Broken(Norm):
        def forward(self, image, compressed):
            raise RuntimeError("broken judge")

    judge = Broken().train()
    with pytest.raises(RuntimeError, match="broken judge"):
        realism(judge, *few, patch=96)
    assert judge.training and judge.body[2].training


def test_a_diverged_judge_is_named(few):
    class Nan(nn.Module):
        def forward(self, image, compressed):
            return image[:, :1] * float("nan")

    with pytest.raises(QebiasError, match="the judge's logits are not finite"):
        realism(Nan(), *few, patch=96)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(
    "name,gan", [("VGGStyle", "relativistic"), ("UNetSN", "vanilla"), ("UNetSN", "relativistic")]
)
def test_the_papers_discriminators(few, conditional, name, gan):
    discriminators = pytest.importorskip("qebias.discriminators")
    channels = 6 if conditional else 3
    net = (
        discriminators.VGGStyle(channels, width=4, size=32)
        if name == "VGGStyle"
        else discriminators.UNetSN(channels, width=4)
    )
    small = [[x[:64, :96] for x in images] for images in few[:3]]
    judge = discriminators.Judge(net, conditional).train()
    before = {key: value.clone() for key, value in judge.state_dict().items()}
    df = realism(judge, *small, few[3], patch=32, gan=gan)
    assert len(df) == 3 * 3 * 6 and df.score.between(0, 1).all() and judge.training
    assert all(
        torch.equal(value, before[key]) for key, value in judge.state_dict().items()
    )  # neither batch norm nor spectral norm has moved


def test_raw_and_enhanced_sum_to_one_under_a_relativistic_judge_of_small_spread(few):
    class Bright(nn.Module):
        def forward(self, image, compressed):
            return 0.1 * image.mean((1, 2, 3), keepdim=True)[:, :, 0, 0]

    table = realism_table(realism(Bright(), *few, patch=96, gan="relativistic"))
    assert table.loc["score", "raw"] + table.loc["score", "enhanced"] == pytest.approx(1, abs=1e-3)


def test_the_table_resamples_images_from_ten_on(many):
    judge = Norm()
    df = realism(judge, *(x[:3] + x[4:] for x in many), patch=96)
    table = realism_table(df, n=400)
    assert table.attrs == {"unit": "image", "n": 10} and list(table.columns) == [
        "raw",
        "enhanced",
        "enhanced - raw",
        "compressed",
        "compressed - raw",
    ]
    per_image = df[df.domain == "raw"].groupby("image").score.mean()
    half = (table.loc["high", "raw"] - table.loc["low", "raw"]) / 2
    assert half == pytest.approx(1.96 * per_image.std(ddof=0) / np.sqrt(10), rel=0.25)
    assert table.equals(realism_table(df, n=400))
    shuffled = realism_table(df.sample(frac=1, random_state=0), n=400)
    assert np.allclose(shuffled.loc["score"], table.loc["score"])


# --- disparity


def test_every_method_sees_the_same_patches_spread_over_the_images(few):
    raw, compressed, enhanced, names = few
    a, b = (disparity(raw, compressed, x, names, patch=64, n=50) for x in (enhanced, raw))
    assert a[["image", "patch"]].equals(b[["image", "patch"]]) and list(a.image.value_counts()) == [
        17,
        17,
        16,
    ]
    assert a.d_cr.equals(b.d_cr) and not a.d_ce.equals(b.d_ce) and np.allclose(b.d_ce, b.d_cr)
    other = disparity(raw, compressed, enhanced, names, patch=64, n=50, seed=1)
    assert not a.patch.equals(other.patch) and not a.duplicated(["image", "patch"]).any()


def test_feature_wise_with_the_papers_psi(few):
    psi = pytest.importorskip("qebias.features").Psi(("conv1_2", "conv3_4"), weights="random-w8-s0")
    df = disparity(*few, psi=psi, patch=64, n=12, batch=5)
    assert df.attrs["psi"] == psi.name and list(df.measure.unique()) == ["pixel", "feature"]
    i, (y, x) = few[3].index(df.image[12]), map(int, df.patch[12].split(","))
    r, c, e = (
        psi(torch.tensor(images[i][y : y + 64, x : x + 64]).permute(2, 0, 1)[None] / 255)["conv3_4"]
        for images in few[:3]
    )
    assert df.d_cr[12] == pytest.approx(float((r - c).abs().mean()), rel=1e-4) and df.d_ce[
        12
    ] == pytest.approx(float((e - c).abs().mean()), rel=1e-4)
    shallow = disparity(*few, psi=psi, layer="conv1_2", patch=64, n=12)
    assert shallow.attrs["layer"] == "conv1_2" and not np.allclose(shallow.d_cr[12:], df.d_cr[12:])


def test_all_patches_of_a_small_image_and_no_more(few):
    small = [[x[:66, :65] for x in images] for images in few[:3]]
    df = disparity(*small, few[3], patch=64, n=18)
    assert len(df.drop_duplicates(["image", "patch"])) == 18
    with pytest.raises(QebiasError, match="has 6 different patches of 64x64 px, not 7"):
        disparity(*small, few[3], patch=64, n=19)


def line(images, patches, seed=0):
    import pandas as pd

    rng = np.random.default_rng(seed)
    x = rng.gamma(4, 1, images * patches)
    scene = np.repeat(rng.normal(0, 0.3, images), patches)
    return pd.DataFrame(
        dict(
            image=np.repeat([f"i{i}" for i in range(images)], patches),
            patch=[f"{k},0" for k in range(images * patches)],
            measure="pixel",
            d_cr=x,
            d_ce=0.7 * x + 0.2 + scene + rng.normal(0, 0.1, len(x)),
        )
    )


def test_slope_is_least_squares_with_an_intercept():
    df = line(12, 30)
    found = slope(df).loc["pixel"]
    assert [found.slope, found.intercept] == pytest.approx(np.polyfit(df.d_cr, df.d_ce, 1))
    assert found.ratio == pytest.approx(df.d_ce.mean() / df.d_cr.mean())
    assert (
        (found.unit, found.n) == ("image", 12)
        and found.low < found.slope < found.high
        and found.ratio_low < found.ratio < found.ratio_high
    )


def test_images_as_units_give_the_wider_and_honest_interval_of_the_ratio():
    df = line(12, 30)
    few = df.assign(patch=df.image + df.patch, image="one")  # the same patches, as if from one picture
    a, b = slope(df).loc["pixel"], slope(few).loc["pixel"]
    assert (
        b.unit == "patch" and b.n == 360 and a.ratio_high - a.ratio_low > 1.5 * (b.ratio_high - b.ratio_low)
    )


def test_slope_refuses_what_carries_no_line():
    df = line(3, 4)
    with pytest.raises(QebiasError, match="1 different d_cr"):
        slope(df.assign(d_cr=1.0))


# --- the raw and compressed side, shared by methods


@pytest.mark.parametrize("distance", ["nlpd", "fd_nss"])
@pytest.mark.parametrize("which", ["few", "many"])
def test_shared_sides_change_nothing_and_are_computed_once(
    distance, which, request, measured, tmp_path, monkeypatch
):
    raw, compressed, enhanced, names = request.getfixturevalue(which)
    made, calls = bias.shared(distance, raw, compressed, names, tmp_path, patch=96), []
    for where, name in ((bias, "features"), (bias, "metric")):

        def counting(*arguments, build=getattr(where, name)):
            compute = build(*arguments)
            return lambda *images: (calls.append(1), compute(*images))[1]

        monkeypatch.setattr(where, name, counting)
    cache = bias.shared(distance, raw, compressed, names, tmp_path, patch=96)
    assert not calls and cache.keys() == made.keys()
    found, before = (
        measure(distance, raw, compressed, enhanced, names, patch=96, cache=cache),
        measured[distance, which],
    )
    assert (
        found.units == before.units
        and found.dropped == before.dropped
        and all(np.array_equal(found.data[k], before.data[k]) for k in before.data)
    )
    units = len(names) if which == "many" or distance == "fd_nss" else before.n
    assert len(calls) == units * (2 if distance == "nlpd" else 1)  # CE and RE, or the enhanced features


def test_shared_sides_are_of_content_and_damage_is_made_anew(few, tmp_path):
    raw, compressed, enhanced, names = few

    def file():
        (found,) = tmp_path.glob("nlpd-*.npz")
        return found

    bias.shared("nlpd", raw, compressed, names, tmp_path, patch=96)
    first = file()
    bias.shared("nlpd", [r.copy() for r in raw], compressed, names, tmp_path, patch=96)
    assert file() == first
    for other in (
        dict(raw=enhanced),
        dict(compressed=enhanced),
        dict(names=["a", "b", "c"]),
        dict(patch=64),
        dict(key="k"),
    ):
        bias.shared(
            **dict(distance="nlpd", raw=raw, compressed=compressed, names=names, folder=tmp_path, patch=96)
            | other
        )
        assert file() != first  # and the old one is gone
    good = bias.shared("nlpd", raw, compressed, names, tmp_path, patch=96)
    for damage in (b"", b"no zip", first.read_bytes()[:-30]):
        first.write_bytes(damage)
        assert (
            bias.shared("nlpd", raw, compressed, names, tmp_path, patch=96) == good
            and bias._entries(first) == good
        )
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]
