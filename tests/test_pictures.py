"Pictures of this world: formats, depth, colour, transparency, direction, frames, and folders of them"

import functools
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from qebias.codecs import Bpg
from qebias.core import MOST_PIXELS, QebiasError, read_rgb, write_png
from qebias.pictures import (
    PICTURE_SUFFIXES,
    Notes,
    Picture,
    find_pictures,
    look,
    read_picture,
    read_rgb8,
    write_picture,
)

RNG = np.random.default_rng(0)


def scene(height=24, width=40):
    "Smooth colours and an edge"
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin(x / 5)], -1)
    rgb[:, width // 2 :] = 255 - rgb[:, width // 2 :]
    return rgb.astype(np.uint8)


@functools.cache  # it says the second in which it was made
def profile(swap=False):
    "sRGB's profile; or one in which red and green are exchanged"
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if swap:
        r, g = data.index(b"rXYZ"), data.index(b"gXYZ")
        data = bytearray(data)
        data[r : r + 4], data[g : g + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def one_line_about(path, call=read_picture):
    with pytest.raises(QebiasError) as error:
        call(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text[len(str(path)) :]


# Formats

LOSSLESS = {"png", "bmp", "tif", "ppm", "tga"}
SAVED = [
    "png",
    "bmp",
    "tif",
    "ppm",
    "tga",
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "webp",
    "avif",
    "gif",
    "jp2",
    "tiff",
]


@pytest.mark.parametrize("suffix", SAVED)
def test_every_format_of_a_single_file_is_read_from_a_folder_too(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    kind = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000"}.get(suffix)
    more = {"quality": 95} if suffix in ("jpg", "jpeg", "jpe", "jfif", "webp", "avif") else {}
    Image.fromarray(scene()).save(path, format=kind, **more)
    found, said = find_pictures([tmp_path])
    assert [picture.path for picture in found] == [path] and not said
    picture = read_picture(path)
    assert picture.rgb.shape == scene().shape and picture.depth == 8
    assert look(path)[:2] == (40, 24)
    if suffix in LOSSLESS:
        assert np.array_equal(picture.rgb, scene())
    else:
        assert np.abs(picture.rgb - scene().astype(float)).mean() < 12


def test_bpg_is_a_picture_like_any_other(tmp_path):
    path = tmp_path / "a.bpg"
    path.write_bytes(Bpg(30).encode(scene()))
    assert np.array_equal(read_picture(path).rgb, Bpg(30).decode(path.read_bytes()))
    assert look(path) == (40, 24, "BPG") and find_pictures([tmp_path])[0][0].path == path
    (tmp_path / "b.bpg").write_bytes(path.read_bytes()[:-3])
    one_line_about(tmp_path / "b.bpg")


def test_a_picture_is_what_it_holds_not_what_it_is_called(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    assert np.array_equal(read_picture(tmp_path / "a.jpg").rgb, scene())
    (tmp_path / "b.png").write_bytes(Bpg(30).encode(scene()))
    assert look(tmp_path / "b.png").kind == "BPG"


def test_postscript_is_never_run_whatever_its_suffix(tmp_path, monkeypatch):
    "Pillow opens EPS by Ghostscript, PDF and others by programs and plugins: none is asked"
    import subprocess

    def never(*args, **kwargs):
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "call", "check_call"):
        monkeypatch.setattr(subprocess, name, never)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    for suffix in ("png", "jpg", "tif", "tga", "eps"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(eps)
        for call in (read_picture, read_rgb, look):
            one_line_about(path, call)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("a picture")
    for name in ("empty.png", "folder.png", "text.png", "missing.png"):
        for call in (read_picture, read_rgb, look):
            one_line_about(tmp_path / name, call)


# Size, told at the door


def png_header(width, height, bits=8, colour=2, more=b""):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(14000, 13000), (70000, 10), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_is_too_large_is_one_line_and_no_warning(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (read_picture, read_rgb, look):
            assert f"is {size[0]}x{size[1]}: the limits are" in one_line_about(tmp_path / "a.png", call)


def test_a_hundred_megapixels_are_no_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(10000, 10000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(tmp_path / "a.png").pixels == 10**8 < MOST_PIXELS


def test_endless_metadata_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60000
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif, icc_profile=bytes(5 * 2**20))
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.icc is None and len(picture.exif) > 60000 and "was left out" in picture.notes[0]


@pytest.mark.parametrize("kind, words", [("sRGB", ""), ("other", "to sRGB"), ("broken", "was left out")])
def test_a_profile_that_no_png_carries_is_applied_and_what_is_written_is_read_again(tmp_path, kind, words):
    "Pillow refuses a PNG whose profile has more than 1 MiB: `enhance` wrote one that nobody could open"
    begins = {"sRGB": profile(), "other": profile(swap=True), "broken": b""}[kind]
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=100, icc_profile=begins + bytes(2 * 2**20))
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.icc is None and words in "; ".join(picture.notes)
    with Image.open(tmp_path / "a.jpg") as image:
        moved = np.abs(picture.rgb.astype(int) - np.asarray(image)).max()
    assert (moved > 2) == (kind == "other")
    write_picture(tmp_path / "b.png", picture)
    assert np.array_equal(read_picture(tmp_path / "b.png").rgb, picture.rgb)


def test_endless_exif_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * (2**20 + 1)
    Image.fromarray(scene()).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.exif is None and "EXIF that cannot be read was left out" in picture.notes


def test_a_file_of_more_bytes_than_any_picture_is_told_at_the_door(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(40, 30))
    os.truncate(tmp_path / "a.png", 2**31 + 1)  # a hole, which takes no room on disk
    for call in (read_rgb, look):
        assert "a picture has at most 2,147,483,648 here" in one_line_about(tmp_path / "a.png", call)


# Frames


def test_animations_and_documents_are_refused(tmp_path):
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    for name in ("a.png", "a.webp", "a.gif", "a.tif", "a.avif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        for call in (read_picture, look):
            assert "on its own" in one_line_about(tmp_path / name, call)


def test_a_thumbnail_behind_a_tiff_is_no_second_page(tmp_path):
    small = Image.fromarray(scene()[::4, ::4])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(scene()).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2
    assert np.array_equal(read_picture(tmp_path / "a.tif").rgb, scene())


# Depth


def deep_scene():
    noise = RNG.integers(0, 257, scene().shape)
    return np.clip(scene().astype(int) * 257 - 128 + noise, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("kind", ["rgb.png", "grey.png", "grey.tif", "rgb.ppm", "grey.pgm"])
def test_sixteen_bits_are_sixteen_bits(tmp_path, kind):
    deep = deep_scene()
    path = tmp_path / kind
    if kind == "rgb.png":
        write_picture(path, Picture(deep, depth=16))
    elif kind.startswith("grey") and kind != "grey.pgm":
        Image.fromarray(deep[..., 0]).save(path)
    else:
        pixels = deep if kind == "rgb.ppm" else deep[..., 0]
        head = f"{'P6' if kind == 'rgb.ppm' else 'P5'}\n40 24\n65535\n".encode()
        path.write_bytes(head + pixels.astype(">u2").tobytes())
    wanted = deep if kind.startswith("rgb") else np.repeat(deep[..., :1], 3, 2)
    picture = read_picture(path)
    assert picture.depth == 16 and np.array_equal(picture.rgb, wanted)
    write_picture(tmp_path / "again.png", picture)
    again = read_picture(tmp_path / "again.png")
    assert np.array_equal(again.rgb, wanted) and again.channels == picture.channels
    eight = read_rgb8(path)
    assert np.array_equal(eight, np.floor(wanted / 257 + 0.5))
    assert "more than 8 bit" in one_line_about(path, read_rgb)  # which is for our own files


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff(tmp_path, order, compression):
    "Pillow cannot write one, so it is written by hand; the compressed one is read through libtiff"
    deep = deep_scene()
    height, width = deep.shape[:2]
    data = deep.astype(order + "u2").tobytes()
    code, scheme = 1, data
    if compression == "tiff_adobe_deflate":
        code, scheme = 8, zlib.compress(data)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 0), (259, 3, 1, code), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 0), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(scheme))]
    start = 8 + 2 + 12 * len(tags) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, kind, count, value in tags:
        value = {258: start, 273: start + 6}.get(tag, value)
        packed = struct.pack(order + ("H2x" if kind == 3 and count == 1 else "I"), value)
        out += struct.pack(order + "HHI", tag, kind, count) + packed
    out += struct.pack(order + "I3H", 0, 16, 16, 16) + scheme
    (tmp_path / "a.tif").write_bytes(out)
    picture = read_picture(tmp_path / "a.tif")
    assert picture.depth == 16 and np.array_equal(picture.rgb, deep)


def test_ten_bit_avif(tmp_path):
    "With PyAV all bits are read; they are not those of 8 bit spread out"
    av = pytest.importorskip("av")
    ramp = np.repeat(np.linspace(0, 65535, 512).astype(np.uint16)[None, :, None], 64, 0).repeat(3, 2)
    path = tmp_path / "a.avif"
    try:
        with av.open(str(path), "w", format="avif") as file:
            stream = file.add_stream("libsvtav1", rate=1)
            stream.width, stream.height, stream.pix_fmt = 512, 64, "yuv420p10le"
            stream.options = {"crf": "5", "preset": "10"}
            frame = av.VideoFrame.from_ndarray(ramp, format="rgb48le").reformat(format="yuv420p10le")
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                file.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV writes no AVIF ({error})")
    picture = read_picture(path)
    assert picture.depth == 10 and picture.rgb.dtype == np.uint16
    assert len(np.unique(picture.rgb[32, :, 1])) > 300
    assert np.abs(picture.rgb[32, :, 1] / 257.0 - ramp[32, :, 1] / 257.0).mean() < 4
    write_picture(tmp_path / "a.png", picture)
    assert read_picture(tmp_path / "a.png").depth == 16


def test_r5g6b5_has_8_bit_or_less(tmp_path):
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 16, 3, 16, 0, 0, 0, 0) + struct.pack(
        "<III", 0xF800, 0x7E0, 0x1F
    )
    pixels = struct.pack("<8H", *[0xF800] * 4, *[0x07E0] * 4)
    data = b"BM" + struct.pack("<IHHI", 14 + len(header) + 16, 0, 0, 14 + len(header)) + header + pixels
    (tmp_path / "a.bmp").write_bytes(data)
    picture = read_picture(tmp_path / "a.bmp")
    assert (
        picture.depth == 8
        and picture.rgb[0, 0].tolist() == [0, 255, 0]
        and picture.rgb[1, 0].tolist() == [255, 0, 0]
    )
    assert np.array_equal(read_rgb(tmp_path / "a.bmp"), picture.rgb)


def test_floats_are_refused(tmp_path):
    Image.fromarray(scene()[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    assert "floats, signed numbers or 32 bits" in one_line_about(tmp_path / "a.tif")


# Colour, grey, transparency, direction


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
def test_a_profile_is_kept_and_converted_where_it_matters(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(scene()).save(path, icc_profile=profile(swap=True), quality=95)
    picture = read_picture(path)
    assert picture.icc == profile(swap=True) and not picture.notes
    write_picture(tmp_path / "out.png", picture)
    assert Image.open(tmp_path / "out.png").info["icc_profile"] == profile(swap=True)
    notes = Notes()
    eight = read_rgb8(path, notes)
    assert np.abs(eight[..., [1, 0, 2]].astype(int) - picture.rgb).mean() < 2
    assert len(notes.lines()) == 1 and "to sRGB" in notes.lines()[0]


def test_srgb_is_not_converted_and_says_nothing(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png", icc_profile=profile())
    notes = Notes()
    assert np.array_equal(read_rgb8(tmp_path / "a.png", notes), scene()) and not notes.lines()


def test_cmyk_is_converted_and_said(tmp_path):
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    picture = read_picture(tmp_path / "a.jpg")
    assert np.abs(picture.rgb - scene().astype(float)).mean() < 5 and "CMYK" in picture.notes[0]


def test_grey_stays_grey(tmp_path):
    Image.fromarray(scene()[..., 0]).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    coloured = picture.like(np.clip(picture.floats() + RNG.normal(0, 0.05, picture.rgb.shape), 0, 1))
    assert np.ptp(coloured.rgb, axis=2).max() == 0
    write_picture(tmp_path / "out.png", coloured)
    assert Image.open(tmp_path / "out.png").mode == "L"


def test_transparency_passes_through(tmp_path):
    alpha = (np.arange(24 * 40).reshape(24, 40) % 256).astype(np.uint8)
    Image.fromarray(np.dstack([scene(), alpha])).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    write_picture(tmp_path / "out.png", picture.like(1 - picture.floats()))
    out = np.array(Image.open(tmp_path / "out.png"))
    assert np.array_equal(out[..., 3], alpha) and np.array_equal(out[..., :3], 255 - scene())
    assert "transparent in places" in one_line_about(tmp_path / "a.png", read_rgb8)
    palette = Image.fromarray(scene()).quantize(16)
    palette.save(tmp_path / "p.png", transparency=3)
    assert read_picture(tmp_path / "p.png").alpha is not None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_seen_as_their_exif_says_and_come_out_upright(tmp_path, orientation, suffix):
    from PIL import ImageOps

    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    Image.fromarray(scene()).save(path, exif=exif, dpi=(300, 300))
    with Image.open(path) as image:
        seen = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    picture = read_picture(path)
    assert np.array_equal(picture.rgb, seen) and np.array_equal(read_rgb(path), seen)
    assert look(path)[:2] == seen.shape[1::-1]
    write_picture(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as out:
        assert out.getexif().get(0x0112, 1) == 1 and out.getexif()[0x010F] == "maker"
        assert suffix == "webp" or np.allclose(out.info["dpi"], 300, rtol=1e-3)
        assert np.array_equal(np.array(out), seen)


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    "Nor does a look at the header say so, from which commands take the size"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    height, width = read_picture(tmp_path / "a.jpg").rgb.shape[:2]
    assert (width, height) == look(tmp_path / "a.jpg")[:2] == scene().shape[1::-1]


@pytest.mark.parametrize("low, high", [(-1, 1), (0, 255), (0, 1.1), (np.nan, 1), (0, np.inf)])
def test_a_range_that_is_not_0_to_1_is_an_error(low, high):
    picture = Picture(scene())
    values = np.full(scene().shape, 0.5)
    values[0, 0], values[1, 1] = low, high
    with pytest.raises(QebiasError, match="pixels reach from .*: pass floats in"):
        picture.like(values)


# Folders


def test_the_output_of_compress_is_a_folder_of_pictures(tmp_path):
    for name in ("01", "02", "03"):
        Image.fromarray(scene()).save(tmp_path / f"{name}.png")
        Image.fromarray(scene()).save(tmp_path / f"{name}.jpg")
    found, said = find_pictures([tmp_path])
    assert [picture.path.name for picture in found] == ["01.png", "02.png", "03.png"]
    assert said == [
        f"{tmp_path}: of files of one name the lossless one counts: left out 01.jpg, 02.jpg, 03.jpg"
    ]


def test_a_tree_stays_a_tree_and_what_is_left_out_is_said(tmp_path):
    for name in ("x/01.png", "y/01.png", "y/z/02.jpe"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(tmp_path / name, format="PNG")
    (tmp_path / "y" / "raw.heic").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "no-suffix").touch()
    found, said = find_pictures([tmp_path])
    assert [picture.name for picture in found] == ["x/01", "y/01", "y/z/02"]
    assert said == [f"{tmp_path}: left out what is no picture that is read here: 1 .heic, 1 without a suffix"]


def test_every_suffix_of_a_single_file_counts_in_a_folder():
    assert {f".{suffix}" for suffix in SAVED} | {".bpg", ".pgm"} == PICTURE_SUFFIXES


def test_pillows_own_lines_do_not_stand_beside_ours(tmp_path, capfd):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\xff" * 30
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(scene()).save(tmp_path / "a.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[200:220] = b"\xff" * 20
    (tmp_path / "b.tif").write_bytes(data)
    for name in ("a.jpg", "b.tif"):
        try:
            read_picture(tmp_path / name)
        except QebiasError as error:
            assert "\n" not in str(error)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_a_damaged_profile_or_exif_costs_itself_alone(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    notes = Notes()
    assert np.array_equal(read_rgb8(tmp_path / "a.png", notes), scene())
    assert "left out" in notes.lines()[0]


def test_a_picture_of_memory(tmp_path):
    "Reading takes bytes in proportion to the pixels, not to what a header claims"
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 11000, 11000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    one_line_about(tmp_path / "a.png")


# Small files that keep a decoder busy, and names that command a terminal


def jpeg_bytes(**more):
    out = io.BytesIO()
    Image.fromarray(np.full((256, 256, 3), 90, np.uint8)).save(out, "JPEG", **more)
    return out.getvalue()


@pytest.mark.parametrize("read", [look, read_picture, read_rgb])
def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path, read):
    whole = jpeg_bytes(progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    path = tmp_path / "scans.jpg"
    path.write_bytes(whole[:-2] + 3000 * last + b"\xff\xd9")
    with pytest.raises(QebiasError, match=r"scans.jpg has 3,\d\d\d scans, which nothing needs: save it anew"):
        read(path)
    path.write_bytes(whole[:-2] + 20 * last + b"\xff\xd9")
    read(path)


@pytest.mark.parametrize("read", [look, read_picture, read_rgb])
def test_a_jpeg_that_cannot_hold_its_size_is_refused(tmp_path, read):
    data = bytearray(jpeg_bytes())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 11_000, 12_000)
    (tmp_path / "grey.jpg").write_bytes(bytes(data))
    with pytest.raises(QebiasError, match="grey.jpg has .* bytes, too few for 12000x11000 pixels: fix it"):
        read(tmp_path / "grey.jpg")


@pytest.mark.parametrize(
    "more", [{"quality": 1}, {"optimize": True}, {"progressive": True, "optimize": True}]
)
def test_the_shortest_honest_jpeg_is_read(tmp_path, more):
    for mode in ("L", "RGB"):
        Image.new(mode, (2048, 2048)).save(tmp_path / "flat.jpg", **more)
        assert read_picture(tmp_path / "flat.jpg").rgb.shape == (2048, 2048, 3)


def test_what_is_missing_or_broken_says_what_to_do(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    (tmp_path / "cut.bpg").write_bytes(Bpg(40).encode(np.full((32, 32, 3), 90, np.uint8))[:-5])
    for name, words in [
        ("none.png", "does not exist: name a picture, or a folder of them"),
        ("link.png", "is a link that leads nowhere: fix it or leave it out"),
        ("cut.bpg", "truncated.*: fix it or leave it out"),
    ]:
        for read in (look, read_picture):
            with pytest.raises(QebiasError, match=f"{name}.*{words}"):
                read(tmp_path / name)


# Damage near a picture's end: it is seen whole, but its last rows are not what they were


def damaged(data, how):
    at = len(data) - 150
    if how == "cut":
        return data[:at]
    if how == "zeros":
        return data[:at] + bytes(150)
    if how == "flipped":
        return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    return data[:-1]


@pytest.mark.parametrize("read", [read_picture, read_rgb])
@pytest.mark.parametrize("how", ["cut", "zeros", "flipped", "the last byte"])
def test_a_png_that_is_damaged_near_its_end_is_refused(tmp_path, how, read):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "end.png").write_bytes(damaged(data, how))
    with pytest.raises(QebiasError, match="end.png is no readable picture .*: fix it or leave it out"):
        read(tmp_path / "end.png")
    (tmp_path / "more.png").write_bytes(data + b"what somebody appended")
    assert np.array_equal(read_rgb(tmp_path / "more.png"), noise)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp", "ppm", "gif", "jp2", "avif"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_a_picture_that_is_cut_is_refused_in_every_format(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for read in (read_picture, read_rgb):
        with pytest.raises(QebiasError, match="cut"):
            read(path)


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_an_animation_is_no_picture_for_any_reader(tmp_path, suffix):
    one, two = (Image.fromarray(np.full((8, 8, 3), k, np.uint8)) for k in (10, 200))
    one.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[two])
    for read in (look, read_picture, read_rgb):
        with pytest.raises(QebiasError, match="two.* is an animation"):
            read(tmp_path / f"two.{suffix}")


def test_outputs_may_go_to_the_folder_above(tmp_path):
    "`qebias enhance photos -o .`: what lies below the output's folder is no output for that"
    write_png(tmp_path / "photos" / "x" / "a.png", np.zeros((8, 8, 3), np.uint8))
    write_png(tmp_path / "photos" / "out" / "a.png", np.zeros((8, 8, 3), np.uint8))
    for above in (tmp_path, tmp_path / "photos"):
        assert [p.name for p in find_pictures([tmp_path / "photos"], above)[0]] == ["out/a", "x/a"]
    assert [p.name for p in find_pictures([tmp_path / "photos"], tmp_path / "photos" / "out")[0]] == ["x/a"]
    assert [p.name for p in find_pictures([tmp_path / "photos" / "x"], tmp_path)[0]] == ["a"]
