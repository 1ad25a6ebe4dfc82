"""Codecs: what does not read well in the notebook: sizes, damage, processes, the original programs,
photographs"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qebias import codecs
from qebias.codecs import (
    CODECS,
    LEVELS,
    Avif,
    Bpg,
    BpgEnc,
    CodecError,
    Coded,
    Jpeg,
    avif,
    bpg,
    bpg_header,
    bpp,
    code,
    code_many,
    codec,
)
from qebias.core import QebiasError, array_digest, digest, read_rgb


def picture(height, width, seed=0):
    "Smooth colour, an edge and a little noise"
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    base = np.stack(
        [
            128 + 90 * np.sin(x / 9 + seed),
            40 + (x * 2 + y) / (width * 2 + height) * 160,
            np.where(x > y, 190, 70),
        ],
        -1,
    )
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def run_python(source, **env):
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


# ---------------------------------------------------------------- JPEG


@pytest.mark.parametrize("qf", [1, 10, 20, 30, 40, 50, 75, 100])
def test_jpeg_is_opencv_to_the_byte(qf):
    cv2 = pytest.importorskip("cv2")
    for size in [(64, 64), (1, 1), (9, 17), (127, 255), (300, 451)]:
        rgb = picture(*size)
        _, expected = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, qf])
        data = Jpeg(qf).encode(rgb)
        assert data == expected.tobytes()
        assert np.array_equal(Jpeg(qf).decode(data), cv2.imdecode(expected, cv2.IMREAD_COLOR)[..., ::-1])


def test_jpeg_refuses_what_is_not_a_whole_rgb_jpeg():
    data = Jpeg(30).encode(picture(70, 50))
    for n in range(len(data)):
        with pytest.raises(CodecError):
            Jpeg(30).decode(data[:n])
    cmyk, grey, png = (io.BytesIO() for _ in range(3))
    Image.fromarray(picture(20, 20)).convert("CMYK").save(cmyk, "JPEG")
    Image.fromarray(picture(20, 20)[..., 0]).save(grey, "JPEG")
    Image.fromarray(picture(20, 20)).save(png, "PNG")
    with pytest.raises(CodecError, match="mode CMYK: convert it to RGB"):
        Jpeg(30).decode(cmyk.getvalue())
    with pytest.raises(CodecError, match="not a JPEG file"):
        Jpeg(30).decode(png.getvalue())
    assert Jpeg(30).decode(grey.getvalue()).shape == (20, 20, 3)
    bomb = bytearray(data)
    at = data.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(CodecError):
        Jpeg(30).decode(bytes(bomb))


# ---------------------------------------------------------------- AVIF


@pytest.mark.parametrize("quality", [0, 1, 30, 99, 100])
def test_avif_round_trips_at_odd_sizes_and_the_ends_of_the_scale(quality):
    for size in [(1, 1), (1, 9), (8, 3), (17, 23), (65, 127), (300, 9)]:
        rgb = picture(*size)
        back = Avif(quality).decode(Avif(quality).encode(rgb))
        assert back.shape == rgb.shape and back.dtype == np.uint8
    assert (
        psnr(Avif(100).decode(Avif(100).encode(picture(64, 64))), picture(64, 64))
        > 30
        > psnr(Avif(0).decode(Avif(0).encode(picture(64, 64))), picture(64, 64))
    )


def test_avif_refuses_what_is_not_a_whole_still_picture():
    data = Avif(30).encode(picture(70, 50))
    for n in range(len(data)):
        with pytest.raises(CodecError, match="AVIF file"):
            Avif(30).decode(data[:n])
    made = {name: io.BytesIO() for name in ("transparent", "opaque", "moving", "png")}
    rgb = picture(20, 24)
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(made["transparent"], "AVIF")
    Image.fromarray(np.dstack([rgb, np.full_like(rgb[..., :1], 255)])).save(
        made["opaque"], "AVIF", quality=90
    )
    Image.fromarray(rgb).save(
        made["moving"], "AVIF", save_all=True, append_images=[Image.fromarray(rgb[::-1])]
    )
    Image.fromarray(rgb).save(made["png"], "PNG")
    for name, says in {
        "transparent": "transparent in places",
        "moving": "animation of 2 pictures",
        "png": "not an AVIF file",
    }.items():
        with pytest.raises(CodecError, match=says):
            Avif(30).decode(made[name].getvalue())
    assert psnr(Avif(30).decode(made["opaque"].getvalue()), rgb) > 20
    wide = bytearray(data)
    at = data.index(b"ispe") + 8
    wide[at : at + 8] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(CodecError):
        Avif(30).decode(bytes(wide))


def test_a_pillow_without_avif_is_told(monkeypatch):
    real = avif.features.check
    monkeypatch.setattr(avif.features, "check", lambda name: name != "avif" and real(name))
    for use in (lambda: Avif(30).describe(), lambda: Avif(30).encode(picture(9, 9))):
        with pytest.raises(CodecError, match="carries no AVIF: pip install 'pillow>=11.3'"):
            use()


# ---------------------------------------------------------------- BPG: sizes, files of the original program

SIZES = [(h, w) for h in (9, 10, 11, 15, 16, 17, 23, 24, 25, 33) for w in (9, 13, 16, 31, 64)] + [
    (65, 127),
    (129, 96),
    (9, 300),
    (301, 9),
    (199, 257),
]


@pytest.mark.parametrize("encoder", ["jctvc", "x265"])
def test_bpg_round_trips_at_every_size(encoder):
    for i, (height, width) in enumerate(SIZES):
        rgb = picture(height, width, i)
        made = Bpg((22, 27, 32)[i % 3], encoder)
        data = made.encode(rgb)
        back = made.decode(data)
        assert back.shape == rgb.shape and back.dtype == np.uint8
        assert psnr(back, rgb) > 24, (height, width)
        header = bpg_header(data)
        before = 6 + sum(len(bpg._ue7(n)) for n in header[:2] + header[3:4])
        assert (header.width, header.height, header.length) == (width, height, len(data) - before)


@pytest.mark.parametrize("qp", [0, 1, 2, 3, 50, 51])
@pytest.mark.parametrize("encoder", ["jctvc", "x265"])
def test_the_ends_of_the_scale_work(qp, encoder):
    rgb = picture(40, 56)
    back = Bpg(qp, encoder).decode(Bpg(qp, encoder).encode(rgb))
    assert psnr(back, rgb) > (34 if qp < 4 else 17)


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (1, 1), (8, 8), (7, 100)])
def test_sides_up_to_8_are_refused(shape):
    with pytest.raises(
        CodecError, match=f"image is {shape[1]}x{shape[0]}: this codec takes sides from 9 pixels"
    ):
        Bpg(37).encode(picture(*shape))


# Files that bpgenc 0.9.8 wrote for one 41x33 picture, with the digest of the Y, Cb and Cr planes that bpgdec
# 0.9.8 decoded from them.
ORIGINALS = {
    "jctvc": (
        "c7399c1a6e7632ea",
        "LQqHhAOI;L00WXoKtut-kd=WF0003d0j~>S_2-WzIEf+#`xn0I3F5=~A5-7A^tT$Oc!TFY3@)_ETo7ww+(;NwABYebCmdm52BV~7xp?i@Lw5f@{AUag&_*k9t28*"
        "YCOy=-%i*aoAU46QJR7(gP+$j>!lARZZjgBnLGs7<8ZV_T5?&7A`T}k_JH$Y|R{!M&iz}@wV=!>b?*",
    ),
    "x265": (
        "317869af9702499b",
        "LQqHhAOI;L00WXoKtut-ae)#500AZeuLxkXE!;@_uzkQHl=#Z^o01j}`5!@eFDZKap@D0BSSZb81-IWwAzwH|X{p>=9K9%qH_DATeID&Pl$T{=_hBHwRlnsI^WM`V_"
        "{Y6&lkqsa(^%gbM~xY<UTe8`!L>=+65Gr24I{EM+ab=xjs~Jbq}niJ8?QA_B3nDexOuqlz0!IAS`3<jYg69",
    ),
    "-hash": (
        "485d536e403f6bde",
        "LQqHhAOI;L00WXoKtut-kd=WF0003d0j~rY_{%ux9*IbTuCZ}EYe-spX8WjcH$BTq&klug*aPZc_u65maKlAh!W~j<jX4AOw~dfBo-NzokD#ev<;9v+gNJd1OnBBA!L"
        ";35#WsKd00B?|gfRddcpL0Xf+wviIW_xSM^Cmfe16LAtcB4$tx)1D#@b}o_X;1ErvB)=lVmzU(qk)t",
    ),
    "-keepmetadata": (
        "81b9ba3d96a68ef5",
        "LQqHhAP6ZT05$;%O-%qQ000080006gaBy&NaBy&NaBy&NaBy&NaBy&NaBy&NaBy&NaBy&NaBy&NaBy&N1CmETL;=B&m4Olf00AZeuLKzQ%Q)yBiAaL3v2i?"
        "WVDjce?A<FG%h)xxS`|v10rg+~zmRTY<XlCCu6&=ly!#i*3IB??QfwahB4X%`fSMOcxnsUd4i3lB>@<sdhWI^d4976j5C",
    ),
}
GREY_ORIGINAL = (
    "1862231b7ac11bcf",
    "LQqHh001c=00WXoKtut-kd=WF0003d0j?In(3-|#SUuoPDs238cKJlc2AZ-lp@OEEF>?iLaIm(oDih{Fpt=",
)


@pytest.mark.parametrize("kind", ORIGINALS)
def test_files_of_the_original_program_decode_bit_exactly(kind):
    expected, text = ORIGINALS[kind]
    data = base64.b85decode(text)
    header = bpg_header(data)
    assert (header.width, header.height, header.length) == (41, 33, 0)
    y, cb, cr = bpg._read_hevc(data, header)
    planes = np.concatenate([y[:33, :41].ravel(), cb[:17, :21].ravel(), cr[:17, :21].ravel()])
    assert array_digest(planes) == expected
    assert Bpg(37).decode(data).shape == (33, 41, 3)


def test_a_grey_file_of_the_original_program():
    digest, text = GREY_ORIGINAL
    assert array_digest(Bpg(37).decode(base64.b85decode(text))) == digest


def refused_or(expected, data):
    "Whether a file is refused, or else gives the expected picture"
    try:
        return np.array_equal(Bpg(1).decode(data), expected)
    except CodecError:
        return True


def test_a_truncated_original_is_noticed_although_it_says_no_length():
    for kind in ("jctvc", "x265", "-keepmetadata"):
        data = base64.b85decode(ORIGINALS[kind][1])
        whole = Bpg(1).decode(data)
        for n in range(len(data) - 2):
            with pytest.raises(CodecError):
                Bpg(1).decode(data[:n])
        assert all(
            refused_or(whole, data[:n]) for n in range(len(data) - 2, len(data))
        )  # may lack nothing but padding


def test_the_checksum_of_bpgenc_hash_finds_every_flipped_byte():
    data = base64.b85decode(ORIGINALS["-hash"][1])
    whole = Bpg(1).decode(data)
    for at in range(16, len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x21
        assert refused_or(whole, flipped)


@pytest.mark.parametrize(
    "byte, value, what",
    [
        (4, 0x40, "4:2:2 chroma"),
        (4, 0x60, "4:4:4 chroma"),
        (4, 0x80, "4:2:0 with video siting"),
        (4, 0x22, "10 bit a channel"),
        (4, 0x30, "an alpha plane"),
        (4, 0xE0, "damaged header"),
        (5, 0x04, "an alpha plane"),
        (5, 0x10, "colour space RGB"),
        (5, 0x30, "BT.709"),
        (5, 0x02, "limited range"),
        (5, 0x01, "an animation"),
        (5, 0xF0, "damaged header"),
    ],
)
def test_other_kinds_of_bpg_are_refused_by_name(byte, value, what):
    data = bytearray(Bpg(37).encode(picture(20, 20)))
    data[byte] = value
    with pytest.raises(CodecError, match=what):
        Bpg(37).decode(data)


# ---------------------------------------------------------------- damage


def damaged(data, n, seed):
    "Cuts, flips, wild headers, splices and plain noise"
    rng = np.random.default_rng(seed)
    yield from (data[:k] for k in range(0, len(data), max(1, len(data) // 150)))
    for k in range(n):
        out = bytearray(data)
        kind = k % 6
        if kind < 2:
            for _ in range(int(rng.integers(1, 4))):
                out[rng.integers(len(out))] ^= int(rng.integers(1, 256))
        elif kind < 4:
            out[rng.integers(min(len(out), 40))] = int(rng.integers(256))
        elif kind == 4:
            at = int(rng.integers(len(out)))
            out[at : at + int(rng.integers(0, 40))] = rng.bytes(int(rng.integers(0, 40)))
        else:
            out = bytearray(data[:4] + rng.bytes(int(rng.integers(0, 200))))
        yield bytes(out)


def survives(made, data, n, seed):
    "Every damaged file is a CodecError of one line, or a picture of the header's size"
    outcome = {"refused": 0, "picture": 0}
    for out in damaged(data, n, seed):
        try:
            rgb = made.decode(out)
        except CodecError as error:
            assert "\n" not in str(error) and str(error)
            outcome["refused"] += 1
            continue
        size = bpg_header(out)[:2] if made.name == "bpg" else Image.open(io.BytesIO(out)).size
        assert rgb.dtype == np.uint8 and rgb.shape == (size[1], size[0], 3)
        outcome["picture"] += 1
    assert outcome["refused"] and outcome["picture"]


@pytest.mark.parametrize("made", [Jpeg(20), Bpg(37), Bpg(42, "x265"), Avif(30)], ids=str)
def test_damaged_files(made):
    survives(made, made.encode(picture(97, 131)), 500, 0)


@pytest.mark.slow
@pytest.mark.parametrize("made", [Jpeg(20), Bpg(27), Bpg(37), Bpg(47, "x265")], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_thoroughly(made, seed):
    survives(made, made.encode(picture(197, 331, seed)), 5000, seed + 1)


def test_every_truncation_is_noticed():
    """With the length in the header at once; without it, as bpgenc writes, by the decoder's reading past the
    end"""
    for qp in (27, 47):
        data = Bpg(qp).encode(picture(97, 131))
        end = bpg._read_ue7(data, 6 + len(bpg._ue7(131)) + len(bpg._ue7(97)))[1]
        without = data[:6] + bpg._ue7(131) + bpg._ue7(97) + b"\0" + data[end:]
        assert np.array_equal(Bpg(qp).decode(without), Bpg(qp).decode(data))
        for n in range(len(data)):
            with pytest.raises(CodecError):
                Bpg(qp).decode(data[:n])
        for n in range(0, len(without) - 1, 1 + len(without) // 200):
            with pytest.raises(CodecError):
                Bpg(qp).decode(without[:n])


def test_bytes_behind_the_picture_are_refused():
    with pytest.raises(CodecError, match="3 bytes too many"):
        Bpg(37).decode(Bpg(37).encode(picture(20, 20)) + b"xyz")


def test_wild_sizes_allocate_little_and_nothing_is_printed():
    source = """
