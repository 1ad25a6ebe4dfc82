"The columns of the results table: what they measure, that they are resampled rightly, and their versions"

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter

from qebias import controls as c
from qebias import measure as m
from qebias.codecs import Jpeg
from qebias.core import QebiasError, read_rgb
from qebias.discriminators import ConditionalDiscriminator, UNetSN, VGGStyle
from qebias.measure import Evaluation, columns, identity, measure
from qebias.metrics import METRICS, available, frechet_distance, frechet_resampled, psnr
from qebias.stats import COLUMNS, Results, deviation_of, estimate, resamples

NAMES = ["b", "a", "c"]
AT = dict(row="row", dataset="d", codec="bpg", level=37)


def picture(k, shape=(192, 208)):
    "A fixed picture with edges, texture and slopes"
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    waves = [
        np.sin((0.11 + 0.02 * k) * x + 0.07 * c * y) + np.sin(0.9 * y + c) * ((x + 31 * k) % 64 < 24)
        for c in range(3)
    ]
    texture = np.random.RandomState(k).normal(0, 9, (*shape, 3))
    return np.rint(np.stack(waves, -1) * 40 + 120 + texture).clip(0, 255).astype(np.uint8)


def coarse(rgb):
    "What a codec might leave: means of 2 x 2 px in steps of 12"
    small = rgb.astype(float).reshape(rgb.shape[0] // 2, 2, rgb.shape[1] // 2, 2, 3).mean((1, 3))
    return (np.rint(small / 12) * 12).clip(0, 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)


RAW = [picture(k) for k in range(3)]
COMPRESSED = [coarse(rgb) for rgb in RAW]
ENHANCED = [np.rint(0.6 * a + 0.4 * b).astype(np.uint8) for a, b in zip(COMPRESSED, RAW)]


class Detail(torch.nn.Module):
    "Logits that grow with detail, one an image or one a pixel"

    def __init__(self, dense=False, offset=1.0):
        super().__init__()
        self.dense, self.offset = dense, offset

    def forward(self, x):
        apart = (x[:, :3, :, 1:] - x[:, :3, :, :-1]).abs().mean(1, keepdim=True)
        logits = 20 * apart - self.offset
        return logits if self.dense else logits.mean((1, 2, 3))[:, None]


class SeesCondition(torch.nn.Module):
    "How far the image lies from its condition"

    def forward(self, x):
        assert x.shape[1] == 6
        return 30 * (x[:, :3] - x[:, 3:]).abs().mean((1, 2, 3))[:, None] - 1


def a_cell(**changes):
    return Evaluation(
        **(
            dict(
                names=NAMES, raw=RAW, compressed=COMPRESSED, enhanced=ENHANCED, bpp=[0.3, 0.2, 0.4], patch=64
            )
            | changes
        )
    )


def results(lines):
    table = pd.DataFrame(lines, columns=["picture", "quantity", "value", "unit"])
    return Results(
        table.assign(dataset="d", codec="bpg", level=37, row="row", trained_on="", seed=0)[COLUMNS]
    )


def points(lines):
    "Quantity -> picture -> value, without the resamples"
    found = {}
    for name, quantity, value, _ in lines:
        if not name.startswith("~"):
            found.setdefault(quantity, {})[name] = value
    return found


def test_every_column_gives_the_lines_of_its_pictures_by_their_names():
    cell = a_cell(discriminator=Detail())
    for name in columns(["psnr", "ssim"], ["rmse", "fd_nss"], gan=True, psi="random-w4-s0:conv2_2"):
        for quantity, values in points(measure(name, cell)).items():
            assert list(values) in (["a", "b", "c"], [""]), (name, quantity)
    assert points(measure("bpp", cell))["bpp"] == {"a": 0.2, "b": 0.3, "c": 0.4}
    assert points(measure("psnr", cell))["psnr"]["b"] == psnr(ENHANCED[0], RAW[0])


def test_residual_cosine_and_energy_by_hand():
    cell = a_cell()
    found = points(measure("residual", cell))
    assert found["residual:raw"]["b"] == np.abs(ENHANCED[0].astype(int) - RAW[0]).mean()
    moved, wanted = ENHANCED[2].astype(float) - COMPRESSED[2], RAW[2].astype(float) - COMPRESSED[2]
    expected = (moved * wanted).sum() / np.sqrt((moved**2).sum() * (wanted**2).sum())
    assert points(measure("cosine", cell))["cosine"]["c"] == pytest.approx(expected)
    assert points(measure("energy", a_cell(enhanced=RAW)))["energy"] == pytest.approx(dict.fromkeys("abc", 1))
    still = points(measure("cosine", a_cell(enhanced=COMPRESSED)))["cosine"]
    assert all(np.isnan(value) for value in still.values())


@pytest.mark.parametrize("name", ["rmse", "fd_nss"])
def test_known_deviations(name):
    for enhanced, expected in ((COMPRESSED, -100), (RAW, 100)):
        found = results(measure(f"distance:{name}", a_cell(enhanced=enhanced)))
        sides = [found.values(quantity=f"{side}:{name}", **AT) for side in ("ce", "re", "cr")]
        assert estimate(deviation_of(*sides)).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pictures, each, width", [(12, 1, 40), (9, 6, 12), (30, 2, 8)])
def test_resampled_frechet_distances_are_exact(pictures, each, width):
    generator = np.random.default_rng(pictures)
    a = generator.normal(size=(pictures * each, width)) * generator.uniform(0.1, 3, width) + 7
    b = a + generator.normal(size=a.shape) * 0.4 + 0.2
    owner = np.repeat(np.arange(pictures), each)
    drawn = resamples([f"{i:02d}" for i in range(pictures)], 8)
    times = np.stack([np.ones(pictures, int), *(np.bincount(d, minlength=pictures) for d in drawn)])
    found = frechet_resampled(a, b, owner, times)
    assert found[0] == pytest.approx(frechet_distance(a, b), rel=1e-8)
    for k, counts in enumerate(times):
        rows = np.repeat(np.arange(len(a)), counts[owner])
        assert found[k] == pytest.approx(frechet_distance(a[rows], b[rows]), rel=1e-7, abs=1e-9)
    assert frechet_resampled(a, a, owner, times) == pytest.approx(np.zeros(len(times)), abs=1e-7)


def test_below_ten_pictures_features_of_whole_pictures_are_taken_of_patches():
    if "fd_alex" in available(["fd_alex"])[1]:
        pytest.skip("needs AlexNet")
    lines = measure("distance:fd_alex", a_cell())
    assert {unit for *_, unit in lines} == {"of patches of 64 px"}
    more = a_cell(
        **{
            k: v * 4
            for k, v in dict(raw=RAW, compressed=COMPRESSED, enhanced=ENHANCED, bpp=[1, 1, 1]).items()
        },
        names=[f"p{i:02d}" for i in range(12)],
    )
    assert {unit for *_, unit in measure("distance:fd_alex", more)} == {""}


def test_scores_are_means_of_patches_and_outputs():
    for dense in (False, True):
        lines = points(measure("realism", a_cell(discriminator=Detail(dense))))
        patches = m.as_batch(m.cut(RAW[1], 64), "cpu")
        expected = torch.sigmoid(Detail(dense)(patches)).mean().item()
        assert lines["score:raw"]["a"] == pytest.approx(expected, rel=1e-6)
    assert 0.5 < lines["auc:raw-compressed"][""] <= 1


def test_a_conditional_discriminator_sees_the_compressed_picture():
    lines = points(measure("realism", a_cell(discriminator=SeesCondition(), conditional=True)))
    assert lines["score:compressed"]["a"] == pytest.approx(1 / (1 + np.e), rel=1e-6)
    assert lines["auc:raw-compressed"][""] == 1
    whole = ConditionalDiscriminator(SeesCondition(), True, "edges")
    mapped = points(measure("realism", a_cell(discriminator=whole)))
    assert mapped["score:compressed"]["a"] == pytest.approx(1 / (1 + np.e), rel=1e-6)
    assert mapped["score:raw"]["a"] > lines["score:raw"]["a"]  # the map enlarges what differs


@pytest.mark.parametrize("dense", [False, True])
def test_relativistic_scores_redraw_their_means(dense):
    "Against resampling by hand, and wider than with the means of all pictures held fixed"
    cell = a_cell(discriminator=Detail(dense), gan="relativistic")
    lines = measure("realism", cell)
    found = {q: results(lines).values(quantity=f"score:{q}", **AT).array[0] for q in ("raw", "enhanced")}
    logits = {
        domain: [
            Detail(dense)(m.as_batch(m.cut(pictures[i], 64), "cpu")).flatten(1).double().numpy()
            for i in (1, 0, 2)
        ]
        for domain, pictures in (("raw", RAW), ("enhanced", ENHANCED))
    }
    for k, draw in enumerate([np.arange(3), *resamples(NAMES)[:5]]):
        for domain, other in (("raw", "enhanced"), ("enhanced", "raw")):
            shift = np.mean([logits[other][i].mean() for i in draw])
            by_hand = np.mean([m.sigmoid(logits[domain][i] - shift).mean() for i in draw])
            assert found[domain][k] == pytest.approx(by_hand, abs=2e-5)
    gap = (found["enhanced"] - found["raw"])[1:]
    means = {domain: np.mean([x.mean() for x in logits[domain]]) for domain in logits}
    fixed = [
        np.mean(
            [
                m.sigmoid(logits["enhanced"][i] - means["raw"]).mean()
                - m.sigmoid(logits["raw"][i] - means["enhanced"]).mean()
                for i in draw
            ]
        )
        for draw in resamples(NAMES)
    ]
    assert gap.std() != pytest.approx(np.std(fixed), rel=0.05)


class Drifted(torch.nn.Module):
    "A discriminator, all of whose logits lie elsewhere and `scale` times as far apart"

    def __init__(self, network, drift, scale=1.0):
        super().__init__()
        self.network, self.drift, self.scale = network, drift, scale

    def forward(self, x):
        return self.scale * self.network(x).double() + self.drift


@pytest.mark.parametrize("drift", [-3000, -60, 45, 700])
def test_relativistic_scores_do_not_change_when_all_logits_drift(drift):
    "Its loss only knows differences of logits, so nothing holds the logits where they are"
    still = results(measure("realism", a_cell(discriminator=Detail(), gan="relativistic")))
    moved = results(measure("realism", a_cell(discriminator=Drifted(Detail(), drift), gan="relativistic")))
    for domain in ("raw", "compressed", "enhanced"):
        before, after = (x.values(quantity=f"score:{domain}", **AT).array for x in (still, moved))
        np.testing.assert_allclose(after, before, atol=2e-5)
        assert 0.05 < before[0, 0] < 0.95


@pytest.mark.parametrize("scale", [1, 30, 300, 1e5])
def test_relativistic_scores_of_logits_that_lie_far_apart(scale):
    "No score is cut: against the sigmoid of each logit less the other domain's mean"
    cell = a_cell(discriminator=Drifted(Detail(), 500, scale), gan="relativistic")
    lines = results(measure("realism", cell))
    logits = {
        domain: [scale * Detail()(m.as_batch(m.cut(x, 64), "cpu")).double().numpy() + 500 for x in pictures]
        for domain, pictures in (("raw", RAW), ("enhanced", ENHANCED))
    }
    for domain, other in (("raw", "enhanced"), ("enhanced", "raw")):
        mean = np.mean([x.mean() for x in logits[other]])
        by_hand = np.mean([m.sigmoid(x - mean).mean() for x in logits[domain]])
        found = lines.values(quantity=f"score:{domain}", **AT).array[0, 0]
        assert found == pytest.approx(by_hand, abs=1e-3 if scale > 300 else 2e-5)


def test_the_interval_of_a_relativistic_difference_has_the_right_width():
    "Against new sets of pictures drawn from the same world: the old interval was half as wide"
    generator = np.random.default_rng(0)

    def judged(logits):
        return m.DomainLogits(m.sigmoid(logits), logits, [(x[None], np.ones(1)) for x in logits], [])

    def world(n=30):
        raw = generator.normal(0, 1, n)
        return judged(raw), judged(raw - 1 + generator.normal(0, 0.3, n))

    def gap(raw, enhanced, times):
        return m.relativistic_scores(enhanced, raw, times) - m.relativistic_scores(raw, enhanced, times)

    once = np.ones((1, 30), int)
    true = np.std([gap(*world(), once)[0] for _ in range(400)])
    drawn = np.stack([np.bincount(d, minlength=30) for d in resamples([str(i) for i in range(30)])])
    told = np.mean([gap(*world(), drawn).std() for _ in range(40)])
    assert told == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("network", ["VGGStyle", "UNetSN"])
def test_the_papers_discriminators(network, conditional):
    channels, torch_seed = 6 if conditional else 3, torch.manual_seed(0)
    build = {"VGGStyle": lambda: VGGStyle(channels, 4, 64), "UNetSN": lambda: UNetSN(channels, 4)}[network]
    judge = build().train()
    cell = a_cell(
        discriminator=judge, conditional=conditional, gan="vanilla" if network == "UNetSN" else "relativistic"
    )
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    found = points(measure("realism", cell))
    assert judge.training and torch_seed is not None  # its mode comes back, and nothing in it has moved
    assert all(torch.equal(before[name], value) for name, value in judge.state_dict().items())
    assert all(0 < v < 1 for q, of in found.items() for v in of.values() if q.startswith("score"))
    again = points(measure("realism", a_cell(discriminator=judge, conditional=conditional, gan=cell.gan)))
    assert again == found


def test_kodak_photographs_a_blurred_jpeg_leans_to_compressed():
    folder = Path(os.environ.get("QEBIAS_DATA", "")) / "kodak24"
    if not folder.is_dir():
        pytest.skip("needs QEBIAS_DATA with kodak24")
    raw = [read_rgb(path)[:192, :192] for path in sorted(folder.glob("*.png"))[:12]]
    compressed = [Jpeg(20).decode(Jpeg(20).encode(rgb)) for rgb in raw]
    blurred = [np.asarray(Image.fromarray(c).filter(ImageFilter.GaussianBlur(0.7))) for c in compressed]
    cell = Evaluation([f"k{i:02}" for i in range(12)], raw, compressed, blurred, [1] * 12)
    found = results(measure("distance:fd_nss", cell) + measure("bpp", cell))
    told = estimate(
        deviation_of(*(found.values(quantity=f"{side}:fd_nss", **AT) for side in ("ce", "re", "cr")))
    )
    assert told.high < 0


def test_auc_against_its_definition():
    generator = np.random.default_rng(0)
    high, low = ([generator.integers(0, 6, k).astype(float) + up for k in (3, 5, 2)] for up in (1, 0))
    draw = np.array([2, 0, 1])
    values = [np.concatenate([part[i] for i in np.repeat(np.arange(3), draw)]) for part in (high, low)]
    wins = [(a > b) + (a == b) / 2 for a in values[0] for b in values[1]]
    assert m.auc_resampled(high, low, draw[None])[0] == pytest.approx(np.mean(wins))


def test_a_picture_without_a_value_says_why():
    small = [rgb[:8, :8] for rgb in RAW]
    lines = measure("ssim", a_cell(raw=small, compressed=small, enhanced=small))
    assert all(np.isnan(value) and "needs images of at least 11x11" in unit for _, _, value, unit in lines)
    assert "ssim of row, a: ssim needs images" in results(lines).values(quantity="ssim", **AT).missing


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(names=[], raw=[], compressed=[], enhanced=[], bpp=[]), "without pictures"),
        (dict(names=["a", "a", "b"]), "two pictures are called a"),
        (dict(names=["a", "~001", "b"]), "not ~ and a number, as resamples are called"),
        (dict(bpp=[1]), "3 names and 1 bpp"),
        (dict(enhanced=[RAW[0], RAW[1][1:], RAW[2]]), "a has the sizes 191x208, 192x208"),
    ],
)
def test_cells_that_are_none(changes, words):
    with pytest.raises(QebiasError, match=words):
        a_cell(**changes)


