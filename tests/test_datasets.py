"What does not read well in nbs/data/10_datasets.ipynb: awkward folders, duplicates, real photographs"

import dataclasses
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from pathlib import Path
from time import sleep as pause  # tests replace time.sleep, the server must not notice

import numpy as np
import pytest
from PIL import Image

from qebias import datasets
from qebias.core import LockedError, QebiasError, locked, project_root, write_png
from qebias.datasets import (
    COLLECTIONS,
    SAMPLE,
    SOURCES,
    Archive,
    Part,
    RawImage,
    data_folders,
    data_status,
    download,
    load_dataset,
    own_split,
    split_by_content,
)


def picture(seed, h=12, w=10):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def names(images):
    return [i.name for i in images]


def content(images):
    return {i.digest for i in images}


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("b.png", "a.png", "sub/c.png")):
        write_png(tmp_path / name, picture(k))
    return tmp_path


def test_no_torch_at_import():
    heavy = {"torch", "skimage", "pandas", "matplotlib"}
    code = f"import sys, qebias.datasets; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sample_is_in_the_wheel_and_never_downloaded(monkeypatch):
    import socket

    def refuse(*a, **k):
        raise AssertionError("the sample went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = load_dataset("sample")
    assert names(images) == [*SAMPLE["train"], *SAMPLE["eval"]]
    assert all(i().dtype == np.uint8 and i().shape == i.shape + (3,) for i in images)
    assert len(content(images)) == 5


def test_sample_missing_from_the_wheel(monkeypatch, tmp_path):
    import skimage

    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(QebiasError, match="has no astronaut.png in its wheel: pip install"):
        load_dataset("sample")


def test_folder_is_sorted_whatever_the_disk_says(folder, monkeypatch):
    expected = names(load_dataset(f"folder:{folder}"))
    assert expected == ["a", "b", "sub__c"]
    walk = os.walk

    def backwards(*a, **k):
        for here, below, files in walk(*a, **k):
            below.reverse()
            yield here, below, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert names(load_dataset(f"folder:{folder}")) == expected


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert names(load_dataset("folder:~/sub")) == ["c"]
    assert names(load_dataset("folder:~")) == ["a", "b", "sub__c"]


def test_links_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_png(elsewhere / "far.png", picture(9))
    (folder / "link").symlink_to(elsewhere)
    (folder / "sub/loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(elsewhere / "nothing.png")
    with pytest.warns(UserWarning, match="1 of 5 pictures .*gone.png is a link that leads nowhere"):
        found = load_dataset(f"folder:{folder}", on_error="skip")
    assert names(found) == ["a", "b", "link__far", "sub__c"]


def test_hidden_and_foreign_files_are_left_out(folder):
    (folder / ".cache").mkdir()
    write_png(folder / ".cache/thumb.png", picture(5))
    (folder / "a.txt").write_text("x")
    (folder / "film.mp4").write_bytes(b"x")
    assert names(load_dataset(f"folder:{folder}")) == ["a", "b", "sub__c"]


@pytest.mark.parametrize("name", ["ein Bild", "фото", "a'b", "50%", "x.y.z"])
def test_any_name(tmp_path, name):
    write_png(tmp_path / f"{name}.png", picture(0))
    (image,) = load_dataset(f"folder:{tmp_path}")
    assert image.name == name and np.array_equal(image(), picture(0))


def test_deep_paths_get_names_that_a_disk_takes(tmp_path):
    deep = tmp_path / "/".join(["n" * 50] * 6)
    deep.mkdir(parents=True)
    for k in range(2):
        write_png(deep / f"{k}.png", picture(k))
    found = names(load_dataset(f"folder:{tmp_path}"))
    assert len(set(found)) == 2 and max(map(len, found)) < 200


def test_colliding_names_are_told_apart(tmp_path):
    for k, name in enumerate(("p.png", "q/r.png", "q__r.png", "P.png")):
        write_png(tmp_path / name, picture(k))
    found = names(load_dataset(f"folder:{tmp_path}"))
    assert len({n.casefold() for n in found}) == 4
    assert found == names(load_dataset(f"folder:{tmp_path}"))


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda p: p.write_bytes(b""), "no picture that can be read"),
        (lambda p: p.write_bytes(b"GIF89a" + bytes(50)), "bad.png"),
        (lambda p: Image.fromarray(np.zeros((4, 4), np.float32)).save(p, "TIFF"), "32 bits a channel"),
        (lambda p: Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(p), "transparent in places"),
        (lambda p: p.write_bytes((p.parent / "a.png").read_bytes()[:-40]), "bad.png"),
    ],
)
def test_what_cannot_be_read_is_named(folder, make, why):
    make(folder / "bad.png")
    with pytest.raises(QebiasError, match=why) as error:
        load_dataset(f"folder:{folder}")
    assert (
        "\n" not in str(error.value)
        and "1 of 4 pictures" in str(error.value)
        and "--skip" not in str(error.value)  # which not every command has
    )
    with pytest.warns(UserWarning) as caught:
        found = load_dataset(f"folder:{folder}", on_error="skip")
    assert names(found) == ["a", "b", "sub__c"] and len(caught) == 1 and "bad.png" in str(caught[0].message)
    (folder / "bad.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"folder:{folder}", on_error="skip")


def test_of_one_name_the_lossless_file_counts_and_what_is_left_out_is_said(tmp_path):
    for k, name in enumerate(("p.png", "p.bmp", "q.bpg", "q.jpg")):
        write_png(tmp_path / name, picture(k))
    (tmp_path / "r.heic").touch()
    with pytest.warns(UserWarning) as caught:
        found = load_dataset(f"folder:{tmp_path}")
    assert names(found) == ["p", "q"] and np.array_equal(found[0](), picture(0))
    said = [str(warning.message) for warning in caught]
    assert any("left out p.bmp" in line for line in said) and any("r.heic" in line for line in said)


def test_pictures_of_other_depth_and_colour_are_converted_and_said(tmp_path):
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.warns(UserWarning, match="deep: 16 bits rounded to 8"):
        (image,) = load_dataset(f"folder:{tmp_path}")
    assert image()[0, 0].tolist() == [156] * 3


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path):
    for k in range(30):
        (tmp_path / f"{k}.png").write_bytes(b"no")
    with pytest.raises(QebiasError, match="30 of 30 pictures .*; and 10 more. Nothing is left"):
        load_dataset(f"folder:{tmp_path}", on_error="skip")


