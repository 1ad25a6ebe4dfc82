"Pictures as other programs write them: seldom seen, and what is in them comes out or is refused"

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from typer.testing import CliRunner

from qebias import files, pictures
from qebias.cli import app
from qebias.codecs import Avif, Bpg
from qebias.core import QebiasError, read_rgb
from qebias.pictures import look, read_picture, read_rgb8, to_srgb, write_picture

HEIGHT, WIDTH = 24, 40
Y, X = np.mgrid[:HEIGHT, :WIDTH]
GREY = (X * 4 + Y * 3).astype(np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, (X * 6).astype(np.uint8)])
READERS = [read_picture, read_rgb]


def refused(path, words, readers=READERS):
    for read in readers:
        with pytest.raises(QebiasError, match=words) as error:
            read(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def tiff(path, data, tags, pages=1):
    "A TIFF of one strip a page, written by hand: tags are {number: (type, value or tuple of values)}"
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        here = {256: (4, WIDTH), 257: (4, HEIGHT), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1)}
        here |= {278: (4, HEIGHT), 279: (4, len(data))} | (tags[page] if isinstance(tags, list) else tags)
        more = 8 + 2 + 12 * (len(here) + 1) + 4 + len(out) - 8
        here[273] = (4, more)
        out += struct.pack("<H", len(here))
        for tag, (kind, value) in sorted(here.items()):
            out += struct.pack("<HHI", tag, kind, 1) + struct.pack("<H2x" if kind == 3 else "<I", value)
        following = more + len(data)
        out += struct.pack("<I", following if page + 1 < pages else 0) + data
    path.write_bytes(out)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path, rows, depth, colour, extra=(), interlaced=0, size=(WIDTH, HEIGHT)):
    "A PNG written by hand: rows of bytes, further chunks before them"
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", head), *(chunk(*c) for c in extra), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