import resource, sys
import numpy as np
from qebias.codecs import *
from qebias.codecs.bpg import _ue7
from qebias.codecs import MAX_PIXELS
data = Bpg(37).encode(np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3)))
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sizes = [(2**32 - 1, 2**32 - 1), (2**31, 1), (65500, 65500), (65500, MAX_PIXELS // 65500)]
sizes += [(9459, 9459), (16, 65500), (65500, 16), (4000, 3000)]
for width, height in sizes:
    for body in (data[8:], b"\\0" + data[9:]):
        try: Bpg(37).decode(data[:6] + _ue7(width) + _ue7(height) + body)
        except CodecError: continue
        sys.exit(f"{width}x{height} was decoded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""
    done = run_python(source)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert float(done.stdout) < 50


@pytest.mark.slow
def test_a_file_large_enough_for_a_wild_size_takes_memory_in_proportion():
    source = """
import resource
import numpy as np
from qebias.codecs import *
from qebias.codecs.bpg import _ue7
noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
data = Bpg(27).encode(noise)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for width, height in [(9459, 9459), (65500, 1366)]:
    try: assert Bpg(27).decode(data[:6] + _ue7(width) + _ue7(height) + data[10:]).shape == (height, width, 3)
    except CodecError: pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""
    done = run_python(source)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert float(done.stdout) < 1000


# ---------------------------------------------------------------- what goes in


@pytest.mark.parametrize("made", [Jpeg(30), Bpg(37), Avif(30)], ids=str)
def test_pictures(made):
    rgb = picture(40, 30)
    data = made.encode(rgb)
    assert made.encode(np.asfortranarray(rgb)) == data and made.encode(rgb[:, ::-1][:, ::-1]) == data
    frozen = rgb.copy()
    frozen.flags.writeable = False
    assert made.encode(frozen) == data
    assert made.encode(np.dstack([rgb, np.full((40, 30), 255, np.uint8)])) == data
    grey = rgb[..., 0]
    assert made.encode(grey) == made.encode(grey[..., None]) == made.encode(np.repeat(grey[..., None], 3, 2))
    for bad in (
        rgb.astype(np.float32) / 255,
        rgb.astype(np.int64),
        rgb.astype(np.uint16),
        rgb > 3,
        rgb[None],
        rgb[:0],
        np.dstack([rgb, rgb[..., :2]]),
        np.dstack([rgb, rgb[..., :1]]),
        rgb.tolist(),
        Image.fromarray(rgb),
        None,
        "x.png",
    ):
        with pytest.raises(CodecError) as error:
            made.encode(bad)
        assert "\n" not in str(error.value)
    for bad in (None, "x", 3, np.zeros(3, np.uint8), Path("x")):
        with pytest.raises(CodecError, match="pass path.read_bytes"):
            made.decode(bad)
    for kind in (bytearray, memoryview):
        assert np.array_equal(made.decode(kind(data)), made.decode(data))


@pytest.mark.parametrize("name, low, high", [("jpeg", 1, 100), ("bpg", 0, 51), ("avif", 0, 100)])
def test_levels(name, low, high):
    for good in (low, high, np.int64(low), np.uint8(high)):
        made = codec(name, good)
        assert made.level == good and type(made.level) is int and type(made.describe()["level"]) is int
    for bad in (low - 1, high + 1, True, np.True_, 37.0, np.float64(37), "37", None, [37], 2**70):
        with pytest.raises(CodecError, match=f"whole number from {low} to {high}"):
            codec(name, bad)


def test_codecs_are_values():
    assert Bpg(37) == Bpg(37, "jctvc") != Bpg(37, "x265") and len({Jpeg(10), Jpeg(10), Jpeg(20)}) == 2
    with pytest.raises(AttributeError):
        Bpg(37).qp = 3
    assert [(c.name, c.suffix) for c in (Jpeg(10), Bpg(37))] == [("jpeg", ".jpg"), ("bpg", ".bpg")]
    assert LEVELS == {
        "bpg": (27, 32, 37, 42, 47),
        "bpgenc": (27, 32, 37, 42, 47),
        "jpeg": (10, 20, 30, 40, 50),
        "avif": (10, 20, 30, 40, 50),
    }


@pytest.mark.parametrize("made", [Jpeg(30), Bpg(37), Bpg(37, "x265"), Avif(30)], ids=str)
def test_a_description_is_plain_whole_and_the_same_everywhere(made):
    about = made.describe()
    assert json.loads(json.dumps(about)) == about
    assert set(about) == {"codec", "level", "parameters", "backend", "versions"}
    assert all(isinstance(v, str) and v[0].isdigit() for v in about["versions"].values())
    assert (
        set(about["versions"])
        == {
            "jpeg": {"pillow", "libjpeg-turbo"},
            "bpg": {"av", "x265", "libavcodec"},
            "avif": {"pillow", "libavif", "aom", "dav1d"},
        }[made.name]
    )
    assert "/" not in json.dumps(
        {k: v for k, v in about["parameters"].items() if k != "lambda"}
    )  # no path of this machine
    elsewhere = run_python(
        f"import json; from qebias.codecs import *; print(json.dumps({made!r}.describe()))"
    )
    assert json.loads(elsewhere.stdout) == about


# ---------------------------------------------------------------- x265's globals, temporary files, PyAV


def test_encoders_do_not_leak_into_each_other_over_threads():
    rgb = picture(64, 80)
    alone = {made: made.encode(rgb) for made in (Bpg(32), Bpg(32, "x265"), Bpg(42))}
    assert len(set(alone.values())) == 3
    wrong = []

    def work(made):
        for _ in range(6):
            if made.encode(rgb) != alone[made]:
                wrong.append(made)

    threads = [threading.Thread(target=work, args=(made,)) for made in [*alone, *alone]]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_temporary_files_go_and_odd_folders_work(tmp_path):
    source = """
import os, shutil, sys, tempfile
import numpy as np
from qebias.codecs import *
from qebias import codecs

rgb = np.arange(48*64*3).reshape(48, 64, 3).astype(np.uint8)
a = Bpg(37).encode(rgb)
assert len(os.listdir(tempfile.gettempdir())) == 1
shutil.rmtree(codecs.scratch())                      # a cleaner of temporary folders passed by
assert Bpg(37).encode(rgb) == a
if os.fork() == 0:                                    # a forked child has its own, and leaves ours alone
    assert Bpg(37).encode(rgb) == a
    sys.exit(0)
assert os.wait()[1] == 0
import multiprocessing
for method in ("fork", "spawn"):
    child = multiprocessing.get_context(method).Process(target=Bpg(37).encode, args=(rgb,))
    child.start(); child.join()
    assert child.exitcode == 0 and len(os.listdir(tempfile.gettempdir())) == 1
assert Bpg(37).encode(rgb) == a
import hashlib; print(hashlib.sha256(a).hexdigest())
"""
    digests = set()
    for name in ("plain", "a:b", "it's = \\ [odd], 100%"):
        folder = tmp_path / name
        folder.mkdir()
        done = run_python(source, TMPDIR=str(folder))
        assert done.returncode == 0, done.stderr
        assert not list(folder.iterdir()) and not done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_module_works_without_av():
    source = f"""
import sys
sys.modules["av"] = None
import numpy as np
from qebias.codecs import *
rgb = np.zeros((16, 16, 3), np.uint8)
assert Jpeg(10).decode(Jpeg(10).encode(rgb)).shape == rgb.shape
coded = {Bpg(37).encode(picture(16, 16))!r}
for act in (lambda: Bpg(37).encode(rgb), lambda: Bpg(37).describe(), lambda: Bpg(37).decode(coded)):
    try: act()
    except CodecError as error: print(error)
assert "torch" not in sys.modules
"""
    done = run_python(source)
    assert (
        done.stdout.splitlines()
        == ["av is needed for BPG and is not installed: pip install -e '.[study]' in its checkout"] * 3
    ), done.stderr


def test_a_pyav_without_x265_is_told(monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.setattr(av, "codecs_available", {"h264"})
    with pytest.raises(CodecError, match=r"carries no libx265: pip install 'av>=15.1'"):
        Bpg(37).encode(picture(16, 16))


# ---------------------------------------------------------------- many images

IMAGES = [picture(48 + i, 64, i) for i in range(7)]


@pytest.mark.parametrize("workers", [1, 2, None])
def test_many_images_keep_their_order(workers, tmp_path, capfd):
    Image.fromarray(IMAGES[1]).save(tmp_path / "one.png")
    images = [IMAGES[0], tmp_path / "one.png", str(tmp_path / "one.png"), lambda: IMAGES[3], *IMAGES[4:]]
    coded = list(code_many(images, Bpg(42), workers=workers))
    for result, raw in zip(coded, [IMAGES[0], IMAGES[1], IMAGES[1], *IMAGES[3:]], strict=True):
        expected = code(raw, Bpg(42))
        assert (
            isinstance(result, Coded)
            and result.data == expected.data
            and np.array_equal(result.decoded, expected.decoded)
            and result.bpp == bpp(result.data, raw)
        )
    out, err = capfd.readouterr()
    assert not out and not err  # a bar stands on a terminal only


def test_no_bar_when_none_is_wanted(capfd):
    list(code_many(IMAGES, Jpeg(10), workers=2, progress=False))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_image_is_named(workers, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")

    def boom():
        raise RuntimeError("the disk is on fire")

    for bad, expected in [
        (IMAGES[0][:5], "image 2: image is 64x5"),
        (IMAGES[0] / 255, "image 2: image has dtype float64"),
        (tmp_path / "broken.png", "broken.png: no picture"),
        (boom, "image 2: RuntimeError: the disk is on fire"),
        (None, "image 2: image is a NoneType"),
    ]:
        done = []
        with pytest.raises(CodecError) as error:
            for result in code_many([IMAGES[0], IMAGES[1], bad, IMAGES[2]], Bpg(42), workers, progress=False):
                done.append(result)
        assert expected in str(error.value) and len(done) == 2
    with pytest.raises(CodecError, match="^kodim03: image is 64x5"):
        list(code_many([IMAGES[0], IMAGES[0][:5]], Bpg(42), workers, False, names=["kodim01", "kodim03"]))


def test_wrong_arguments_are_told_before_anything_runs():
    for bad in (0, -1, True, 1.5, "2"):
        with pytest.raises(CodecError, match="workers is"):
            code_many(IMAGES, Jpeg(10), workers=bad)
    with pytest.raises(CodecError, match="2 names for 7 images"):
        code_many(IMAGES, Jpeg(10), names=["a", "b"])


def children(marker):
    "Living processes that carry `marker` in their environment"
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                marker.encode() in (folder / "environ").read_bytes()
                and (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc")

LONG = """
import numpy as np
from qebias.codecs import *
rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
for coded in code_many([rgb] * 200, Bpg(10), workers=2, progress=False): print("one", flush=True)
"""  # no main guard, on purpose


def started(marker, tmp):
    env = {**os.environ, "QEBIAS_TEST_MARK": marker, "TMPDIR": str(tmp)}
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout.readline() == "one\n", process.stderr.read()
    assert len(children(marker)) == 3
    return process


def gone(marker, seconds):
    end = time.time() + seconds
    while children(marker) and time.time() < end:
        time.sleep(0.1)
    return not children(marker)


@linux
def test_an_interrupt_ends_the_workers(tmp_path):
    process = started("mark-interrupt", tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode and err.strip().endswith("KeyboardInterrupt") and err.count("Traceback") == 1
    assert gone("mark-interrupt", 5) and not list(tmp_path.iterdir())


@linux
def test_a_killed_caller_leaves_no_worker_behind(tmp_path):
    process = started("mark-kill", tmp_path)
    process.kill()
    process.communicate()
    assert gone("mark-kill", 30)


@pytest.fixture
def crew(monkeypatch):
    "The workers that are started"
    made = []

    class Spy(codecs._Worker):
        def __init__(self, recipe):
            super().__init__(recipe)
            made.append(self.process)

    monkeypatch.setattr(codecs, "_Worker", Spy)
    return made


def test_the_end_of_the_loop_however_it_comes_is_the_workers_end(crew):
    list(code_many(IMAGES, Bpg(42), workers=3, progress=False))
    results = code_many(IMAGES * 5, Bpg(30), workers=2, progress=False)
    next(results)
    assert [p.poll() is None for p in crew] == [False] * 3 + [True] * 2
    results.close()
    with pytest.raises(CodecError):
        list(code_many([IMAGES[0], None], Bpg(42), workers=2, progress=False))
    assert len(crew) == 7 and all(p.poll() is not None for p in crew)


def test_a_worker_that_dies_is_told(crew):
    results = code_many(IMAGES, Bpg(30), workers=2, progress=False)
    next(results)
    for process in crew:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(CodecError, match="image .: the worker process ended with status -9"):
        list(results)


def test_a_worker_imports_little():
    heavy = ("torch", "pandas", "matplotlib", "av", "skimage", "multiprocessing.pool")
    source = f"import sys, qebias.codecs; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(source).stdout.strip() == "[]"


# -------------------------------- the original programs, by stand-ins that speak as they do

BPGENC = """#!{python}
import sys
sys.path[:0] = {path!r}
args = sys.argv[1:]
if "-h" in args:
    print('''BPG Image Encoder version 0.9.8
usage: bpgenc [options] infile.[jpg|png]
-q qp                set quantizer parameter (smaller gives better quality,
                     range: 0-51, default = 29)
-e encoder           select the HEVC encoder ({encoders}, default = {default})
''')
    sys.exit(1)
{trouble}
from qebias.codecs import Bpg
from qebias.core import read_rgb
options = dict(zip(args[:-1:2], args[1:-1:2]))
assert set(options) == {{"-e", "-q", "-o"}} and options["-e"] in "{encoders}".split(), options
open(options["-o"], "wb").write(Bpg(int(options["-q"]), options["-e"]).encode(read_rgb(args[-1])))
"""

BPGDEC = """#!{python}
import sys
sys.path[:0] = {path!r}
flag, out, name = sys.argv[1:]
assert flag == "-o"
{trouble}
from qebias.codecs import Bpg, CodecError
from qebias.core import write_png
try: write_png(out, Bpg(1).decode(open(name, "rb").read()))
except CodecError:
    print("Could not decode image", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    def install(encoders="x265 jctvc", default="x265", enc="", dec="", which=("bpgenc", "bpgdec")):
        folder = tmp_path / "a folder; with $odd & 'names'"
        folder.mkdir(exist_ok=True)
        for name, text, trouble in (("bpgenc", BPGENC, enc), ("bpgdec", BPGDEC, dec)):
            (folder / name).unlink(missing_ok=True)
            if name not in which:
                continue
            (folder / name).write_text(
                text.format(
                    python=sys.executable,
                    path=[p for p in sys.path if p],
                    encoders=encoders,
                    default=default,
                    trouble=trouble,
                )
            )
            (folder / name).chmod(0o755)
        bpg._bpgenc_help.cache_clear()
        monkeypatch.setenv("PATH", str(folder))

    return install


def test_bpgenc_round_trip_and_description(programs):
    programs()
    rgb = picture(33, 41)
    made = BpgEnc(37)
    assert made.encoder == "x265" and made.encode(rgb) == Bpg(37, "x265").encode(rgb)
    assert np.array_equal(made.decode(made.encode(rgb)), Bpg(37).decode(made.encode(rgb)))
    assert BpgEnc(np.int64(37), "jctvc").encode(rgb) == Bpg(37).encode(rgb)
    about = BpgEnc(37, "jctvc").describe()
    assert json.loads(json.dumps(about)) == about
    assert about["parameters"] == {"encoder": "jctvc", "arguments": ["-e", "jctvc", "-q", "37"]}
    assert (
        about["versions"]["version"] == "0.9.8"
        and about["versions"]["encoders"] == ["x265", "jctvc"]
        and about["versions"]["default"] == "x265"
    )
    assert codec("bpgenc", 37, encoder="jctvc") == BpgEnc(37, "jctvc")
    assert [c.data for c in code_many([rgb, rgb[:20]], BpgEnc(42, "jctvc"), workers=2, progress=False)] == [
        Bpg(42).encode(rgb),
        Bpg(42).encode(rgb[:20]),
    ]
    assert not [f for f in codecs.scratch().iterdir() if f.is_dir()]


def test_bpgenc_missing_or_without_the_encoder(programs):
    programs(which=())
    with pytest.raises(CodecError, match="bpgdec is not on the PATH: build libbpg"):
        BpgEnc(37)
    programs(which=("bpgdec",))
    with pytest.raises(CodecError, match="bpgenc is not on the PATH: build libbpg"):
        BpgEnc(37)
    programs(encoders="x265")
    assert BpgEnc(37).encoder == "x265"
    with pytest.raises(CodecError, match="the installed bpgenc holds x265, not jctvc"):
        BpgEnc(37, "jctvc")
    with pytest.raises(CodecError, match="whole number from 0 to 51"):
        BpgEnc(52)


@pytest.mark.parametrize(
    "enc, says",
    [
        ("sys.exit(3)", "bpgenc ended with status 3$"),
        ("print('png: no', file=sys.stderr); sys.exit(1)", "bpgenc ended with status 1: png: no$"),
        ("import os; os.kill(os.getpid(), 11)", "bpgenc died of signal 11$"),
        ("open(args[args.index('-o') + 1], 'w'); sys.exit(0)", "bpgenc wrote nothing for an image of 20x20$"),
        ("sys.exit(0)", "bpgenc wrote nothing"),
    ],
)
def test_bpgenc_failures_are_noticed(programs, enc, says):
    programs(enc=enc)
    with pytest.raises(CodecError, match=says):
        BpgEnc(37).encode(picture(20, 20))


def test_bpgdec_failures_are_noticed(programs):
    programs()
    data = Bpg(37).encode(picture(20, 20))
    without = data[:8] + b"\0" + data[9:]  # the length left open, as bpgenc does
    assert np.array_equal(BpgEnc(37).decode(without), Bpg(37).decode(data))
    for bad in (b"", b"GIF89a", data[:30], data[:-1], without[:-9]):
        with pytest.raises(CodecError):
            BpgEnc(37).decode(bad)
    programs(dec="sys.exit(0)")
    with pytest.raises(CodecError, match="bpgdec wrote no picture"):
        BpgEnc(37).decode(data)
    programs(dec="from PIL import Image; Image.new('RGB', (3, 2)).save(out); sys.exit(0)")
    with pytest.raises(CodecError, match="bpgdec wrote a picture of 3x2, the header says 20x20"):
        BpgEnc(37).decode(data)
    programs(enc="")
    text = Path(bpg._program("bpgenc"))
    text.write_text(f"#!{sys.executable}\nprint('hello')\n")
    bpg._bpgenc_help.cache_clear()
    with pytest.raises(CodecError, match="does not speak as bpgenc does"):
        BpgEnc(37)


# ---------------------------------------------------------------- real photographs

# PSNR and bytes of bpgenc 0.9.8 -e jctvc on three Kodak images, and its means over all 24: QP -> (dB, bytes)
# and (dB, bpp).
BPGENC_3 = {
    "05": {
        27: (34.626, 70792),
        32: (31.255, 43431),
        37: (28.070, 24319),
        42: (25.053, 12122),
        47: (22.315, 5260),
    },
    "15": {
        27: (36.418, 28372),
        32: (33.625, 14386),
        37: (31.248, 6828),
        42: (29.051, 3055),
        47: (27.116, 1480),
    },
    "23": {
        27: (37.492, 18008),
        32: (35.205, 10298),
        37: (32.963, 5814),
        42: (30.742, 3304),
        47: (28.161, 1734),
    },
}
BPGENC_24 = {
    "jctvc": {
        27: (36.02, 0.884),
        32: (33.03, 0.501),
        37: (30.25, 0.256),
        42: (27.73, 0.117),
        47: (25.44, 0.049),
    },
    "x265": {
        27: (37.25, 1.101),
        32: (34.07, 0.638),
        37: (31.06, 0.332),
        42: (28.47, 0.156),
        47: (26.15, 0.068),
    },
}


def kodak(names):
    folder = os.environ.get("QEBIAS_DATA")
    if not folder or not (Path(folder) / "kodak24").is_dir():
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    return [Path(folder) / f"kodak24/{name}.png" for name in names]


def mean_of(paths, made):
    rows = [
        (psnr(coded.decoded, read_rgb(path)), coded.bpp)
        for path, coded in zip(paths, code_many(paths, made, progress=False), strict=True)
    ]
    return np.mean(rows, 0)


@pytest.mark.parametrize("qp", LEVELS["bpg"])
def test_three_photographs_are_as_bpgenc_codes_them(qp):
    quality, rate = mean_of(kodak(BPGENC_3), Bpg(qp))
    assert quality == pytest.approx(np.mean([of[qp][0] for of in BPGENC_3.values()]), abs=0.1)
    assert rate == pytest.approx(
        np.mean([of[qp][1] for of in BPGENC_3.values()]) * 8 / (768 * 512), rel=0.06 if qp == 47 else 0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize("qp", LEVELS["bpg"])
@pytest.mark.parametrize("encoder", BPGENC_24)
def test_kodak_is_as_bpgenc_codes_it(encoder, qp):
    quality, rate = mean_of(kodak([f"{i:02}" for i in range(1, 25)]), Bpg(qp, encoder))
    expected = BPGENC_24[encoder][qp]
    assert quality == pytest.approx(expected[0], abs=0.1)
    assert rate == pytest.approx(expected[1], rel=0.06 if qp == 47 else 0.02)


# The registry, and what a codec says of itself


def test_every_codec_says_what_others_ask():
    for kind in CODECS.values():
        assert kind.levels and all(kind.lowest <= level <= kind.highest for level in kind.levels)
        assert kind.smallest >= 1 and kind.seconds_per_megapixel > 0 and kind.version >= 1
    raw = picture(40, 56)
    for name in ("jpeg", "bpg", "avif"):
        kind = CODECS[name]
        assert kind(kind.levels[0]).level == kind.levels[0]
        error = [np.mean((code(raw, kind(q)).decoded - raw.astype(float)) ** 2) for q in sorted(kind.levels)]
        assert (error[0] > error[-1]) == kind.higher_is_better, name


OWN = """
from dataclasses import dataclass

import numpy as np

from qebias.codecs import Codec

@dataclass(frozen=True)
class Coarse(Codec):
    "Keeps every value's upper bits"

    step: int
    offset: int = 0
    name, levels = "coarse", (16, 64)

    def encode(self, rgb):
        return bytes(rgb.shape[:2]) + (rgb // self.step).tobytes()

    def decode(self, data):
        return np.frombuffer(data, np.uint8, offset=2).reshape(data[0], data[1], 3) * self.step

class Half(Codec):
    name = "half"

    def encode(self, rgb):
        return b""
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_codec_of_ones_own_is_one_file_and_works_in_processes(tmp_path, monkeypatch, workers):
    (tmp_path / "coarse_codec.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    made = codec("coarse_codec:Coarse", 64)
    images = [picture(40, 56, seed) for seed in range(3)]
    for raw, coded in zip(images, code_many(images, made, workers, progress=False)):
        assert np.array_equal(coded.decoded, raw // 64 * 64) and made.label() == "COARSE level 64"
    assert codec("coarse", 16).step == 16  # known by its name from now on
    told = {"codec": "coarse", "level": 16, "parameters": {"offset": 3}, "backend": "", "versions": {}}
    assert codec("coarse", 16, offset=3).describe() == told
    with pytest.raises(CodecError, match="step is 101: pass a whole number from 0 to 100"):
        codec("coarse", 101)
    with pytest.raises(CodecError, match="coarse_codec:Half is no codec: it lacks decode"):
        codec("coarse_codec:Half", 3)
    del CODECS["coarse"]


def test_names_that_are_no_codec():
    for name in ("webp", "no.such:Codec", "json:dumps", "json:none", ":", "collections:OrderedDict"):
        with pytest.raises(CodecError) as error:
            codec(name, 3)
        assert "\n" not in str(error.value)
    with pytest.raises(CodecError, match="jpeg has no option 'encoder'"):
        codec("jpeg", 3, encoder="x265")


def test_the_arithmetic_of_each_codec_is_held_by_its_version():
    "An encoding of every codec, beside its version: bytes by the same libraries, what is ours by any"
    kept = json.loads((Path(__file__).parent / "numbers" / "codecs.json").read_text())
    found = fingerprints()
    for name, here in found.items():
        there = kept[name]
        if here["version"] != there["version"]:
            pytest.fail(f"{name} has version {here['version']}: write tests/numbers/codecs.json anew")
        assert here["ours"] == there["ours"], f"the arithmetic of {name} changed: raise its version"
        if here["libraries"] == there["libraries"]:
            assert here["files"] == there["files"], f"the files of {name} changed: raise its version"
    assert set(found) == set(kept)


def fingerprints():
    "What tests/numbers/codecs.json holds"
    raw = picture(50, 70)
    found = {}
    for made in (Jpeg(30), Bpg(37), Bpg(37, "x265"), Avif(30)):
        name = made.name + (f" {made.encoder}" if made.name == "bpg" else "")
        about = made.describe()
        data = made.encode(raw)
        ours = [about["parameters"]]
        if made.name == "bpg":
            planes = bpg.rgb_to_420(raw)
            ours += [array_digest(plane) for plane in planes] + [array_digest(bpg.rgb_from_420(*planes))]
            ours += [array_digest(np.frombuffer(bpg.lambda_table(made.encoder).encode(), np.uint8))]
        found[name] = {
            "version": made.version,
            "ours": digest(ours),
            "libraries": about["versions"],
            "files": digest([data.hex(), array_digest(made.decode(data))]),
        }
    return found


def test_bpgenc_is_offered_pictures_of_any_size(programs, tmp_path):
    """The reference encoder codes 1x1 and 7x300; what our own container cannot hold is not refused on its
    behalf"""
    from qebias import files
    from qebias.core import write_png

    programs()
    for height, width in ((1, 1), (7, 300)):
        write_png(tmp_path / "small" / f"{height}.png", picture(height, width))
    picked, _ = files.pick([tmp_path / "small"])
    assert files._large_enough(picked, BpgEnc(37, "jctvc"), files.Done()) == picked
    with pytest.raises(QebiasError, match="has a side below 9 pixels, which BPG cannot code"):
        files._large_enough(picked, Bpg(37), files.Done())


def test_bits_per_pixel_of_what_is_no_picture():
    for shape in ((3, 20, 20), (1, 3, 4, 4), (0, 4, 3)):
        with pytest.raises(CodecError, match="a picture has shape"):
            bpp(b"1234", np.zeros(shape, np.uint8))
