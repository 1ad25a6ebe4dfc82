"An audit of three folders: what belongs together, what does not, the numbers, the two sentences, the page"

import base64
import gc
import html.parser
import io
import os
import re
import time
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter

from qebias import audit as pages
from qebias.audit import Pictures, audit
from qebias.bias import deviation
from qebias.codecs import Bpg
from qebias.core import QebiasError, read_rgb, write_png
from qebias.discriminators import ConditionalDiscriminator, UNetSN, VGGStyle
from qebias.generators.arcnn import ARCNN
from qebias.measure import Evaluation, measure
from qebias.metrics import METRICS, metric
from qebias.networks import save_network

QUICK = dict(distances=["rmse"], metrics=["psnr"], patch=64)


def jpeg(rgb, quality=20):
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def soft(rgb):
    return np.array(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(0.7)))


def scenes(count, side=64):
    from skimage import data

    pictures, rng = [data.astronaut(), data.coffee(), data.chelsea()], np.random.default_rng(3)
    for i in range(count):
        picture = pictures[i % 3]
        y, x = rng.integers(0, np.array(picture.shape[:2]) - side + 1)
        yield np.ascontiguousarray(picture[y : y + side, x : x + side])


def lay(root, count, side=64):
    "Folders raw (PNG), compressed (JPEG), enhanced (PNG)"
    (root / "compressed").mkdir(parents=True)
    for i, rgb in enumerate(scenes(count, side)):
        write_png(root / "raw" / f"p{i:02}.png", rgb)
        (root / "compressed" / f"p{i:02}.jpg").write_bytes(jpeg(rgb))
        write_png(root / "enhanced" / f"p{i:02}.png", soft(read_rgb(root / "compressed" / f"p{i:02}.jpg")))
    return root


def folders(root):
    return root / "raw", root / "compressed", root / "enhanced"


@pytest.fixture
def three(tmp_path):
    return lay(tmp_path / "three", 3)


@pytest.fixture(scope="module")
def eleven(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("eleven"), 11)


@pytest.fixture(scope="module")
def report(eleven):
    return audit(*folders(eleven), **QUICK)


# --- which pictures belong together


def test_names_match_below_folders_and_across_formats(tmp_path):
    for i, rgb in enumerate(scenes(2)):
        write_png(tmp_path / "raw" / "a" / f"{i}.x.png", rgb)
        (tmp_path / "c" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / "a" / f"{i}.x.bpg").write_bytes(Bpg(42).encode(rgb))
        Image.fromarray(soft(rgb)).save(
            (tmp_path / "e" / "a").mkdir(parents=True, exist_ok=True) or tmp_path / "e" / "a" / f"{i}.x.TIFF"
        )
    (tmp_path / "e" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "e" / "notes.txt").write_text("x")
    found = audit(tmp_path / "raw", tmp_path / "c", tmp_path / "e", **QUICK)
    assert sorted(found.pixels["image"]) == ["a/0.x", "a/1.x"] and found.facts["formats"]["compressed"] == {
        ".bpg": 2
    }
    _, _, compressed, _ = found.pictures["worst"]
    assert np.array_equal(
        compressed, Bpg(42).decode((tmp_path / "c" / f"{found.pictures['worst'][0]}.bpg").read_bytes())
    )


def test_a_decoded_picture_goes_before_the_bitstream_beside_it(three):
    for f in (three / "compressed").glob("*.jpg"):
        write_png(f.with_suffix(".png"), 255 - read_rgb(f))
    found = audit(*folders(three), **QUICK)
    name, _, compressed, _ = found.pictures["worst"]
    assert np.array_equal(compressed, read_rgb(three / "compressed" / f"{name}.png"))
    assert found.facts["formats"]["compressed"] == {".png": 3}


def test_of_two_pictures_of_one_name_the_lossless_one_counts(three):
    (three / "enhanced" / "p01.jpg").write_bytes((three / "compressed" / "p01.jpg").read_bytes())
    found = audit(*folders(three), **QUICK)
    assert found.facts["images"] == 3 and found.facts["formats"]["enhanced"] == {".png": 3}


BREAK = {
    "missing in raw": lambda r: (r / "raw" / "p01.png").unlink(),
    "missing in compressed": lambda r: (r / "compressed" / "p01.jpg").unlink(),
    "missing in enhanced": lambda r: (r / "enhanced" / "p01.png").unlink(),
    "is 64x64 as raw, 64x64 as compressed, 60x64 as enhanced": lambda r: write_png(
        r / "enhanced" / "p01.png", np.zeros((64, 60, 3), np.uint8)
    ),
    "is 60x64 as raw, 64x64 as compressed, 64x64 as enhanced": lambda r: write_png(
        r / "raw" / "p01.png", np.zeros((64, 60, 3), np.uint8)
    ),
    "no picture that can be read": lambda r: (r / "enhanced" / "p01.png").write_bytes(b"no picture"),
    "p01.png": lambda r: (r / "enhanced" / "p01.png").write_bytes(
        (r / "enhanced" / "p01.png").read_bytes()[:900]
    ),
    "transparent in places": lambda r: Image.fromarray(np.zeros((64, 64, 4), np.uint8)).save(
        r / "enhanced" / "p01.png"
    ),
    "p01.bpg": lambda r: (
        (r / "compressed" / "p01.jpg").unlink(),
        (r / "compressed" / "p01.bpg").write_bytes(b"no bitstream"),
    ),
}


@pytest.mark.parametrize("words", BREAK)
def test_what_does_not_match_is_named_and_counted_and_fatal_unless_skipped(three, words):
    BREAK[words](three)
    with pytest.raises(QebiasError) as error:
        audit(*folders(three), **QUICK)
    assert (
        str(error.value).startswith("1 of 3 images does not match: p01: ")
        and words in str(error.value)
        and "--skip" in str(error.value)
        and "\n" not in str(error.value)
    )
    found = audit(*folders(three), on_mismatch="skip", **QUICK)
    assert (
        list(found.skipped) == ["p01"]
        and words in found.skipped["p01"]
        and sorted(found.pixels["image"]) == ["p00", "p02"]
    )
    clean = audit(
        *([read_rgb(next(folder.glob(f"{name}.*"))) for name in ("p00", "p02")] for folder in folders(three)),
        names=["p00", "p02"],
        **QUICK,
    )
    assert np.allclose(clean.frame["value"], found.frame["value"]) and clean.verdict == found.verdict