def test_grey_is_rgb(tmp_path):
    Image.fromarray(picture(0)[..., 0]).save(tmp_path / "g.png")
    (image,) = load_dataset(f"folder:{tmp_path}")
    assert image().shape == (12, 10, 3)


@pytest.mark.parametrize(
    "spec, why",
    [
        ("", "unknown data set ''"),
        ("Sample", "unknown data set 'Sample': use sample or folder:PATH"),
        ("div2k:1-9", "div2k takes nothing after it"),
        ("flickr2k:x", "write flickr2k:FIRST-LAST"),
        ("flickr2k:9-1", "write flickr2k:FIRST-LAST"),
        ("flickr2k:1-2650", "leave some to train on"),
        ("flickr2k:5-2651", "within 1-2650"),
        ("DIV2K", "unknown data set"),
        ("sample:x", "sample takes nothing after it"),
        ("folder:", "needs a path"),
        ("folder:   ", "does not exist"),
        ("folder:~nobody-of-that-name/x", "does not exist"),
        ("folder:" + "x" * 5000, "does not exist"),
        ("x" * 5000, "unknown data set"),
    ],
)
def test_bad_specs_are_one_line(spec, why):
    with pytest.raises(QebiasError, match=why) as error:
        load_dataset(spec)
    assert "\n" not in str(error.value)


def test_bad_options():
    with pytest.raises(QebiasError, match="unknown on_error 'ignore'"):
        load_dataset("sample", on_error="ignore")
    with pytest.raises(QebiasError, match="unknown split 'valid'"):
        load_dataset("sample", "valid")


def test_registry_lists_what_exists():
    assert [s.usage.split(":")[0].split("[")[0] for s in SOURCES.values()] == list(SOURCES) and set(
        COLLECTIONS
    ) < set(SOURCES)