def test_a_name_may_begin_with_a_tilde_if_it_is_no_resamples():
    "As editors name their copies: such a picture counts as any other"
    names = ["a", "~", "~1"]
    cell, plain = a_cell(names=names), a_cell()
    lines = measure("psnr", cell)
    assert {picture for picture, *_ in lines} == set(names)
    found = results(lines).values(quantity="psnr", **AT)
    assert found.pictures == 3
    assert found.array[0, 0] == pytest.approx(
        results(measure("psnr", plain)).values(quantity="psnr", **AT).array[0, 0]
    )
    assert results(measure("distance:fd_nss", cell)).values(quantity="ce:fd_nss", **AT).array.shape[1] > 100


def test_a_diverged_discriminator_and_too_large_patches_are_said():
    with pytest.raises(QebiasError, match="logits are not finite"):
        measure("realism", a_cell(discriminator=Detail(offset=float("nan"))))
    with pytest.raises(QebiasError, match="no patch of 256 px"):
        measure("realism", a_cell(discriminator=Detail(), patch=256))
    with pytest.raises(QebiasError, match="vanilla or relativistic"):
        measure("realism", a_cell(discriminator=Detail(), gan="hinge"))
    assert measure("realism", a_cell()) == []


def test_columns_that_are_none():
    for name, words in (
        ("nonsense", "no column is called"),
        ("distance:nlpd", "is no distance of Eq. 1"),
        ("distance:psnr", "is no distance of Eq. 1"),
        ("json:loads", "make it a Column or a Metric"),
        ("no_such_module:x", "no column is called"),
    ):
        with pytest.raises(QebiasError, match=words):
            identity(name)