def test_many_mismatches_are_counted_not_listed(tmp_path):
    root = lay(tmp_path, 8)
    for i in range(6):
        (root / "enhanced" / f"p{i:02}.png").unlink()
    with pytest.raises(
        QebiasError,
        match=r"6 of 8 images do not match: p00: missing in enhanced; p01: .*; p02: .*; and 3 more: correct",
    ):
        audit(*folders(root), **QUICK)


@pytest.mark.parametrize("skip", ["raise", "skip"])
def test_nothing_to_measure_is_fatal_in_any_case(three, tmp_path, skip):
    (tmp_path / "empty").mkdir()
    raw, compressed, enhanced = folders(three)
    for wrong, words in (
        (tmp_path / "empty", "enhanced: .*empty holds no pictures"),
        (tmp_path / "none", r"none \(enhanced\) does not exist"),
        (raw / "p00.png", r"p00.png \(enhanced\) is a file"),
    ):
        with pytest.raises(QebiasError, match=words):
            audit(raw, compressed, wrong, on_mismatch=skip, **QUICK)
    for f in enhanced.iterdir():
        f.rename(f.with_name(f"{f.stem}_out.png"))
    with pytest.raises(
        QebiasError,
        match="no name occurs in all three folders: raw has p00, compressed has p00, enhanced has p00_out",
    ):
        audit(raw, compressed, enhanced, on_mismatch=skip, **QUICK)
    for f in enhanced.iterdir():
        write_png(f.with_name(f.name.replace("_out", "")), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(QebiasError, match="3 of 6 images|6 of 6 images"):
        audit(raw, compressed, enhanced, on_mismatch=skip, **QUICK)
    with pytest.raises(QebiasError, match="compressed pictures are the raw ones"):
        audit(raw, raw, raw, on_mismatch=skip, **QUICK)


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(distances=["psnr"]), "'psnr' is no distance"),
        (dict(metrics=["fid"]), "'fid' is no metric of single images"),
        (dict(metrics=["lpips"]), "'lpips' is no metric"),
        (dict(on_mismatch="ignore"), "raise or skip"),
        (dict(device="abacus"), "device 'abacus' is not known or not on this machine"),
        (dict(patch=16), "patch is 16"),
        (dict(judge=object(), discriminator="x"), "exclude each other"),
        (dict(enhanced=[]), "do not mix them"),
        (dict(distances=["fd_nss"]), "fd_nss needs images of at least 96x96 px, and p00 is 64x64"),
        (dict(distances=["nlpd"]), "'nlpd' is no distance"),
        (dict(level=95), "between 0 and 1"),
        (dict(metrics=["niqe"]), "niqe"),
    ],
)
def test_audit_refuses_in_one_line(three, change, words):
    arguments = {**dict(zip(("raw", "compressed", "enhanced"), folders(three))), **QUICK, **change}
    with pytest.raises(QebiasError, match=words) as error:
        audit(**arguments)
    assert "\n" not in str(error.value)


def test_remarks_on_the_pictures(tmp_path):
    root = lay(tmp_path, 4)
    for kind, suffix in (("raw", "png"), ("compressed", "jpg"), ("enhanced", "png")):
        (root / kind / f"p03.{suffix}").write_bytes((root / kind / f"p00.{suffix}").read_bytes())
    write_png(root / "enhanced" / "p01.png", read_rgb(root / "compressed" / "p01.jpg"))
    notes = " | ".join(audit(*folders(root), **QUICK).notes)
    assert (
        "1 raw picture occurs more than once, first p00 and p03" in notes
        and "1 enhanced picture is the compressed one, pixel by pixel" in notes
        and "raw ones" not in notes
    )
    assert any(
        "3 of the raw pictures are JPEG" in note
        for note in audit(
            lay(tmp_path / "x", 3) / "compressed",
            *([soft(soft(r)) for r in ()] or [root / "raw", root / "enhanced"]),
            on_mismatch="skip",
            **QUICK,
        ).notes
    )


@pytest.mark.parametrize(
    "paths,short",
    [
        (("/a/raw", "/a/jpg", "/b/out"), ("raw", "jpg", "out")),
        (("/a/x", "/b/x", "/c/x"), ("a/x", "b/x", "c/x")),
        (("/a/raw", "/a/raw", "/a/out"), ("raw", "raw", "out")),
    ],
)
def test_folders_are_called_by_as_little_as_tells_them_apart(paths, short):
    assert tuple(pages.short_names(dict(zip(pages.DOMAINS, paths))).values()) == short


# --- the numbers


def test_the_numbers_are_those_of_measure_and_metric(eleven, report):
    names = [f"p{i:02}" for i in range(11)]
    raw, compressed, enhanced = (
        [read_rgb(next(folder.glob(f"{name}.*"))) for name in names] for folder in folders(eleven)
    )
    rms = lambda a, b: np.mean([np.sqrt(((x.astype(float) - y) ** 2).mean()) for x, y in zip(a, b)])
    sides = rms(compressed, enhanced), rms(raw, enhanced), rms(compressed, raw)
    rows = report.frame.set_index(["what", "name", "domain"])
    own = rows.loc[("deviation", "rmse", "")]
    assert own.value == pytest.approx(deviation(*sides)) and (own.unit, own.n) == ("image", 11)
    assert own.low < own.value < own.high
    assert [rows.loc[("distance", "rmse", side)].value for side in ("CE", "RE", "CR")] == pytest.approx(sides)
    psnr = metric("psnr")
    gain = np.array([psnr(e, r) - psnr(c, r) for r, c, e in zip(raw, compressed, enhanced)])
    row = rows.loc[("quality", "psnr", "enhanced - compressed")]
    assert row.value == pytest.approx(gain.mean())
    half = (row.high - row.low) / 2
    assert half == pytest.approx(2.228 * gain.std(ddof=1) / 11**0.5, rel=0.25)
    assert rows.loc[("difference", "pixels", "RE")].value == pytest.approx(
        np.mean([np.abs(r.astype(float) - e).mean() for r, e in zip(raw, enhanced)]), rel=1e-6
    )
    assert list(report.frame.columns) == ["what", "name", "domain", "value", "low", "high", "unit", "n"]


def test_the_worst_and_the_median_by_their_pixels(eleven, report):
    table = report.pixels.set_index("image")
    assert list(report.pixels["deviation"]) == sorted(report.pixels["deviation"])
    assert (report.pictures["worst"][0], report.pictures["median"][0]) == (
        report.pixels["image"][0],
        report.pixels["image"][5],
    )
    for name, r, c, e in report.pictures.values():
        apart = lambda a, b: np.sqrt(((a.astype(float) - b) ** 2).mean())
        assert table.deviation[name] == pytest.approx(
            deviation(apart(c, e), apart(r, e), apart(c, r)), rel=1e-4
        )