def test_a_copy_in_another_format_stays_on_the_same_side(tmp_path):
    for k in range(10):
        write_png(tmp_path / f"p{k}.png", picture(k))
        Image.fromarray(picture(k)).save(tmp_path / f"copy of {9 - k}.webp", lossless=True, exact=True)
    train, held_out = split_by_content(load_dataset(f"folder:{tmp_path}"), 0.3)
    assert (len(train), len(held_out)) == (14, 6) and not content(train) & content(held_out)


@pytest.mark.parametrize("seed", range(5))
def test_split_knows_neither_names_nor_order(seed):
    rng = np.random.default_rng(seed)
    images = [RawImage(f"n{k}", lambda k=k: picture(k)) for k in range(15)]
    shuffled = [RawImage(f"m{j}", images[k].load) for j, k in enumerate(rng.permutation(15))]
    for fraction in (0.1, 0.5, 0.9):
        assert [content(s) for s in split_by_content(images, fraction, seed)] == [
            content(s) for s in split_by_content(shuffled, fraction, seed)
        ]


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_both_sides_have_something_and_nothing_is_lost(count, fraction):
    images = [RawImage(f"n{k}", lambda k=k: picture(k)) for k in range(count)]
    train, held_out = split_by_content(images, fraction)
    assert train and held_out and sorted(names(train + held_out)) == sorted(names(images))


def test_split_names_what_cannot_be_read(tmp_path):
    write_png(tmp_path / "a.png", picture(0))
    write_png(tmp_path / "b.png", picture(1))
    images = load_dataset(f"folder:{tmp_path}")
    fresh = [RawImage(i.name, i.load) for i in images]
    (tmp_path / "b.png").unlink()
    with pytest.raises(QebiasError, match="1 of 2 pictures cannot be read: .*b.png does not exist"):
        split_by_content(fresh)


def test_pictures_travel_to_other_processes(folder):
    images = load_dataset(f"folder:{folder}")
    assert [np.array_equal(pickle.loads(pickle.dumps(i))(), i()) for i in images] == [True] * 3


@pytest.fixture
def real():
    if not (found := os.environ.get("QEBIAS_DATA")) or not (Path(found) / "kodak24").is_dir():
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    return Path(found) / "kodak24"


def test_kodak(real):
    images = load_dataset(f"folder:{real}")
    assert len(images) == 24 and {i.shape for i in images} == {(512, 768), (768, 512)}
    train, held_out = split_by_content(images)
    assert (len(train), len(held_out)) == (19, 5)


# DIV2K and Flickr2K: small ones, published by a server on this machine


def png(k, side=24):
    file = io.BytesIO()
    Image.fromarray(picture(k, side, side)).save(file, "png")
    return file.getvalue()


def zipped(names, **kwargs):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **kwargs) as box:
        for k, name in names:
            box.writestr(name, png(k))
    return file.getvalue()


def tarred(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as box:
        for k, name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content := png(k))
            box.addfile(entry, io.BytesIO(content))
    return file.getvalue()


class Publisher(http.server.ThreadingHTTPServer):
    """Serves `site`; `cut` ends every connection after so many bytes, `pause` waits after each kilobyte, and
    `ranges` may be switched off"""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.site, self.log, self.cut, self.pause, self.ranges, self.etag, self.status = (
            {},
            [],
            None,
            0,
            True,
            '"1"',
            200,
        )
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET(False)

    def do_GET(self, body=True):
        s = self.server
        content = s.site.get(self.path)
        begin = (
            int(self.headers.get("Range", "bytes=0-")[6:-1])
            if s.ranges and self.headers.get("If-Range", s.etag) == s.etag
            else 0
        )
        s.log.append((self.command, self.path, begin))
        if isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
            return
        if content is None or s.status != 200:
            self.send_error(s.status if content else 404)
            return
        if begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        if s.etag:
            self.send_header("ETag", s.etag)
        self.end_headers()
        rest = content[begin:][: s.cut] if body else b""
        for k in range(0, len(rest), 1024):
            try:
                self.wfile.write(rest[k : k + 1024])
                self.wfile.flush()
            except OSError:
                return
            pause(s.pause)


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Publisher()
    yield server
    server.shutdown()
    server.server_close()