# TIFF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_tiff_that_is_turned_is_upright(tmp_path, bits, orientation):
    "Pillow maps it into memory, and then with its sides exchanged"
    data = GREY.tobytes() if bits == 8 else (GREY.astype("<u2") * 257).tobytes()
    tiff(tmp_path / "a.tif", data, {258: (3, bits), 274: (3, orientation)})
    turns = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180]
    turns += [Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270]
    turns += [Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90]
    how = turns[orientation - 1]
    wanted = np.array(Image.fromarray(GREY) if how is None else Image.fromarray(GREY).transpose(how))
    picture, seen = read_picture(tmp_path / "a.tif"), look(tmp_path / "a.tif")
    assert np.array_equal(picture.rgb[..., 0] // (257 if bits == 16 else 1), wanted)
    assert (seen.height, seen.width) == wanted.shape


def test_twelve_bits_reach_from_black_to_white(tmp_path):
    values = np.round(GREY.astype(np.uint32) * 4095 / GREY.max())
    bits = np.unpackbits(values.astype(">u2").view(np.uint8)).reshape(HEIGHT, WIDTH, 16)[..., 4:]
    tiff(tmp_path / "a.tif", np.packbits(bits.reshape(HEIGHT, -1), 1).tobytes(), {258: (3, 12)})
    pixels = read_picture(tmp_path / "a.tif").rgb[..., 0]
    assert pixels.max() == 65535 and np.abs(pixels / 65535 - values / 4095).max() < 1e-4


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_numbers_are_refused(tmp_path, bits):
    tiff(tmp_path / "a.tif", bytes(HEIGHT * WIDTH * bits // 8), {258: (3, bits), 339: (3, 2)})
    refused(tmp_path / "a.tif", "signed numbers", [read_picture])


def test_a_picture_behind_sixteen_copies_is_a_page(tmp_path):
    small = {254: (4, 1)}
    tiff(tmp_path / "a.tif", GREY.tobytes(), [{}, *[small] * 17, {}], 19)
    refused(tmp_path / "a.tif", "has 19 pages", [*READERS, look])
    tiff(tmp_path / "b.tif", GREY.tobytes(), [{}, *[small] * 16], 17)
    assert np.array_equal(read_picture(tmp_path / "b.tif").rgb[..., 0], GREY)


def test_a_smaller_copy_is_not_taken_for_the_picture(tmp_path):
    tiff(tmp_path / "a.tif", GREY.tobytes(), {254: (4, 1)})
    refused(tmp_path / "a.tif", "begins with a smaller copy", [*READERS, look])
    tiff(tmp_path / "b.tif", GREY.tobytes(), {32997: (4, 5)})
    refused(tmp_path / "b.tif", "has 5 pages", [*READERS, look])


def test_what_a_tiff_says_of_the_exposure_and_the_place_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(COLOUR).save(tmp_path / "a.tif", exif=exif.tobytes())
    write_picture(tmp_path / "out.png", read_picture(tmp_path / "a.tif"))
    with Image.open(tmp_path / "out.png") as out:
        found = out.getexif()
    assert found[0x010F] == "Maker" and found.get_ifd(0x8825)[1] == "N"
    assert found.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"


def test_a_resolution_that_no_file_says_is_not_invented(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").dpi is None
    Image.fromarray(COLOUR).save(tmp_path / "b.tif", dpi=(300, 300))
    assert read_picture(tmp_path / "b.tif").dpi == (300, 300)


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_grey_that_is_transparent_is_so_at_every_depth(tmp_path, bits):
    values = GREY.astype(np.uint32) * (2**bits - 1) // GREY.max()
    key = int(values[HEIGHT // 2, WIDTH // 2])
    if bits == 16:
        rows = values.astype(">u2").view(np.uint8)
    else:
        planes = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(planes.astype(np.uint8).reshape(HEIGHT, -1), 1)
    png(tmp_path / "a.png", [row.tobytes() for row in rows], bits, 0, [(b"tRNS", struct.pack(">H", key))])
    picture = read_picture(tmp_path / "a.png")
    assert picture.channels == 1 and picture.grey and picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, values == key)
    assert np.array_equal(picture.alpha == np.iinfo(picture.alpha.dtype).max, values != key)
    assert np.array_equal(picture.rgb[..., 0] * (2**bits - 1.0) // picture.rgb.max(), values)
    if bits < 16:
        refused(tmp_path / "a.png", "transparent in places", [read_rgb])


def test_the_colour_that_is_transparent_is_so_in_16_bits(tmp_path):
    deep = COLOUR.astype(">u2") * 257
    extra = [(b"tRNS", struct.pack(">3H", *deep[3, 4].tolist()))]
    png(tmp_path / "a.png", [row.tobytes() for row in deep], 16, 2, extra)
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.rgb, deep)
    assert np.array_equal(picture.alpha == 0, (deep == deep[3, 4]).all(2))


def adam7(pixels):
    "The rows of an interlaced PNG"
    steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::down, left::right] for top, left, down, right in steps]
    return [row.tobytes() for part in parts for row in part if row.size]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("height", [1, 2, HEIGHT])
def test_a_png_that_lacks_rows_is_refused(tmp_path, height, interlaced, read):
    "Its checksums are right, and Pillow makes black ones of those that are not there"
    pixels = COLOUR[:height]
    rows = adam7(pixels) if interlaced else [row.tobytes() for row in pixels]
    size = (WIDTH, height)
    png(tmp_path / "a.png", rows, 8, 2, interlaced=interlaced, size=size)
    assert np.array_equal(
        read(tmp_path / "a.png").rgb if read is read_picture else read(tmp_path / "a.png"), pixels
    )
    for fewer in {1, len(rows) // 2} - {0}:
        png(tmp_path / "b.png", rows[:-fewer], 8, 2, interlaced=interlaced, size=size)
        refused(tmp_path / "b.png", "holds fewer rows than it says|truncated", [read])
    black = [bytes(len(row)) for row in rows]
    png(tmp_path / "c.png", black, 8, 2, interlaced=interlaced, size=size)
    read(tmp_path / "c.png")  # one that is black in earnest


def test_the_size_of_a_png_is_asked_before_its_checksums(tmp_path):
    png(tmp_path / "a.png", [row.tobytes() for row in COLOUR], 8, 2)
    os.truncate(tmp_path / "a.png", 60)  # within its pixels
    os.truncate(tmp_path / "a.png", 2**31 + 1)
    refused(tmp_path / "a.png", "a picture has at most 2,147,483,648 here")


# Colours that are not told by a profile


@pytest.mark.parametrize(
    "name, data, told",
    [
        (b"gAMA", struct.pack(">I", 100000), True),
        (b"gAMA", struct.pack(">I", 45455), False),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), True),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), False),
        (b"cICP", bytes([9, 16, 0, 1]), True),
        (b"cICP", bytes([1, 13, 0, 1]), False),
    ],
)
def test_other_colours_are_told(tmp_path, name, data, told):
    png(tmp_path / "a.png", [row.tobytes() for row in COLOUR], 8, 2, [(name, data)])
    picture = read_picture(tmp_path / "a.png")
    wanted = (f"read as sRGB, though its {name.decode()} says that its colours are others",)
    assert picture.notes == (wanted if told else ())