def test_folders_and_arrays_give_the_same(eleven, report):
    names = [f"p{i:02}" for i in range(11)]
    arrays = [[read_rgb(next(folder.glob(f"{name}.*"))) for name in names] for folder in folders(eleven)]
    again = audit(*arrays, names=names, **QUICK)
    assert (
        again.frame.equals(report.frame)
        and again.verdict == report.verdict
        and again.facts["content"] == report.facts["content"]
    )
    assert "folders" not in again.facts


def test_pictures_are_not_gathered_in_memory(eleven):
    alive, most = [], 0
    gc.collect()
    gc.freeze()  # what is there already need not be walked at every picture

    def load(path):
        nonlocal most
        image = read_rgb(path)
        alive.append(weakref.ref(image))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return image

    sets = [
        Pictures([lambda f=f: load(f) for f in sorted(folder.iterdir())], [(64, 64)] * 11)
        for folder in folders(eleven)
    ]
    cell = Evaluation([f"p{i:02}" for i in range(11)], *sets, [1] * 11, UNetSN(width=4), patch=32)
    assert len(measure("distance:rmse", cell)) == 33 and len(measure("realism", cell)) > 33
    gc.unfreeze()
    assert len(alive) == 99 and most <= 6


def test_a_cache_spares_what_only_raw_and_compressed_decide(eleven, report, monkeypatch):
    calls, real = [], pages.measure
    monkeypatch.setattr(pages, "measure", lambda column, cell: calls.append(column) or real(column, cell))
    cache = {}
    first = audit(*folders(eleven), cache=cache, **QUICK)
    assert calls.count("distance:rmse") == 4 and calls.count("psnr") == 2
    pd.testing.assert_frame_equal(first.frame, report.frame)
    calls.clear()
    other = [soft(soft(read_rgb(f))) for f in sorted((eleven / "enhanced").iterdir())]
    arrays = [[read_rgb(f) for f in sorted(folder.iterdir())] for folder in folders(eleven)[:2]]
    audit(*arrays, other, names=[f"p{i:02}" for i in range(11)], cache=cache, **QUICK)
    assert calls.count("distance:rmse") == 1 and calls.count("psnr") == 1  # the controls are known


def test_a_metric_that_is_a_distance_too_is_measured_once(eleven, monkeypatch):
    calls, real = [], pages.measure
    monkeypatch.setattr(pages, "measure", lambda column, cell: calls.append(column) or real(column, cell))
    monkeypatch.setitem(METRICS, "far", replace(METRICS["rmse"], name="far"))
    found = audit(*folders(eleven), distances=["far"], metrics=["far"], controls=False)
    assert calls.count("distance:far") == 1 and "far" not in calls
    rows = found.frame.set_index(["what", "domain"])["value"]
    assert rows["quality", "enhanced"] == pytest.approx(rows["distance", "RE"])
    assert rows["quality", "compressed"] == pytest.approx(rows["distance", "CR"])


def test_controls_stand_beside_every_deviation(report):
    rows = report.frame[report.frame["what"] == "control"]
    assert list(rows["domain"]) == ["control:noise4", "control:noise8", "control:unsharp"]
    assert rows["value"].to_numpy() == pytest.approx([-100, -100, -120], abs=25)
    assert "grey noise of 8 levels, which restores nothing" in report.verdict


def test_exchanged_and_shifted_pictures_are_named(eleven):
    names = [f"p{i:02}" for i in range(11)]
    raw, compressed, enhanced = (
        [read_rgb(f) for f in sorted(folder.iterdir())] for folder in folders(eleven)
    )
    mixed = list(enhanced)
    mixed[2], mixed[5] = mixed[5], mixed[2]
    notes = " | ".join(audit(raw, compressed, mixed, names=names, **QUICK).notes)
    assert "2 enhanced pictures seem to be exchanged: p02 looks like p05, p05 looks like p02" in notes
    moved = [np.roll(e, 1, 1) if i == 3 else e for i, e in enumerate(enhanced)]
    notes = " | ".join(audit(raw, compressed, moved, names=names, **QUICK).notes)
    assert (
        "1 enhanced picture is shifted against raw: p03 by +0 rows and -1 column would bring it back" in notes
    )
    assert not audit(raw, compressed, enhanced, names=names, **QUICK).notes


def three_lists(root):
    return [[read_rgb(f) for f in sorted(folder.iterdir())] for folder in folders(root)]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rgb: rgb[:, ::-1], "pictures are mirrored: image 1"),
        (lambda rgb: rgb[::-1], "pictures are upside down: image 1"),
        (lambda rgb: rgb[::-1, ::-1], "pictures are turned by half: image 1"),
        (np.rot90, "pictures are turned to the left: image 1"),
        (lambda rgb: rgb[..., ::-1], "pictures are in BGR order (red and blue exchanged): image 1"),
        (lambda rgb: 255 - rgb, "pictures are inverted: image 1"),
        (np.zeros_like, "11 enhanced pictures are of one colour throughout: image 1"),
    ],
)
def test_pictures_that_another_program_wrote_another_way_are_named(eleven, change, words):
    raw, compressed, enhanced = three_lists(eleven)
    notes = audit(raw, compressed, [np.ascontiguousarray(change(rgb)) for rgb in enhanced], **QUICK).notes
    assert len([note for note in notes if words in note]) == 1, notes
    assert not any("exchanged:" in note or "shifted" in note for note in notes)