def archive(server, path, **other):
    content = server.site[path]
    return dataclasses.replace(
        Archive(server.url(path), len(content), "sha256:" + hashlib.sha256(content).hexdigest(), "the test"),
        **other,
    )


@pytest.fixture
def small(publisher, monkeypatch, tmp_path):
    """A DIV2K of six pictures and a Flickr2K of five, whose tar holds what it should not unpack; data go to
    tmp_path/data"""
    monkeypatch.setenv("QEBIAS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s = publisher.site
    s["/train.zip"] = zipped([(k, f"DIV2K_train_HR/{k:04d}.png") for k in range(1, 5)])
    s["/valid.zip"] = zipped(
        [(k, f"DIV2K_valid_HR/{k:04d}.png") for k in (5, 6)], compression=zipfile.ZIP_DEFLATED
    )
    s["/f.tar"] = tarred(
        [(k, f"Flickr2K/Flickr2K_HR/{k:06d}.png") for k in range(1, 6)]
        + [(9, "Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png"), (9, "../../escaped.png"), (9, "/tmp/x.png")]
    )
    s["/f.zip"] = zipped([(k, f"Flickr2K/{k:06d}.png") for k in range(1, 6)])
    div2k = dataclasses.replace(
        COLLECTIONS["div2k"],
        held_out=(5, 6),
        parts=(
            Part("DIV2K_train_HR", 1, 4, archive(publisher, "/train.zip"), 9000),
            Part("DIV2K_valid_HR", 5, 6, archive(publisher, "/valid.zip"), 5000),
        ),
    )
    flickr = dataclasses.replace(
        COLLECTIONS["flickr2k"],
        held_out=(4, 5),
        parts=(
            Part(
                "Flickr2K_HR",
                1,
                5,
                archive(publisher, "/f.tar", bytes=None, hash="md5:" + hashlib.md5(s["/f.tar"]).hexdigest()),
                9000,
                archive(publisher, "/f.zip", bytes=None),
            ),
        ),
    )
    monkeypatch.setitem(COLLECTIONS, "div2k", div2k)
    monkeypatch.setitem(COLLECTIONS, "flickr2k", flickr)
    return tmp_path / "data"


def below(folder):
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("origin.json", ".lock")
    )


def test_what_the_table_says_of_the_paper_s_data():
    div2k, flickr = COLLECTIONS["div2k"], COLLECTIONS["flickr2k"]
    assert [(p.first, p.last) for p in div2k.parts] == [(1, 800), (801, 900)] and div2k.held_out == (801, 900)
    assert [(p.first, p.last) for p in flickr.parts] == [(1, 2650)] and flickr.held_out == (1989, 2650)
    assert [p.archive.bytes for p in div2k.parts] == [3530603713, 448993893]


def test_a_missing_set_is_one_line_and_no_network(small, publisher):
    for spec in ("div2k", "flickr2k", "flickr2k:1-2"):
        with pytest.raises(QebiasError) as error:
            load_dataset(spec)
        text, name = str(error.value), spec.split(":")[0]
        assert (
            "\n" not in text
            and f"qebias data {name} --download" in text
            and "http://" in text
            and all(str(f) in text for f in data_folders())
        )
    data_status()
    assert publisher.log == []