def test_an_avif_of_other_colours_is_told(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.avif")
    data = (tmp_path / "a.avif").read_bytes()
    at = data.index(b"colrnclx") + 8
    assert read_picture(tmp_path / "a.avif").notes == ()
    (tmp_path / "b.avif").write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    assert "its nclx says" in read_picture(tmp_path / "b.avif").notes[0]


def test_adobe_rgb_as_cameras_say_it_is_told(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", exif=exif)
    assert "its EXIF (Adobe RGB) says" in read_picture(tmp_path / "a.jpg").notes[0]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOUR).save(tmp_path / "b.jpg", exif=exif, icc_profile=srgb)
    assert read_picture(tmp_path / "b.jpg").notes == ()


def test_damage_to_exif_is_passed_over_and_what_is_no_damage_is_not(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = 7  # a number where a table should be
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").rgb.shape == COLOUR.shape
    with Image.open(tmp_path / "a.jpg") as image:
        for error in (SyntaxError, KeyError, IndexError, struct.error, OSError, ValueError):
            monkeypatch.setattr(image, "getexif", lambda error=error: (_ for _ in ()).throw(error))
            assert pictures._colours_said(tmp_path / "a.jpg", image, "JPEG") == []
        for error in (MemoryError, AttributeError, NameError):
            monkeypatch.setattr(image, "getexif", lambda error=error: (_ for _ in ()).throw(error))
            with pytest.raises(error):
                pictures._colours_said(tmp_path / "a.jpg", image, "JPEG")


def with_xmp(data, text):
    "A JPEG with XMP before its other parts"
    part = b"http://ns.adobe.com/xap/1.0/\0" + text
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + data[2:]


MP4 = (
    struct.pack(">I", 24) + b"ftypmp42" + bytes(4) + b"isommp42" + struct.pack(">I", 16) + b"mdat" + bytes(8)
)
CLIPS = {
    "behind it": lambda data: data + MP4,
    "behind a trailer": lambda data: data + b"\0\0\x30\x0aMotionPhoto_Data" + MP4,
    "XMP, MotionPhoto": lambda data: with_xmp(
        data, b'<x GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"/>'
    ),
    "XMP, MicroVideo": lambda data: with_xmp(data, b"<GCamera:MicroVideo>1</GCamera:MicroVideo>"),
}


@pytest.mark.parametrize("how", CLIPS)
def test_the_clip_of_a_motion_photo_is_told(tmp_path, how):
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=20)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(CLIPS[how](data))
    picture = read_picture(tmp_path / "in/a.jpg")
    assert picture.notes == ("is a motion photo, of which the picture is read: its clip is left out",)
    assert np.array_equal(picture.rgb, read_picture(tmp_path / "a.jpg").rgb)


def test_enhance_says_that_a_clip_is_left_out_and_nothing_of_a_photo_without_one(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=20)
    data = (tmp_path / "a.jpg").read_bytes()
    still = with_xmp(data, b'<x GCamera:MotionPhoto="0" GCamera:MotionPhotoVersion="1"/>')
    for name, content, times in (("still", still + b"\0ftypmp42", 0), ("moving", data + MP4, 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(content)
        done = CliRunner().invoke(app, ["enhance", str(tmp_path / name), "-o", str(tmp_path / f"{name}-out")])
        assert done.exit_code == 0 and done.output.count("its clip is left out") == times, done.output


def test_a_paletted_png_without_its_palette_is_refused(tmp_path):
    indices = [row.tobytes() for row in GREY]
    png(tmp_path / "a.png", indices, 8, 3)
    refused(tmp_path / "a.png", "lacks the palette of its colours", [*READERS, look])
    colours = bytes(range(256)) * 3
    png(tmp_path / "b.png", indices, 8, 3, [(b"PLTE", colours)])
    table = np.frombuffer(colours, np.uint8).reshape(256, 3)
    assert np.array_equal(read_picture(tmp_path / "b.png").rgb, table[GREY])


def grey_profile():
    "A profile for grey pictures, of gamma 1.8"
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none" + bytes(4)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"Grey\0" + bytes(79)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 461) + bytes(2)
    parts = [(b"desc", name), (b"cprt", text), (b"wtpt", white), (b"kTRC", curve)]
    at, table, data = 132 + 12 * len(parts), b"", b""
    for tag, part in parts:
        table += tag + struct.pack(">II", at + len(data), len(part))
        data += part
    head = struct.pack(">I", at + len(data)) + bytes(4) + struct.pack(">I", 0x02400000) + b"mntrGRAYXYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(parts)) + table + data


def test_a_profile_for_grey_takes_no_colours_away(tmp_path):
    rgb, note = to_srgb(COLOUR, grey_profile())
    assert np.array_equal(rgb, COLOUR) and "it is one for grey pictures" in note
    grey = np.dstack([GREY] * 3)
    rgb, note = to_srgb(grey, grey_profile())
    assert note.startswith("converted from Grey") and (rgb != grey).any()
    Image.fromarray(COLOUR).save(tmp_path / "a.png", icc_profile=grey_profile())
    assert np.array_equal(read_rgb8(tmp_path / "a.png"), COLOUR)


# Other formats


@pytest.mark.parametrize(
    "head, data",
    [
        ("P6 40 24 255", COLOUR.tobytes()),
        ("P5 40 24 255", GREY.tobytes()),
        ("P5 40 24 100", (GREY // 3).tobytes()),
        ("P5 40 24 65535", (GREY.astype(">u2") * 257).tobytes()),
        ("P6 40 24 1000", (COLOUR.astype(">u2") * 3).tobytes()),
        ("P4 40 24", np.packbits(GREY > 90, 1).tobytes()),
    ],
)
def test_a_ppm_of_several_pictures_is_refused(tmp_path, head, data):
    one = head.encode() + b"\n" + data
    (tmp_path / "a.ppm").write_bytes(one)
    assert read_picture(tmp_path / "a.ppm").rgb.shape == (HEIGHT, WIDTH, 3)
    (tmp_path / "b.ppm").write_bytes(one + b"\n")
    assert read_picture(tmp_path / "b.ppm").rgb.shape == (HEIGHT, WIDTH, 3)
    (tmp_path / "c.ppm").write_bytes(one + one)
    refused(tmp_path / "c.ppm", "has several pictures", [*READERS, look])


def test_a_name_that_is_too_long_for_its_output_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "x" * 251):
        Image.fromarray(COLOUR).save(tmp_path / "in" / f"{name}.png")
    with pytest.raises(QebiasError, match="x.avif is too long for a file's name: rename"):
        files.compress_files([tmp_path / "in"], Avif(30), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def bpg_with(data, *parts):
    "A BPG file that carries more: (number of a kind, bytes)"

    def ue7(value):
        digits = [value & 127]
        while value := value >> 7:
            digits.append(value & 127 | 128)
        return bytes(reversed(digits))

    more = b"".join(ue7(kind) + ue7(len(part)) + part for kind, part in parts)
    at = 6
    for _ in range(3):
        while data[at] & 128:
            at += 1
        at += 1
    return data[:5] + bytes([data[5] | 8]) + data[6:at] + ue7(len(more)) + more + data[at:]


def test_what_a_bpg_file_carries_is_kept(tmp_path):
    data = Bpg(20).encode(COLOUR)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "a.bpg").write_bytes(data)
    (tmp_path / "b.bpg").write_bytes(bpg_with(data, (1, exif.tobytes()), (2, srgb), (3, b"<x/>")))
    plain, picture = (read_picture(tmp_path / name) for name in ("a.bpg", "b.bpg"))
    assert np.array_equal(picture.rgb, np.rot90(plain.rgb, -1)) and picture.icc == srgb
    assert look(tmp_path / "b.bpg")[:2] == (HEIGHT, WIDTH)
    write_picture(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as out:
        assert out.getexif()[0x010F] == "Maker" and out.getexif()[0x0112] == 1
    (tmp_path / "c.bpg").write_bytes(bpg_with(data, (1, b"")).replace(b"\x02\x01\x00", b"\x02\x01\x7f", 1))
    picture = read_picture(tmp_path / "c.bpg")
    assert np.array_equal(picture.rgb, plain.rgb) and "left out" in picture.notes[0]