@pytest.mark.parametrize("change", [lambda rgb: rgb // 2, lambda rgb: 128 + rgb // 2])
def test_darker_and_paler_pictures_are_not_taken_for_exchanged_ones(eleven, change):
    raw, compressed, enhanced = three_lists(eleven)
    assert not audit(raw, compressed, [change(rgb) for rgb in enhanced], **QUICK).notes


@pytest.mark.parametrize("pixels", range(1, 9))
def test_a_shift_of_up_to_eight_pixels_is_told_exactly(pixels):
    raw = next(scenes(1, 160))
    coded = np.array(Image.open(io.BytesIO(jpeg(raw))))
    assert pages.shift(np.roll(coded, (pixels, -pixels), (0, 1)), raw) == (-pixels, pixels)
    assert pages.shift(np.roll(coded, pixels, 1), raw) == (0, -pixels)
    assert pages.shift(coded, raw) == (0, 0) == pages.shift(raw, raw)


def test_folders_in_each_others_place_are_asked_about(eleven):
    raw, compressed, enhanced = three_lists(eleven)
    asked = {
        "raw and compressed exchanged?": (compressed, raw, enhanced),
        "raw and enhanced exchanged?": (enhanced, compressed, raw),
    }
    for words, given in asked.items():
        notes = audit(*given, **QUICK).notes
        assert len([note for note in notes if words in note]) == 1, notes
    rng = np.random.default_rng(1)
    sharper = [(c + rng.normal(0, 20, c.shape)).clip(0, 255).astype(np.uint8) for c in compressed]
    for honest in (enhanced, compressed, sharper, raw):
        assert not any("folders" in note for note in audit(raw, compressed, honest, **QUICK).notes)


def test_names_that_match_only_in_part_are_told_in_one_line(eleven, tmp_path):
    for f in (eleven / "enhanced").iterdir():
        name = f"{f.stem}_out.png" if f.stem > "p06" else f.name
        (tmp_path / "enhanced").mkdir(exist_ok=True)
        (tmp_path / "enhanced" / name).write_bytes(f.read_bytes())
    given = eleven / "raw", eleven / "compressed", tmp_path / "enhanced"
    with pytest.raises(QebiasError, match="8 of 15 images do not match: p07: missing in enhanced; ") as told:
        audit(*given, **QUICK)
    assert "\n" not in str(told.value) and "and 5 more" in str(told.value)
    found = audit(*given, on_mismatch="skip", **QUICK)
    assert found.facts["images"] == 7 and len(found.skipped) == 8


def test_a_look_at_a_picture_is_what_whole_arrays_give(eleven):
    raw, compressed, _ = (rgbs[0] for rgbs in three_lists(eleven))
    tall = [np.tile(rgb, (40, 20, 1)) for rgb in (raw, compressed)]  # several bands
    apart = tall[0].astype(float) - tall[1]
    assert pages.differences(*tall) == pytest.approx(((apart**2).mean(), np.abs(apart).mean()), rel=1e-12)


def test_a_method_outside_the_triangle_does_not_lean(eleven):
    raw, compressed, _ = ([read_rgb(f) for f in sorted(folder.iterdir())] for folder in folders(eleven))
    black = audit(raw, compressed, [np.zeros_like(rgb) for rgb in raw], **QUICK)
    assert "outside the triangle" in black.verdict and "lean towards" not in black.verdict
    assert "times as far from raw as the compressed ones" in black.verdict


def test_a_small_set_says_so(three):
    found = audit(*folders(three), **QUICK)
    assert any("3 pictures say little about others" in note for note in found.notes)
    assert "only 3 images, which says little about other pictures" in found.verdict


def test_progress_counts_up_to_the_end(eleven):
    seen = {}

    def tell(stage, done, total):
        seen.setdefault(stage, []).append((done, total))

    audit(
        *folders(eleven),
        judge=ConditionalDiscriminator(UNetSN(width=4), False),
        progress=tell,
        **{**QUICK, "patch": 32},
    )
    assert list(seen) == ["reading", "measuring"]
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps) and steps[-1][0] == steps[-1][
            1
        ]


def test_bars_go_to_a_terminal_s_standard_error(capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tell = pages.bars()
    for k in range(3):
        tell("reading", k + 1, 3)
    out = capsys.readouterr()
    assert not out.out and "reading" in out.err


def test_without_weights_what_is_missing_is_listed_with_its_reason(eleven, monkeypatch, tmp_path):
    for variable in ("QEBIAS_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    found = audit(*folders(eleven), metrics=["psnr"], controls=False)
    measured = found.frame[found.frame["what"] == "deviation"]["name"]
    assert set(measured) == {"rmse"} and {"lpips-alex", "fd_alex", "fid", "fd_nss"} <= set(found.reasons)
    assert (
        "fd_nss needs images of at least 96x96 px, and p00 is 64x64" in found.reasons["fd_nss"]
        and "LPIPS_v0.1_alex" in found.reasons["lpips-alex"] + found.reasons["fd_alex"]
        or "alexnet" in found.reasons["lpips-alex"]
    )
    with pytest.raises(QebiasError, match="fid"):
        audit(*folders(eleven), distances=["fid"], metrics=[])


def test_one_image_and_identical_ones(three):
    raw, compressed, enhanced = ([read_rgb(next(f.glob("p00.*")))] for f in folders(three))
    found = audit(raw, compressed, enhanced, **QUICK)
    assert (
        list(found.pictures) == ["worst"]
        and found.frame[["low", "high"]].isna().all(axis=None)
        and "no interval" in found.verdict
        and "all this on a single image, which" in found.verdict
    )
    for images, value in ((compressed, -100), (raw, 100)):
        found = audit(raw * 1, compressed, images, **QUICK)
        own = found.frame[found.frame["what"] == "deviation"]["value"].item()
        assert own == pytest.approx(value) and len(found.notes) == 2


# --- the judge


def judge_file(path, net, **more):
    spec = {
        "class": f"qebias.discriminators:{type(net).__name__}",
        "kwargs": {
            "width": 4,
            "in_channels": net.in_channels,
            **({"size": 32} if type(net) is VGGStyle else {}),
        },
    }
    save_network(path, net, spec, {"method": "mine", **more})
    return path


@pytest.mark.parametrize(
    "conditional,gan,kind",
    [(False, "vanilla", UNetSN), (True, "relativistic", UNetSN), (True, "relativistic", VGGStyle)],
)
def test_a_discriminator_file_says_how_it_judges(three, tmp_path, conditional, gan, kind):
    channels = 6 if conditional else 3
    net = kind(channels, 4, 32) if kind is VGGStyle else kind(channels, 4)
    file = judge_file(tmp_path / "d.safetensors", net, conditional=conditional, gan=gan, patch=32)
    found = audit(*folders(three), file, distances=[], metrics=[])
    arrays = [[read_rgb(f) for f in sorted(folder.iterdir())] for folder in folders(three)]
    more = dict(conditional=conditional, gan=gan, patch=32)
    cell = Evaluation(["p00", "p01", "p02"], *arrays, [1] * 3, net, **more)
    direct = [line for line in measure("realism", cell) if line[1] == "score:raw" and line[0][:1] != "~"]
    rows = found.frame.query("what == 'realism'").set_index("domain")["value"]
    assert rows["raw"] == pytest.approx(np.mean([line[2] for line in direct]), abs=1e-5)
    assert found.facts["judge"] == {
        "class": kind.__name__,
        "conditional": conditional,
        "gan": gan,
        "patch": 32,
    }
    assert list(rows.index) == [
        *("raw", "enhanced", "enhanced - raw", "AUC raw, enhanced"),
        *("compressed", "compressed - raw", "AUC raw, compressed"),
    ]
    assert rows["enhanced - raw"] == pytest.approx(rows["enhanced"] - rows["raw"])
    assert "the discriminator" in found.verdict


def test_a_discriminator_from_elsewhere_scores_on_trust(three, tmp_path, monkeypatch):
    (tmp_path / "own_judge.py").write_text("from qebias.discriminators import UNetSN as Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class": "own_judge:Own", "kwargs": {"in_channels": 3, "width": 4}}
    known = {"conditional": False, "gan": "vanilla", "patch": 32}
    file = tmp_path / "own.safetensors"
    save_network(file, UNetSN(3, 4), spec, known)
    with pytest.raises(QebiasError, match="Pass --trust"):
        audit(*folders(three), file, distances=[], metrics=[])
    found = audit(*folders(three), file, distances=[], metrics=[], trust=True)
    assert len(found.frame.query("what == 'realism'")) == 7


def test_other_files_are_no_judges(three, tmp_path):
    save_network(
        tmp_path / "generator.safetensors",
        ARCNN(),
        {"class": "qebias.generators.arcnn:ARCNN"},
        {"method": "arcnn"},
    )
    with pytest.raises(
        QebiasError,
        match=r"generator\.safetensors does not say how it was trained \(conditional, gan, patch\)",
    ) as error:
        audit("nowhere", "nowhere", "nowhere", tmp_path / "generator.safetensors")
    assert "\n" not in str(error.value)
    file = judge_file(tmp_path / "d.safetensors", UNetSN(3, 4), gan="vanilla")
    with pytest.raises(QebiasError, match=r"does not say how it was trained \(conditional, patch\)"):
        audit("nowhere", "nowhere", "nowhere", file)
    (tmp_path / "t.safetensors").write_text("text")
    for name, words in (
        ("t.safetensors", "not a whole safetensors file"),
        ("none.safetensors", "does not exist"),
    ):
        with pytest.raises(QebiasError, match=words):
            audit("nowhere", "nowhere", "nowhere", tmp_path / name)
    large = judge_file(tmp_path / "l.safetensors", UNetSN(3, 4), conditional=False, gan="vanilla", patch=128)
    with pytest.raises(QebiasError, match="64x64 px has no patch of 128 px"):
        audit(*folders(three), large, **QUICK)


# --- two sentences
def test_a_metric_that_one_picture_has_no_value_of_is_left_out_unless_it_was_asked_for(
    three, tmp_path, monkeypatch
):
    flat = read_rgb(three / "compressed" / "p01.jpg")
    monkeypatch.setattr(
        "qebias.metrics.psnr", lambda enhanced, raw: NAN if np.array_equal(enhanced, flat) else 30.0
    )
    with pytest.raises(QebiasError, match="p01: psnr has no value"):
        audit(*folders(three), **QUICK)
    found = audit(*folders(three), **QUICK | {"metrics": None})
    assert (
        found.reasons["psnr"] == "p01: psnr has no value for this image, but nan"
        and {"ssim", "nlpd"} <= set(found.images["metric"])
        and "psnr" not in set(found.frame["name"])
    )
    assert "p01: psnr has no value" in pages.audit_page(found, tmp_path / "report").read_text()


def table(deviations=(), quality=(), realism=None, unit="image", n=24):
    rows = [("deviation", name, "", value, low, high, unit, n) for name, value, low, high in deviations]
    rows += [
        ("quality", name, "enhanced - compressed", value, low, high, "image", n)
        for name, value, low, high in quality
    ]
    for domain, value, low, high in realism or ():
        rows.append(("realism", "discriminator", domain, value, low, high, "image", n))
    return pd.DataFrame(rows, columns=["what", "name", "domain", "value", "low", "high", "unit", "n"])


NAN = float("nan")
TO_C, TO_R, OPEN = ("rmse", -71.2, -80, -60), ("fd_nss", 30, 10, 50), ("lpips-alex", -3, -9, 4)


@pytest.mark.parametrize(
    "deviations,words,never",
    [
        (
            [TO_C],
            "lean towards the compressed ones: nearer to the compressed than to the raw by RMS error (−71 %)",
            "includes",
        ),
        (
            [TO_C, ("fid", -40, -50, -30)],
            "by RMS error (−71 %) and FID (−40 %), 0 % being midway.",
            "includes",
        ),
        (
            [TO_C, OPEN],
            "lean towards the compressed ones: nearer to the compressed than to the raw by RMS error "
            "(−71 %), 0 % being midway, while by LPIPS (−3 %) the interval includes 0 %",
            "disagree",
        ),
        ([TO_R], "lean towards the raw ones", "compressed ones:"),
        (
            [TO_C, TO_R, OPEN],
            "The distances disagree: by RMS error (−71 %) the enhanced images are nearer to the compressed "
            "than to the raw ones, by the Fréchet distance of scene statistics (+30 %) nearer to the raw "
            "ones, while by LPIPS",
            "lean",
        ),
        ([OPEN], "cannot be told: by LPIPS (−3 %) the interval includes 0 %", "towards"),
        ([("rmse", -50, NAN, NAN)], "cannot be told from one image", "includes"),
        ([], "nothing can be said about a bias", "%"),
    ],
)
def test_the_first_sentence_says_no_more_than_the_intervals(deviations, words, never):
    text = pages.verdict(table(deviations), 24)
    first = text.split(". ")[0] + "."
    assert words in first and never not in first and "only" not in first


@pytest.mark.parametrize(
    "images,words",
    [
        (1, "on a single image, which says little"),
        (9, "on only 9 images, which says little"),
        (10, None),
    ],
)
def test_few_images_are_named_in_the_sentence(images, words):
    text = pages.verdict(table([TO_C], unit="patch" if images < 10 else "image", n=40), images)
    assert (words in text) if words else "says little" not in text


def test_the_second_sentence():
    text = pages.verdict(
        table(
            [TO_C],
            [
                ("psnr", 0.3, 0.1, 0.5),
                ("lpips-alex", 0.02, 0.01, 0.03),
                ("ssim", 0.001, -0.01, 0.02),
                ("niqe", -0.4, -0.6, -0.2),
            ],
        ),
        24,
    )
    assert text.endswith(
        " Compared with the compressed images the enhanced ones are better by PSNR and NIQE, "
        "worse by LPIPS, and not told apart by SSIM."
    )
    assert pages.verdict(table([TO_C]), 24).endswith(" No quality metric was measured.")
    scores = lambda low, high: [
        ("raw", 0.7, 0.6, 0.8),
        ("enhanced", 0.4, 0.3, 0.5),
        ("enhanced - raw", -0.3, low, high),
        ("compressed", 0.5, 0.4, 0.6),
        ("AUC raw, enhanced", 0.9, 0.8, 1.0),
    ]
    assert (
        "takes the enhanced images for less real than the raw ones "
        "(scores: raw 0.70, enhanced 0.40, compressed 0.50)."
        in pages.verdict(table([TO_C], realism=scores(-0.4, -0.2)), 24)
    )
    near = [
        ("raw", 0.486, 0.48, 0.49),
        ("enhanced", 0.484, 0.48, 0.49),
        ("enhanced - raw", -0.002, -0.003, -0.001),
        ("compressed", 0.486, 0.48, 0.49),
        ("AUC raw, enhanced", 0.55, 0.5, 0.6),
    ]
    assert "is at chance (AUC 0.55), so its scores say nothing" in pages.verdict(
        table([TO_C], realism=near), 24
    )
    assert "does not tell enhanced from raw beyond the noise" in pages.verdict(
        table([TO_C], realism=scores(-0.4, 0.1)), 24
    )


def test_a_verdict_is_whole_sentences(report):
    for text in (
        report.verdict,
        pages.verdict(table(), 3),
        pages.verdict(table([TO_C, TO_R, OPEN], [("psnr", 1, NAN, NAN)]), 3),
    ):
        assert len(re.findall(r"\.(?=\s|$)", text)) in (2, 3) and text.endswith(".") and "nan" not in text


def test_a_metric_has_a_name_in_a_sentence_without_a_word_elsewhere():
    assert METRICS["lpips-alex"].in_words == "LPIPS" and METRICS["fid_patch256"].in_words == "FID of patches"
    assert all("(" not in metric.in_words for metric in METRICS.values())


def test_the_text_for_a_terminal(three):
    (three / "enhanced" / "p02.png").unlink()
    found = audit(*folders(three), on_mismatch="skip", **QUICK)
    assert (
        found.text().startswith(found.verdict)
        and "skipped: p02: missing in enhanced" in found.text()
        and "rmse" in found.text()
        and "nan" not in found.text()
    )


# --- the page


class Page(html.parser.HTMLParser):
    "Tags that close what they open, and what a page asks for"

    def __init__(self, text):
        super().__init__()
        self.open, self.asks, self.images = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.asks += [
            value
            for name, value in attrs.items()
            if name in ("src", "href") and not value.startswith("data:")
        ]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def judged(root):
    return audit(
        *folders(root),
        judge=ConditionalDiscriminator(UNetSN(6, 4), True),
        gan="vanilla",
        **{**QUICK, "patch": 32},
    )


PAGES = {
    "eleven": lambda eleven, three: judged(eleven),
    "one": lambda eleven, three: audit(*([read_rgb(next(f.glob("p00.*")))] for f in folders(three)), **QUICK),
    "no triangle, not a number": lambda eleven, three: audit(*folders(three), distances=[], metrics=[]),
    "nothing enhanced": lambda eleven, three: audit(*folders(three)[:2], three / "compressed", **QUICK),
    "raw restored": lambda eleven, three: audit(*folders(three)[:2], three / "raw", **QUICK),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_asks_for_nothing(eleven, three, tmp_path, name):
    found = PAGES[name](eleven, three)
    text = pages.audit_page(found, tmp_path / "report").read_text()
    page = Page(text)
    assert (
        not page.asks
        and page.images
        and all(len(image["alt"]) > 20 for image in page.images)
        and "@import" not in text
        and "url(" not in text
    )
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"\bnan\b|\binf\b|None|&lt;function", bare), re.search(
        r".{40}(\bnan\b|\binf\b|None).{40}", bare
    )
    assert found.verdict.split("%")[0].strip() in text
    stored = pd.read_csv(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]*)">All', text)[1])))
    assert len(stored) == len(found.frame) and np.allclose(
        stored["value"].astype(float), found.frame["value"].astype(float)
    )
    for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', text):
        Image.open(io.BytesIO(base64.b64decode(data))).load()


def test_what_the_page_must_say(eleven, tmp_path):
    found = judged(eleven)
    found.skipped["p99"], found.reasons["fid"] = "missing in raw", "weights & <more>"
    text = pages.audit_page(found, tmp_path / "report").read_text()
    for words in (
        "p99: missing in raw",
        "weights &amp; &lt;more&gt;",
        "Residuals",
        "Realism scores",
        "an extrapolation",
        "Quality",
        "cpu, fp32",
        "64x64 px (11)",
        "qebias",
        "torch",
        "11 .jpg",
        found.facts["content"]["raw"],
    ):
        assert words in text, words
    assert str(Path.home()) not in text and str(eleven.parent) not in text


@pytest.mark.parametrize(
    "home,shown", [("/home/me", "in ~/x, see https://a/b"), ("/", "in /home/me/x, see https://a/b")]
)
def test_a_page_shows_no_home_and_no_broken_path(monkeypatch, home, shown):
    monkeypatch.setenv("HOME", home)
    assert pages.no_home("in /home/me/x, see https://a/b") == shown


def test_names_do_no_harm(three, tmp_path):
    for folder in folders(three):
        for f in folder.glob("p00.*"):
            f.rename(f.with_name(f"<img src=x>$\\alpha$&{f.suffix}"))
    found = audit(*folders(three), title="<script>alert(1)</script>", **QUICK)
    text = pages.audit_page(found, tmp_path / "r").read_text()
    assert "<script" not in text and "<img src=x>" not in text and len(Page(text).images) == 5


def test_a_failure_leaves_the_earlier_page_and_nothing_half_written(report, tmp_path, monkeypatch):
    page = pages.audit_page(report, tmp_path / "report")
    before = page.read_bytes()

    def fail(*args, **more):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(pages, "origin_table", fail)
    with pytest.raises(RuntimeError):
        pages.audit_page(report, tmp_path / "report")
    with pytest.raises(RuntimeError):
        pages.audit_page(report, tmp_path / "new" / "report")
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError):
        pages.audit_page(report, tmp_path / "report")
    assert (
        page.read_bytes() == before
        and sorted(p.name for p in tmp_path.iterdir() if p.name != "new")
        == [".qebias-outputs.jsonl", "report.html"]
        and not list((tmp_path / "new").glob("*") if (tmp_path / "new").exists() else ())
    )


def test_a_page_takes_the_place_of_an_earlier_page_only(report, tmp_path):
    assert pages.audit_page(report, tmp_path) == tmp_path / "audit.html" == pages.audit_page(report, tmp_path)
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    with pytest.raises(QebiasError, match="mine.html is there already and is no earlier audit"):
        pages.audit_page(report, tmp_path / "mine")
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"
    (tmp_path / "d.html").mkdir()
    assert (
        pages.audit_target(tmp_path / "d.html") == tmp_path / "d.html" / "audit.html"
        and pages.audit_target(tmp_path / "new" / "deep") == tmp_path / "new" / "deep.html"
    )
    with pytest.raises(QebiasError, match="name it report.html"):
        pages.audit_target(tmp_path / "report.pdf")
    with pytest.raises(QebiasError, match="mine.html is a file, no folder"):
        pages.audit_target(tmp_path / "mine.html" / "x")


def test_a_page_that_was_changed_since_is_not_ours_any_more(report, tmp_path):
    page = pages.audit_page(report, tmp_path / "report")
    page.write_text(page.read_text().replace("<h1>", "<h1>my notes: "))
    changed = page.read_bytes()
    with pytest.raises(QebiasError, match="report.html is there already .* replace it with --overwrite"):
        pages.audit_page(report, tmp_path / "report")
    assert page.read_bytes() == changed
    assert b"my notes" not in pages.audit_page(report, tmp_path / "report", overwrite=True).read_bytes()


def test_subfolders_bitstreams_and_a_suffix(three, tmp_path):
    from qebias.codecs import Bpg

    raw, compressed, enhanced = folders(three)
    for path in sorted(Path(raw).glob("*.png")):
        rgb = read_rgb(path)
        write_png(tmp_path / "raw" / "x" / path.name, rgb)
        (tmp_path / "comp" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "comp" / "x" / f"{path.stem}.bpg").write_bytes(Bpg(40).encode(rgb))
        made = read_rgb(Path(enhanced) / path.name)
        write_png(tmp_path / "enh" / "x" / f"{path.stem}_out.png", made)
    (tmp_path / "comp" / "notes.doc").write_text("no picture")
    three_now = [tmp_path / name for name in ("raw", "comp", "enh")]
    with pytest.raises(QebiasError, match="no name occurs in all three .* given by --suffix"):
        audit(*three_now, **QUICK)
    found = audit(*three_now, suffix="_out", **QUICK)
    assert found.facts["images"] == len(list(Path(raw).glob("*.png"))) and not found.skipped
    assert found.facts["formats"]["compressed"] == {".bpg": found.facts["images"]}
    assert any("left out what is no picture" in note for note in found.notes)


def test_an_audit_takes_what_a_suffix_names_and_tells_names_apart_that_look_alike(tmp_path):
    lay(tmp_path, 3)
    for path in sorted((tmp_path / "enhanced").glob("*.png")):
        path.with_name(f"{path.stem}-out.png").write_bytes(path.read_bytes())
        write_png(path, 255 - read_rgb(path))  # `p00.png` sorts behind `p00-out.png`
    three = [tmp_path / name for name in ("raw", "compressed", "enhanced")]
    found = audit(*three, suffix="-out", **QUICK)
    scores = found.images[(found.images["metric"] == "psnr") & (found.images["domain"] == "enhanced")]
    assert len(scores) == 3 and scores["value"].min() > 15
    assert any("has no -out behind its name: p00.png" in note for note in found.notes)
    for path in (tmp_path / "enhanced").glob("*-out.png"):
        path.rename(path.with_name(path.name.replace("-out", "").upper()))
    for path in (tmp_path / "enhanced").glob("p*.png"):
        path.unlink()
    with pytest.raises(
        QebiasError, match="no name occurs in all three .*: 'P00' there is not 'p00': name them"
    ):
        audit(*three, **QUICK)
    (tmp_path / "enhanced" / "P00.PNG").rename(tmp_path / "enhanced" / "p00.png")
    with pytest.raises(QebiasError, match="missing in enhanced: 'P01' there is not 'p01': name them alike"):
        audit(*three, **QUICK)


def test_bars_are_for_terminals(capsys):
    tell = pages.bars()
    tell("reading", 1, 2)
    tell("reading", 2, 2)
    assert not capsys.readouterr().err


# --- the Kodak set


@pytest.mark.slow
def test_kodak_a_new_users_two_methods(kodak, tmp_path):
    for f in sorted(kodak.glob("*.png")):
        (tmp_path / "jpeg").mkdir(exist_ok=True)
        (tmp_path / "jpeg" / f"{f.stem}.jpg").write_bytes(jpeg(read_rgb(f)))
        coded = Image.fromarray(read_rgb(tmp_path / "jpeg" / f"{f.stem}.jpg"))
        write_png(tmp_path / "deblock" / f.name, np.array(coded.filter(ImageFilter.GaussianBlur(0.6))))
        write_png(tmp_path / "sharpen" / f.name, np.array(coded.filter(ImageFilter.UnsharpMask(1.5, 120, 0))))
    cache, start = {}, time.process_time()
    found = {
        name: audit(kodak, tmp_path / "jpeg", tmp_path / name, cache=cache) for name in ("deblock", "sharpen")
    }
    print(f"{time.process_time() - start:.0f} s of a processor for two audits")
    for name, r in found.items():
        assert "lean towards the compressed ones" in r.verdict or "disagree" in r.verdict
        assert r.facts["images"] == 24 and not r.skipped
        assert len(pages.audit_page(r, tmp_path / name).read_bytes()) < 3_000_000


@pytest.mark.parametrize("level, told", [(20, True), (100, False)])
def test_compressed_and_enhanced_in_each_others_place_are_asked_about_where_jpeg_shows(level, told):
    "By the blocks of a JPEG; a sharpened picture, whose blocks are sharper too, is none"
    from qebias.codecs import Jpeg
    from qebias.controls import control

    rng = np.random.default_rng(0)
    raw, codec = [], Jpeg(level)
    for k in range(6):
        coarse = rng.integers(0, 256, (12, 12, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((192, 192), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (192, 192, 1))
        raw.append(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
    compressed = [codec.decode(codec.encode(rgb)) for rgb in raw]
    enhanced = [np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(1.5))) for rgb in compressed]
    sharper = control("unsharp", [""] * 6, raw, compressed)

    def said(*domains):
        looks = {
            str(k): pages.look([lambda rgb=rgb: rgb for rgb in three])
            for k, three in enumerate(zip(*domains))
        }
        return pages.swapped(looks)

    assert ("of compressed and enhanced exchanged" in said(raw, enhanced, compressed)) == told
    for honest in (enhanced, sharper):
        assert "of compressed and enhanced exchanged" not in said(raw, compressed, honest)


def test_bitstreams_in_the_place_of_enhanced_pictures_are_asked_about(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("raw/a.png", "compressed/a.png", "enhanced/a.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(rgb).save(tmp_path / name)
    folders = {domain: tmp_path / domain for domain in ("raw", "compressed", "enhanced")}
    assert "are the folders exchanged?" in " ".join(pages.match(folders).notes)
    folders["compressed"], folders["enhanced"] = folders["enhanced"], folders["compressed"]
    assert "exchanged" not in " ".join(pages.match(folders).notes)


# Memory


def test_the_telling_square_is_the_one_whose_squares_sum_to_most():
    rng = np.random.default_rng(0)
    for height, width in ((5, 7), (30, 44), (16, 16), (40, 9)):
        raw, compressed = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        high, wide = min(16, height), min(16, width)
        squares = ((raw.astype(int) - compressed) ** 2).sum(-1)
        windows = np.lib.stride_tricks.sliding_window_view(squares, (high, wide)).sum((2, 3))
        top, left = np.unravel_index(windows.argmax(), windows.shape)
        assert pages.telling_square(raw, compressed, 16) == (top, left, high, wide)


def test_shared_distances_are_those_measured_one_by_one_and_make_each_control_once(monkeypatch):
    "A network that goes over a picture once for all rows; few rows at once where pictures are large"
    pytest.importorskip("scipy")
    made = []

    def around(name, device):
        def values(raw, compressed, others):
            made.append(len(others))
            apart = [float(np.abs(a.astype(int) - b).mean()) for a in others for b in (compressed, raw)]
            return [*apart, float(np.abs(compressed.astype(int) - raw).mean())]

        return values

    monkeypatch.setattr(pages, "around", around)
    raw = list(scenes(2, 100))
    compressed = [np.asarray(Image.open(io.BytesIO(jpeg(rgb)))) for rgb in raw]
    enhanced = [soft(rgb) for rgb in compressed]
    pictures = pages.gather(
        dict(raw=raw, compressed=compressed, enhanced=enhanced), ["b", "a"], "raise", None
    )
    rows = ["enhanced", "control:noise4", "control:noise8"]
    found = {}
    for most in (2**28, 20_000):
        monkeypatch.setattr(pages, "MOST_TOGETHER", most)
        lines = pages.Lines(pictures, 64, "cpu", {}, None)
        lines.share("lpips-alex", rows)
        for row in rows:
            lines.add("distance:lpips-alex", row)
        found[most] = lines.lines
    assert made == [3, 3, 2, 1, 2, 1] and found[2**28] == found[20_000]
    assert [line[:2] for line in found[2**28][:4]] == [
        ("a", "ce:lpips-alex"),
        ("a", "re:lpips-alex"),
        ("a", "cr:lpips-alex"),
        ("b", "ce:lpips-alex"),
    ]


def test_the_telling_square_takes_no_room_of_the_pictures_size():
    "Floats of the whole picture took 28 bytes a pixel"
    raw = np.random.default_rng(0).integers(0, 256, (1500, 1000, 3), np.uint8)
    tracemalloc.start()
    try:
        pages.telling_square(raw, raw[::-1], 160)
        assert tracemalloc.get_traced_memory()[1] < raw.nbytes / 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 400, 3), (400, 2, 3)])
def test_the_square_of_a_tiny_picture_is_drawn(shape):
    "Its inner frame would be turned inside out"
    from qebias.audit import marked

    data, width = marked(np.zeros(shape, np.uint8), (0, 0, min(shape[0], 160), min(shape[1], 160)))
    assert data[:2] == b"\xff\xd8" and width >= 1


def decoded(rgb):
    return np.array(Image.open(io.BytesIO(jpeg(rgb))))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda raw: raw[0], "raw is a single ndarray: pass a list"),
        (lambda raw: None, "raw is a single NoneType: pass a list"),
        (lambda raw: ["a.png", "b.png", "c.png"], r"image 1: image 1 \(raw\) is a str: pass a numpy array"),
    ],
)
def test_what_is_no_list_of_pictures_is_one_line(change, words):
    "The rows of a single picture once were audited as pictures"
    raw = list(scenes(3))
    with pytest.raises(QebiasError, match=words):
        audit(change(raw), raw, raw, **QUICK)