def test_both_sets_arrive_and_divide(small, publisher, capfd):
    assert download("div2k") == small / "DIV2K" and download("flickr2k", progress=False) == small / "Flickr2K"
    assert below(small) == [f"DIV2K/DIV2K_train_HR/{k:04d}.png" for k in range(1, 5)] + [
        f"DIV2K/DIV2K_valid_HR/{k:04d}.png" for k in (5, 6)
    ] + [f"Flickr2K/Flickr2K_HR/{k:06d}.png" for k in range(1, 6)]
    assert names(load_dataset("div2k", "train")) == ["0001", "0002", "0003", "0004"] and names(
        load_dataset("div2k", "eval")
    ) == ["0005", "0006"]
    assert names(load_dataset("flickr2k", "eval")) == ["000004", "000005"] and names(
        load_dataset("flickr2k", "train")
    ) == ["000001", "000002", "000003"]
    assert names(load_dataset("flickr2k:2-3", "eval", on_error="later")) == ["000002", "000003"] and names(
        load_dataset("flickr2k:2-3", "train")
    ) == ["000001", "000004", "000005"]
    image = load_dataset("div2k", "eval")[0]
    assert (
        np.array_equal(image(), picture(5, 24, 24))
        and image.shape == (24, 24)
        and image.path.name == "0005.png"
    )
    assert [(r["state"], r["checked"]) for r in data_status("div2k")] == [
        ("present", "sha256 by the test")
    ] * 2 and data_status("flickr2k")[0]["checked"] == "md5 by the test"
    told = json.loads((small / "DIV2K/DIV2K_valid_HR/origin.json").read_text())
    assert told["files"] == {f"{k:04d}.png": len(png(k)) for k in (5, 6)} and told["archive"].endswith(
        "/valid.zip"
    )
    assert capfd.readouterr().out == "" and not list(small.parent.rglob("escaped.png"))
    publisher.log.clear()
    download("div2k")
    download("flickr2k")
    assert publisher.log == []


@pytest.mark.parametrize("cut, ranges", [(500, True), (5000, True), (None, False)])
def test_broken_connections_are_continued(small, publisher, monkeypatch, cut, ranges):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    publisher.cut, publisher.ranges = cut, ranges
    download("div2k", progress=False)
    begins = [b for _, path, b in publisher.log if path == "/train.zip"]
    size = len(publisher.site["/train.zip"])
    assert begins == list(range(0, size, cut or size)) and len(load_dataset("div2k")) == 6


CHILD = """
import sys, pickle
from qebias import datasets
datasets.COLLECTIONS["div2k"] = pickle.loads(bytes.fromhex(sys.argv[1]))
datasets.download("div2k", progress=True)
"""


def start():
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, pickle.dumps(COLLECTIONS["div2k"]).hex()],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_a_killed_download_goes_on_where_it_was(small, publisher):
    part = small / "DIV2K/train.zip.part"
    publisher.pause = 0.25
    child = start()
    wait_for(lambda: part.exists() and part.stat().st_size > 2000)
    child.kill()
    child.communicate()
    arrived = part.stat().st_size
    assert (
        child.returncode == -signal.SIGKILL
        and 2000 < arrived < len(publisher.site["/train.zip"])
        and not (small / "DIV2K/DIV2K_train_HR").exists()
    )
    publisher.pause = 0
    publisher.log.clear()
    child = start()
    child.communicate(timeout=60)
    assert (
        child.returncode == 0
        and publisher.log[0] == ("GET", "/train.zip", arrived)
        and len(publisher.log) == 2
    )
    assert len(load_dataset("div2k")) == 6 and below(small) == [
        f"DIV2K/DIV2K_{s}_HR/{k:04d}.png" for s, ks in (("train", range(1, 5)), ("valid", (5, 6))) for k in ks
    ]


def test_a_part_that_is_whole_is_not_asked_for_again(small, publisher, monkeypatch):
    (small / "DIV2K").mkdir(parents=True)
    (small / "Flickr2K").mkdir()
    for path, home in (("/train.zip", "DIV2K"), ("/valid.zip", "DIV2K"), ("/f.tar", "Flickr2K")):
        (small / home / f"{path[1:]}.part").write_bytes(publisher.site[path])
    download("div2k", progress=False)
    assert publisher.log == []
    download("flickr2k", progress=False)
    assert [c for c, _, _ in publisher.log] == ["HEAD"]