def test_a_column_from_outside(tmp_path, monkeypatch):
    (tmp_path / "my_columns.py").write_text(
        "from qebias.measure import Column\n"
        "def brightness(cell):\n"
        "    return [(name, 'brightness', float(e.mean()), 'grey levels') "
        "for name, _, _, e in cell.triples()]\n"
        "column = Column(brightness, version=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_columns", raising=False)
    assert identity("my_columns:column") == {"column": "my_columns:column", "version": 3}
    assert points(measure("my_columns:column", a_cell()))["brightness"]["b"] == ENHANCED[0].mean()


def test_a_metric_and_a_distance_from_outside(tmp_path, monkeypatch):
    (tmp_path / "far.py").write_text(
        "import numpy as np\n"
        "from qebias.metrics import Metric\n"
        "def furthest(a, b): return float(np.abs(a.astype(int) - b).max())\n"
        "row = Metric('furthest', 'Furthest', 'lower', 'full-reference', 1, (0, 255),\n"
        "             function='far:furthest', distance='pair', version=4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "far", raising=False)
    try:
        assert identity("far:row")["metric"] == identity("distance:far:row")["metric"] == 4
        expected = float(np.abs(ENHANCED[1].astype(int) - RAW[1]).max())
        assert points(measure("far:row", a_cell()))["far:row"]["a"] == expected
        assert points(measure("distance:far:row", a_cell()))["re:far:row"]["a"] == expected
    finally:
        METRICS.pop("far:row", None)


def test_an_identity_knows_versions_and_weights():
    assert identity("psnr") == {"column": "psnr", "version": 1, "metric": METRICS["psnr"].version}
    assert identity("psi:random-w4-s0:conv2_2")["weights"] == ["random-w4-s0"]
    if "lpips-alex" not in available(["lpips-alex"])[1]:
        assert [len(x) for x in identity("distance:lpips-alex")["weights"]] == [64, 64]


def test_metrics_that_need_no_network_do_not_import_pyiqa():
    import subprocess

    code = (
        "import sys, numpy as np\n"
        "from qebias.metrics import metric\n"
        "x = np.zeros((64, 64, 3), np.uint8)\n"
        "for name in ('psnr', 'rmse', 'ssim', 'nlpd'): metric(name)(x + 3, x)\n"
        "print('pyiqa' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_controls_are_functions_of_pictures_and_names():
    for row in c.ROWS:
        one = c.control(row, NAMES, RAW, COMPRESSED)
        order = [2, 0, 1]
        other = c.control(row, *([part[i] for i in order] for part in (NAMES, RAW, COMPRESSED)))
        assert all((one[i] == other[k]).all() for k, i in enumerate(order)), row
        assert all(e.dtype == np.uint8 and e.shape == r.shape for e, r in zip(one, RAW))
    renamed = c.control("noise4", ["x", "y", "z"], RAW, COMPRESSED)
    assert (renamed[0] != c.control("noise4", NAMES, RAW, COMPRESSED)[0]).any()


def test_controls_by_hand():
    noise = c.grey_noise(np.full((256, 256, 3), 128, np.uint8), "x", 8).astype(float) - 128
    assert noise.std() == pytest.approx(8, rel=0.02) and abs(noise.mean()) < 0.1
    assert (noise[..., 0] == noise[..., 2]).all()
    taken = c.other_residual(COMPRESSED[0], RAW[1], COMPRESSED[1]).astype(int) - COMPRESSED[0]
    inside = (COMPRESSED[0] > 60) & (COMPRESSED[0] < 190)
    assert (taken == RAW[1].astype(int) - COMPRESSED[1])[inside].all()
    assert (c.unsharp(np.full((9, 9, 3), 77, np.uint8)) == 77).all()
    with pytest.raises(QebiasError, match="no control is called"):
        c.control("control:magic", NAMES, RAW, COMPRESSED)


def test_noise_leans_towards_raw_and_an_ideal_enhancer_does_not():
    """The deviation by RMS error: -100 % for anything unrelated to what was lost, 1 - 2 q for the best there
    is"""
    noisy = a_cell(enhanced=c.control("noise8", NAMES, RAW, COMPRESSED))
    found = results(measure("distance:rmse", noisy))
    sides = [found.values(quantity=f"{side}:rmse", **AT) for side in ("ce", "re", "cr")]
    assert estimate(deviation_of(*sides)).value == pytest.approx(-100, abs=3)
    ideal = c.ideal_deviations(0.9)
    assert ideal["MMSE", "rmse"] == ideal["sampler", "rmse"] == pytest.approx(-62.57, abs=0.01)
    assert ideal["sampler", "squared"] == pytest.approx(-164.3, abs=0.1) and ideal["sampler", "set"] == 100


# Versions: another number needs another version

STORED = Path(__file__).parent / "numbers" / "measure.json"


def fingerprint(lines):
    "Every quantity's mean over pictures or value of the set, and its seventh resample"
    found = {}
    for quantity, values in points(lines).items():
        found[quantity] = float(f"{np.nanmean(list(values.values())):.8g}")
    for name, quantity, value, _ in lines:
        if name == "~007":
            found[f"{quantity} ~007"] = float(f"{value:.8g}")
    return found


def numbers():
    "Column or control -> (version, fingerprint), of what this machine can compute"
    metrics = [
        name
        for name in ("psnr", "rmse", "ssim", "nlpd", "niqe", "lpips-alex")
        if name in available([name])[0]
    ]
    distances = [name for name in ("rmse", "lpips-alex", "fd_alex", "fd_nss") if name in available([name])[0]]
    cell = a_cell(discriminator=Detail(dense=True))
    found = {}
    for name in columns(metrics, distances, gan=True, psi="random-w4-s0:conv2_2"):
        who = identity(name)
        found[name] = f"{who['version']}.{who.get('metric', 1)}", fingerprint(measure(name, cell))
    relative = replace(cell, gan="relativistic")
    found["realism, relativistic"] = (
        f"{identity('realism')['version']}.1",
        fingerprint(measure("realism", relative)),
    )
    for row in c.ROWS:
        made = c.control(row, NAMES, RAW, COMPRESSED)
        of = {
            "sum": int(np.sum([x.astype(int).sum() for x in made])),
            "squares": int(np.sum([(x.astype(int) ** 2).sum() for x in made])),
        }
        found[row] = f"{c.find_control(row).version}.1", of
    return found


def test_numbers_have_the_version_that_they_say():
    stored = json.loads(STORED.read_text())
    for name, (version, values) in numbers().items():
        known = stored.get(name, {})
        assert version in known, f"{name} has no numbers of version {version} in {STORED.name}: store them"
        assert values == pytest.approx(known[version], rel=2e-5, abs=1e-7), f"{name}: raise its version"


if __name__ == "__main__":
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for name, (version, values) in numbers().items():
        stored.setdefault(name, {})[version] = values
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: c.grey_noise(x / 255, "x", 4), "x has dtype float64: pass uint8"),
        (lambda x: c.grey_noise(x, "x", -1), "0 or more grey levels"),
        (lambda x: c.unsharp(x / 255), "pass uint8"),
        (lambda x: c.unsharp(x, radius=0), "radius above 0"),
        (lambda x: c.other_residual(x, x, x / 255), "pass uint8"),
        (lambda x: c.other_residual(x, x, x[1:]), "has two sizes"),
    ],
)
def test_controls_of_what_is_not_8_bit_are_refused(call, words):
    "Floats in [0, 1] once became black pictures"
    with pytest.raises(QebiasError, match=words):
        call(COMPRESSED[0])