def test_a_stack_and_a_generator_are_lists_of_pictures():
    raw = np.stack(list(scenes(3)))
    compressed, enhanced = [decoded(x) for x in raw], (soft(x) for x in raw)
    whole = audit(raw, compressed, enhanced, **QUICK)
    listed = audit(list(raw), compressed, [soft(x) for x in raw], **QUICK)
    assert whole.frame.equals(listed.frame)


@pytest.mark.parametrize("patch", [64.5, True, "64"])
def test_a_patch_is_a_whole_number(patch):
    with pytest.raises(QebiasError, match="a whole number of px"):
        audit([], [], [], **{**QUICK, "patch": patch})


class Nearness(torch.nn.Module):
    def forward(self, image, compressed=None):
        return -(image - compressed).abs().mean((1, 2, 3))


@pytest.mark.parametrize(
    "judge", [Nearness(), Nearness().forward, lambda image, compressed: Nearness()(image, compressed).numpy()]
)
def test_any_function_of_two_pictures_is_a_judge(judge):
    "One that was no module once failed, as did a module of two pictures"
    raw = list(scenes(3))
    compressed = [decoded(x) for x in raw]
    found = audit(raw, compressed, compressed, judge=judge, **{**QUICK, "patch": 32})
    of = found.frame[found.frame["what"] == "realism"].set_index("domain")["value"]
    assert of["compressed"] == 0.5 > of["raw"] and found.facts["judge"]["conditional"] is True


def test_judges_that_are_none_are_one_line():
    raw = list(scenes(3))
    compressed = [decoded(x) for x in raw]
    for judge, words in ((3, "judge is a int"), (lambda a, b: a.mean(), "one row each")):
        with pytest.raises(QebiasError, match=words):
            audit(raw, compressed, raw, judge=judge, **{**QUICK, "patch": 32})