def test_killed_while_unpacking_leaves_no_half_folder(small, publisher, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(datasets.shutil, "copyfileobj", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            download("div2k", progress=False)
    leftover = small / "DIV2K/.DIV2K_train_HR-killed"
    leftover.mkdir()
    (leftover / "0001.png").write_bytes(b"x")
    assert (small / "DIV2K/train.zip.part").exists() and not (small / "DIV2K/DIV2K_train_HR").exists()
    publisher.log.clear()
    download("div2k", progress=False)
    assert [path for _, path, _ in publisher.log] == ["/valid.zip"] and not leftover.exists()


def test_another_file_at_the_address_begins_anew(small, publisher):
    (small / "DIV2K").mkdir(parents=True)
    (small / "DIV2K/train.zip.part").write_bytes(b"older" * 50)
    (small / "DIV2K/train.zip.etag").write_text('"0"')
    download("div2k", progress=False)
    assert publisher.log[0] == ("GET", "/train.zip", 0) and len(load_dataset("div2k")) == 6


def test_a_wrong_beginning_is_found_by_the_hash(small, publisher):
    (small / "DIV2K").mkdir(parents=True)
    (small / "DIV2K/train.zip.part").write_bytes(b"wrong" * 50)
    with pytest.raises(QebiasError, match="is not train.zip: expected sha256:.*; it was removed"):
        download("div2k", progress=False)
    assert below(small) == []
    download("div2k", progress=False)
    assert len(load_dataset("div2k")) == 6


def test_a_changed_size_is_refused_before_it_is_fetched(small, publisher):
    publisher.site["/train.zip"] += b"more"
    with pytest.raises(
        QebiasError,
        match="bytes now, not .*: its publisher has changed it; give the new file's hash with --hash",
    ):
        download("div2k", progress=False)
    assert below(small) == []


def test_a_user_s_hash_counts_alone(small, publisher):
    publisher.site["/f.tar"] = new = tarred([(k + 7, f"x/{k:06d}.png") for k in range(1, 6)])
    with pytest.raises(QebiasError, match="is not Flickr2K.tar|is not f.tar: expected md5"):
        download("flickr2k", progress=False)
    download("flickr2k", progress=False, known_hash=hashlib.sha256(new).hexdigest().upper())
    assert data_status("flickr2k")[0]["checked"] == "sha256 by the user"
    with pytest.raises(QebiasError, match="comes in 2 archives, and one hash was given"):
        download("div2k", known_hash="0" * 64)
    for bad in ("", "x" * 64, "sha1:" + "0" * 40, "sha256:" + "0" * 32, "md5:" + "0" * 64):
        if bad:
            with pytest.raises(QebiasError, match="is no hash"):
                download("div2k", known_hash=bad)


def test_the_mirror_only_when_asked(small, publisher, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    del publisher.site["/f.tar"]
    with pytest.raises(
        QebiasError,
        match="f.tar cannot be fetched .HTTP 404.: try again later, or take the mirror with --mirror",
    ):
        download("flickr2k", progress=False)
    assert {path for _, path, _ in publisher.log} == {"/f.tar"} and below(small) == []
    download("flickr2k", progress=False, mirror=True)
    assert len(load_dataset("flickr2k")) == 5


def test_a_redirected_download_is_continued_too(small, publisher, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    publisher.site["/elsewhere"], publisher.site["/train.zip"] = publisher.site["/train.zip"], "/elsewhere"
    publisher.cut = 5000
    download("div2k", progress=False)
    assert [b for _, path, b in publisher.log if path == "/elsewhere"] == [0, 5000] and len(
        load_dataset("div2k")
    ) == 6


@pytest.mark.parametrize("status, times", [(404, 1), (403, 1), (503, 3), (429, 3)])
def test_a_refusing_server_is_one_line(small, publisher, monkeypatch, status, times):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    publisher.status = status
    with pytest.raises(
        QebiasError, match=f"train.zip cannot be fetched .HTTP {status}.: try again later"
    ) as error:
        download("div2k", progress=False)
    assert len(publisher.log) == times and "\n" not in str(error.value)


def test_a_dying_server_keeps_what_has_arrived(small, publisher, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: setattr(publisher, "status", 503))
    publisher.cut = 3000
    with pytest.raises(
        QebiasError, match="3000 bytes are kept in .*train.zip.part, the same command goes on from there"
    ):
        download("div2k", progress=False)
    publisher.status, publisher.cut = 200, None
    publisher.log.clear()
    download("div2k", progress=False)
    assert publisher.log[0] == ("GET", "/train.zip", 3000)


def test_nobody_there(small, publisher, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: None)
    publisher.shutdown()
    publisher.server_close()
    with pytest.raises(
        QebiasError, match="train.zip cannot be fetched .*refused.*: try again later"
    ) as error:
        download("div2k", progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["div2k", "flickr2k"])
def test_room_is_asked_for_before_the_first_byte(small, publisher, monkeypatch, name):
    need = {
        "div2k": max(
            len(publisher.site["/train.zip"]) + 9000, 9000 + len(publisher.site["/valid.zip"]) + 5000
        ),
        "flickr2k": len(publisher.site["/f.tar"]) + 9000,
    }[name]
    free = need - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda f: shutil._ntuple_diskusage(10**12, 10**12, free))
    with pytest.raises(
        QebiasError,
        match=f"{name}'s archive and its pictures need .* MB in .*, and .* MB are free: "
        "make room, or choose another folder with --folder",
    ):
        download(name, progress=False)
    assert not [c for c, _, _ in publisher.log if c == "GET"] and below(small) == []
    free = need
    download(name, progress=False)


def test_a_folder_that_is_not_ours_is_not_touched(small, publisher):
    own = small / "DIV2K/DIV2K_train_HR"
    own.mkdir(parents=True)
    (own / "0001.png").write_bytes(png(1))
    (own / "notes.txt").write_text("mine")
    with pytest.raises(QebiasError, match="lacks 3 of 4 pictures, first 0002.png and is not ours to replace"):
        download("div2k", progress=False)
    assert sorted(p.name for p in own.iterdir()) == ["0001.png", "notes.txt"] and publisher.log == []
    with pytest.raises(QebiasError, match="DIV2K_train_HR lacks 3 of 4 pictures, first 0002.png: fix it"):
        load_dataset("div2k")


@pytest.mark.parametrize(
    "home, train, valid",
    [
        ("DIV2K", "DIV2K_train_HR", "DIV2K_valid_HR"),
        ("div2k", "DIV2K_train_HR", "DIV2K_valid_HR"),
        ("", "DIV2K_train_HR", "DIV2K_valid_HR"),
    ],
)
def test_own_copies_are_found_and_not_called_checked(small, publisher, home, train, valid):
    for folder, ks in ((train, range(1, 5)), (valid, (5, 6))):
        for k in ks:
            write_png(small / home / folder / f"{k:04d}.png", picture(k))
    assert len(load_dataset("div2k")) == 6 and [r["checked"] for r in data_status("div2k")] == ["", ""]
    download("div2k", progress=False)
    assert publisher.log == []


def test_the_test_part_alone_is_enough_to_evaluate(small):
    for k in (4, 5):
        write_png(small / f"flickr2k/{k:06d}.png", picture(k))
    assert names(load_dataset("flickr2k", "eval")) == ["000004", "000005"]
    with pytest.raises(QebiasError, match="flickr2k lacks 3 of 3 pictures|flickr2k is not in"):
        load_dataset("flickr2k", "train")
    assert data_status("flickr2k")[0]["state"] == "incomplete"


def test_truncated_pictures_are_found(small):
    download("div2k", progress=False)
    cut = small / "DIV2K/DIV2K_valid_HR/0005.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(QebiasError, match="holds 0005.png with .* bytes instead of"):
        load_dataset("div2k")
    (cut.parent / "origin.json").unlink()
    with pytest.raises(QebiasError, match="1 of 2 pictures in div2k cannot be read: .*0005.png"):
        load_dataset("div2k", "eval")
    with pytest.warns(UserWarning, match="They are left out"):
        assert names(load_dataset("div2k", "eval", "skip")) == ["0006"]
    cut.write_bytes(b"")
    with pytest.raises(QebiasError, match="holds 0005.png with 0 bytes"):
        load_dataset("div2k", "eval")


@pytest.mark.parametrize(
    "content, why",
    [
        (zipped([(k, f"{k:04d}.png") for k in (1, 2, 3)]), "holds no 0004.png, nor 0 others of 4"),
        (zipped([(k, f"{s}/{k:04d}.png") for k in range(1, 5) for s in "ab"]), "holds 0001.png twice"),
        (b"no archive at all" * 9, "train.zip cannot be unpacked"),
        (tarred([(k, f"{k:04d}.png") for k in range(1, 5)])[:9000], "train.zip cannot be unpacked"),
    ],
)
def test_wrong_archives(small, publisher, monkeypatch, content, why):
    publisher.site["/train.zip"] = content
    first, second = COLLECTIONS["div2k"].parts
    monkeypatch.setitem(
        COLLECTIONS,
        "div2k",
        dataclasses.replace(
            COLLECTIONS["div2k"],
            parts=(dataclasses.replace(first, archive=archive(publisher, "/train.zip")), second),
        ),
    )
    with pytest.raises(QebiasError, match=why) as error:
        download("div2k", progress=False)
    assert "\n" not in str(error.value) and not (small / "DIV2K/DIV2K_train_HR").exists()


def test_a_damaged_picture_in_a_zip(small, publisher, monkeypatch):
    content = bytearray(publisher.site["/train.zip"])
    content[content.find(b"IDAT") + 50] ^= 1
    publisher.site["/train.zip"] = bytes(content)
    with pytest.raises(QebiasError, match="is not train.zip"):
        download("div2k", progress=False)
    first, second = COLLECTIONS["div2k"].parts
    monkeypatch.setitem(
        COLLECTIONS,
        "div2k",
        dataclasses.replace(
            COLLECTIONS["div2k"],
            parts=(dataclasses.replace(first, archive=archive(publisher, "/train.zip")), second),
        ),
    )
    with pytest.raises(QebiasError, match="cannot be unpacked .Bad CRC-32"):
        download("div2k", progress=False)


def test_one_download_at_a_time(small, publisher):
    with locked(small / "DIV2K", "a download of div2k"):
        with pytest.raises(LockedError, match="another process has a download of div2k under way"):
            download("div2k", progress=False)
    assert publisher.log == []


def test_folders_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(QebiasError, match="choose another folder with --folder") as error:
        download("div2k", folder=tmp_path / "file", progress=False)
    assert "\n" not in str(error.value)
    for name in ("", "sample", "folder:x", "div"):
        with pytest.raises(QebiasError, match="to download: there are div2k, flickr2k"):
            download(name)


def test_another_folder(small, tmp_path, monkeypatch):
    assert download("div2k", folder=tmp_path / "other", progress=False) == tmp_path / "other/DIV2K"
    with pytest.raises(QebiasError, match="is not in"):
        load_dataset("div2k")
    assert [r["state"] for r in data_status("div2k", tmp_path / "other")] == ["present"] * 2
    monkeypatch.setenv("QEBIAS_DATA", str(tmp_path / "other"))
    assert len(load_dataset("div2k")) == 6


def test_the_paper_s_profile():
    "The paper's pictures, codecs, metrics and methods, and nothing of its networks and trainings changed"
    from qebias.methods import METHODS
    from qebias.metrics import METRICS
    from qebias.study.profile import load_profile, rows_of

    p = load_profile("paper")
    assert (p.train, p.evaluate) == ("div2k", {"div2k": "div2k", "flickr2k": "flickr2k"})
    assert own_split(p.train) and p.precision == "fp32" and not p.networks and not p.training
    assert p.codecs == {"bpg": [27, 32, 37, 42, 47], "jpeg": [10, 20, 30, 40, 50]}
    assert sorted(row.name for row in rows_of(p)) == sorted(METHODS)
    assert len(p.metrics) == 11 and set(p.metrics) <= set(METRICS)
    told = (project_root() / "nbs/study/profiles/paper.yaml").read_text()
    assert not [f for m in [*p.metrics, *p.distances] for f in METRICS[m].weights if f not in told]


def test_the_lab_s_profile(tmp_path):
    from qebias.study.preflight import resolve
    from qebias.study.profile import load_profile

    p = load_profile("lab")
    assert (p.precision, p.device, p.networks) == ("bf16", "cuda", {})
    given = resolve("lab", raw_train=tmp_path / "a", raw_eval=tmp_path / "b").profile
    assert given.train == f"folder:{tmp_path / 'a'}" and given.evaluate == {"b": f"folder:{tmp_path / 'b'}"}
