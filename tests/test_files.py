"Compress, enhance and score files: what is written, kept, and never replaced, and the memory it takes"

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from qebias import files
from qebias.codecs import Avif, Bpg, Jpeg
from qebias.core import QebiasError, read_rgb, write_png
from qebias.generators.arcnn import ARCNN
from qebias.pictures import Picture, read_picture, write_picture
from qebias.pretrained import chooser


def scene(k=0, height=40, width=56):
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin((x + 9 * k) / 5)], -1)
    return rgb.astype(np.uint8)


@pytest.fixture
def tree(tmp_path):
    for k, name in enumerate(("01", "x/01", "y/z/02")):
        write_png(tmp_path / "raw" / f"{name}.png", scene(k))
    return tmp_path


def psnr(folder, tree, **more):
    return files.score_files(
        folder, tree / "raw", ["psnr"], tree / f"{folder.name}.csv", progress=False, **more
    )


def content(folder):
    "Every file below a folder but our own lists: bytes and time"
    found = {}
    for path in sorted(p for p in folder.rglob("[!.]*") if p.is_file()):
        found[path.relative_to(folder).as_posix()] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


# A tree stays a tree, and the output of one command goes into the next


@pytest.mark.parametrize("codec", [Jpeg(30), Bpg(37), Avif(30)], ids=lambda c: c.name)
def test_compress_enhance_and_score_one_after_the_other(tree, codec):
    rows = files.compress_files([tree / "raw"], codec, tree / "comp", workers=1)
    assert [row[0] for row in rows] == ["01", "x/01", "y/z/02"]
    assert (tree / "comp" / f"y/z/02{codec.suffix}").is_file()
    written = files.enhance_files([tree / "comp"], ARCNN(), tree / "enh")
    assert written == [tree / "enh" / f"{name}.png" for name in ("01", "x/01", "y/z/02")]
    for folder in ("comp", "enh"):
        table = files.score_files(
            tree / folder, tree / "raw", ["psnr"], tree / f"{folder}.csv", progress=False
        )
        assert table.image.tolist() == ["01", "x/01", "y/z/02"]
    assert np.allclose(psnr(tree / "comp", tree).value, [row[3] for row in rows], atol=0.01)


def test_a_folder_of_bitstreams_alone(tree):
    files.compress_files([tree / "raw"], Bpg(37), tree / "comp", workers=1)
    for path in list((tree / "comp").rglob("*.png")):
        path.unlink()
    assert len(files.enhance_files([tree / "comp"], ARCNN(), tree / "enh")) == 3
    assert len(files.score_files(tree / "comp", tree / "raw", ["psnr"], tree / "s.csv", progress=False)) == 3


def test_bpg_of_one_pixel_is_refused_early_and_by_name(tree):
    write_png(tree / "raw" / "dot.png", scene()[:1, :1])
    with pytest.raises(QebiasError, match="dot.png has a side below 9 pixels"):
        files.compress_files([tree / "raw"], Bpg(37), tree / "comp", workers=1)
    assert not (tree / "comp").exists()
    done = files.compress_files([tree / "raw"], Bpg(37), tree / "comp", workers=1, skip=True)
    assert len(done) == 3 and done.failed[0][0] == "dot"
    assert len(files.compress_files([tree / "raw"], Jpeg(37), tree / "j", workers=1)) == 4


# It goes on where it was, and touches nothing that is not its own


def commands(tree):
    model = ARCNN()
    return {
        "compress": lambda out, **more: files.compress_files(
            [tree / "raw"], Jpeg(30), out, workers=1, **more
        ),
        "enhance": lambda out, **more: files.enhance_files([tree / "raw"], model, out, **more),
    }


@pytest.mark.parametrize("command", ["compress", "enhance"])
def test_a_second_run_makes_nothing_and_says_so(tree, command):
    run, out = commands(tree)[command], tree / "out"
    first = run(out)
    before = content(out)
    again = run(out)
    assert content(out) == before and list(again) == list(first)
    assert again.kept == ["01", "x/01", "y/z/02"] and "3 of 3 were complete and are kept" in again.lines()
    (out / "x/01.png").unlink()
    third = run(out)
    after = content(out)
    assert third.kept == ["01", "y/z/02"] and after["01.png"] == before["01.png"]
    assert after["x/01.png"][0] == before["x/01.png"][0]
    write_png(tree / "raw" / "01.png", scene(7))  # another picture of the same name
    assert run(out).kept == ["x/01", "y/z/02"] and content(out)["01.png"][0] != before["01.png"][0]


@pytest.mark.parametrize("command", ["compress", "enhance"])
@pytest.mark.parametrize("what", ["theirs", "changed", "flipped", "folder"])
def test_what_is_not_ours_is_never_replaced(tree, command, what):
    run, out = commands(tree)[command], tree / "out"
    if what in ("changed", "flipped"):
        run(out)
    path = out / "x" / "01.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "flipped":
        data = bytearray(path.read_bytes())
        data[-30] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"somebody's")
    before = content(out)
    with pytest.raises(QebiasError, match="01.png is (there and was not written by|a folder)") as error:
        run(out)
    assert "\n" not in str(error.value) and content(out) == before
    if what != "folder":
        run(out, overwrite=True)
        assert read_rgb(path).shape == (40, 56, 3)


def test_a_users_own_files_in_the_folder_stay(tree):
    (tree / "out" / "x").mkdir(parents=True)
    for name in ("notes.txt", "x/other.png", "events", ".hidden"):
        (tree / "out" / name).write_text("mine")
    files.compress_files([tree / "raw"], Jpeg(30), tree / "out", workers=1)
    for name in ("notes.txt", "x/other.png", "events", ".hidden"):
        assert (tree / "out" / name).read_text() == "mine"


KILLED = """
import os, sys
from pathlib import Path
from qebias import core, files
from qebias.codecs import Jpeg
left = int(sys.argv[2])
replace = os.replace
def counted(*names):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    replace(*names)
os.replace = counted
files.compress_files([Path(sys.argv[1]) / "raw"], Jpeg(30), Path(sys.argv[1]) / "out", workers=1)
"""


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_a_killed_run_goes_on(tree, after):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tree), str(after)], capture_output=True)
    assert done.returncode == -9
    files.compress_files([tree / "raw"], Jpeg(30), tree / "whole", workers=1)
    again = files.compress_files([tree / "raw"], Jpeg(30), tree / "out", workers=1)
    assert len(again.kept) == after // 2
    assert {k: v[0] for k, v in content(tree / "out").items()} == {
        k: v[0] for k, v in content(tree / "whole").items()
    }
    assert not list((tree / "out").rglob(".qebias-unfinished-*"))


def test_a_torn_list_of_outputs_costs_its_last_line_alone(tree):
    run, out = commands(tree)["compress"], tree / "out"
    run(out)
    listed = out / ".qebias-outputs.jsonl"
    listed.write_bytes(listed.read_bytes()[:-40])
    (out / "y/z/02.png").unlink()
    (out / "y/z/02.jpg").unlink()
    assert run(out).kept == ["01", "x/01"] and run(out).kept == ["01", "x/01", "y/z/02"]


# One bad picture


def test_a_bad_picture_does_not_stop_a_folder(tree):
    whole = (tree / "raw" / "x" / "01.png").read_bytes()
    (tree / "raw" / "x" / "bad.png").write_bytes(whole[: len(whole) // 2])  # a whole header
    (tree / "raw" / "text.jpg").write_text("no picture")
    with pytest.raises(QebiasError, match="text.jpg: no picture that can be read"):
        files.compress_files([tree / "raw"], Jpeg(30), tree / "never")
    for workers in (1, 2):
        done = files.compress_files([tree / "raw"], Jpeg(30), tree / f"c{workers}", workers, skip=True)
        assert [name for name, _ in done.failed] == ["text", "x/bad"] and len(done) == 3
        assert any(line.startswith("left out x/bad: ") and "bad.png" in line for line in done.lines())
    done = files.enhance_files([tree / "raw"], ARCNN(), tree / "e", skip=True)
    assert [name for name, _ in done.failed] == ["text", "x/bad"] and len(done) == 3
    table = files.score_files(tree / "raw", tree / "c1", ["psnr"], tree / "s.csv", progress=False, skip=True)
    assert table.image.tolist() == ["01", "x/01", "y/z/02"]
    assert {name for name, _ in table.attrs["failed"]} == {"text", "x/bad"}


def test_a_name_that_is_no_text_is_skipped_too(tree):
    whole = (tree / "raw" / "01.png").read_bytes()
    (tree / "raw" / os.fsdecode(b"odd\xff.png")).write_bytes(whole)
    with pytest.raises(QebiasError, match="has a name that is no text"):
        files.score_files(tree / "raw", None, ["psnr"], tree / "s.csv", progress=False)
    table = files.score_files(tree / "raw", tree / "raw", ["psnr"], tree / "s.csv", progress=False, skip=True)
    assert table.image.tolist() == ["01", "x/01", "y/z/02"] and len(table.attrs["failed"]) >= 1


def test_a_suffix_that_a_method_adds(tree):
    for name in ("01", "x/01", "y/z/02"):
        write_png(tree / "theirs" / f"{name}_out.png", scene(5))
    with pytest.raises(QebiasError, match="no counterpart in .* is given by --suffix"):
        files.score_files(tree / "theirs", tree / "raw", ["psnr"], tree / "s.csv")
    table = files.score_files(
        tree / "theirs", tree / "raw", ["psnr"], tree / "s.csv", suffix="_out", progress=False
    )
    assert table.image.tolist() == ["01", "x/01", "y/z/02"]


def test_what_a_picture_was_made_of_is_not_taken_for_it_beside_a_suffix(tree):
    "`01.png` sorts behind `01-out.png`, and its score stood in the table"
    for name in ("01", "x/01", "y/z/02"):
        write_png(tree / "mixed" / f"{name}.png", 255 - read_rgb(tree / "raw" / f"{name}.png"))
        write_png(tree / "mixed" / f"{name}-out.png", read_rgb(tree / "raw" / f"{name}.png"))
        write_png(tree / "mixed" / f"{name}_out.png", scene(7))
    table = psnr(tree / "mixed", tree, suffix="-out")
    assert table.value.tolist() == [80, 80, 80]  # of a picture with itself
    assert any(
        "has no -out behind its name: 01.png, 01_out.png, 01.png and 3 more" in line
        for line in table.attrs["notes"]
    )
    with pytest.raises(QebiasError, match="mixed: no picture's name ends in _x4, .* correct --suffix"):
        psnr(tree / "mixed", tree, suffix="_x4")


@pytest.mark.parametrize("ours, theirs", [("A", "a"), ("e\u0301", "\u00e9")])
def test_names_that_only_look_alike_are_told_apart(tmp_path, ours, theirs):
    write_png(tmp_path / "ours" / f"{ours}.png", scene())
    write_png(tmp_path / "raw" / f"{theirs}.png", scene())
    with pytest.raises(QebiasError) as told:
        psnr(tmp_path / "ours", tmp_path)
    assert f"no counterpart in {tmp_path}/raw: {ascii(theirs)} there is not {ascii(ours)}: name them" in str(
        told.value
    )


# What a picture carries comes out again


def test_a_folder_enhanced_into_itself_can_be_enhanced_again(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    (tmp_path / "a.jpg").write_bytes(Jpeg(20).encode(rgb))
    made = files.enhance_files([tmp_path], ARCNN(), tmp_path)
    assert [path.name for path in made] == ["a.png"]
    again = files.enhance_files([tmp_path], ARCNN(), tmp_path)  # other weights: the JPEG once more
    assert [path.name for path in again] == ["a.png"] and not again.kept
    write_png(tmp_path / "c.png", rgb)
    with pytest.raises(QebiasError, match="is an input and would be overwritten"):
        files.enhance_files([tmp_path / "c.png"], ARCNN(), tmp_path)


def test_skip_leaves_out_a_picture_for_which_there_is_no_network(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(Jpeg(20).encode(rgb))
    write_png(tmp_path / "in" / "shot.png", rgb)
    with pytest.raises(QebiasError, match="shot.png is neither JPEG nor BPG"):
        files.enhance_files([tmp_path / "in"], chooser(), tmp_path / "out")
    made = files.enhance_files([tmp_path / "in"], chooser(), tmp_path / "out", skip=True)
    assert [path.name for path in made] == ["a.png"] and [name for name, _ in made.failed] == ["shot"]
    with pytest.raises(QebiasError, match="none of 1 picture can be enhanced, first: .*shot.png"):
        files.enhance_files([tmp_path / "in" / "shot.png"], chooser(), tmp_path / "out", skip=True)


def test_an_enhanced_picture_is_the_same_picture(tmp_path):
    from test_pictures import profile

    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    (tmp_path / "in").mkdir()
    rgba = np.dstack([scene(), np.arange(40 * 56).reshape(40, 56).astype(np.uint8)])
    Image.fromarray(scene()).save(
        tmp_path / "in" / "photo.jpg", exif=exif, icc_profile=profile(True), dpi=(300, 300)
    )
    Image.fromarray(scene()[..., 0]).save(tmp_path / "in" / "grey.png")
    Image.fromarray(rgba).save(tmp_path / "in" / "glass.png")
    rng = np.random.default_rng(0)
    write_picture(
        tmp_path / "in" / "deep.png", Picture(rng.integers(0, 65536, (20, 30, 3), np.uint16), depth=16)
    )
    files.enhance_files([tmp_path / "in"], ARCNN(), tmp_path / "out")
    for name, source in {
        "photo": "photo.jpg",
        "grey": "grey.png",
        "glass": "glass.png",
        "deep": "deep.png",
    }.items():
        a, b = read_picture(tmp_path / "in" / source), read_picture(tmp_path / "out" / f"{name}.png")
        assert (a.grey, a.channels, a.depth, a.icc, a.exif) == (b.grey, b.channels, b.depth, b.icc, b.exif)
        assert a.rgb.shape == b.rgb.shape and a.rgb.dtype == b.rgb.dtype
        assert (a.alpha is None) == (b.alpha is None) and (
            a.alpha is None or np.array_equal(a.alpha, b.alpha)
        )
    deep = read_picture(tmp_path / "out" / "deep.png").rgb
    assert len(np.unique(deep % 257)) > 50  # not 8 bits spread out


def test_what_compress_had_to_convert_is_said(tmp_path):
    from test_pictures import profile

    (tmp_path / "in").mkdir()
    for k in range(2):
        Image.fromarray(scene(k)).save(tmp_path / "in" / f"{k}.png", icc_profile=profile(True))
    done = files.compress_files([tmp_path / "in"], Jpeg(90), tmp_path / "out", workers=1)
    assert any(line.startswith("2 pictures: converted from") for line in done.notes)
    assert done[0][3] > 25  # compared in sRGB on both sides


# Progress


@pytest.mark.parametrize("command", ["compress", "enhance"])
def test_progress_has_totals_and_a_time_to_go(tree, command):
    said = []
    commands(tree)[command](tree / "out", report=said.append)
    ends = [p for p in said if not p.part]
    assert [(p.done, p.total) for p in ends] == [(1, 3), (2, 3), (3, 3)]
    assert ends[0].left >= 0 and ends[-1].left == 0 and "to go" in str(ends[0])


# Memory: pictures at once are limited by their pixels


MEMORY = """
import resource, sys
from qebias import cli
sys.argv[0] = "qebias"
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(root, *command):
    "Gigabytes that a command took, its processes included"
    done = subprocess.run([sys.executable, "-c", MEMORY, *command], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.rpartition("peak ")[2]) / 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "3,000 small pictures and one of 100 megapixels, a photograph again and again with noise upon it"
    from qebias.datasets import load_dataset
    from qebias.generators.dncnn import DnCNN
    from qebias.networks import save_network

    root = tmp_path_factory.mktemp("memory")
    small, photo = scene(0, 48, 64), load_dataset("sample", "train")[0]()
    rng = np.random.default_rng(0)
    huge = np.tile(photo, (20, 20, 1))[:10_000, :10_000]
    for top in range(0, 10_000, 500):
        noise = rng.integers(-6, 7, (500, 10_000, 3))
        huge[top : top + 500] = np.clip(huge[top : top + 500] + noise, 0, 255)
    for folder in ("raw", "comp"):
        for k in range(3000):
            write_png(root / folder / f"{k % 50:02d}" / f"{k:04d}.png", np.roll(small, k, 1))
        write_png(root / folder / "huge.png", huge)
        huge[::3] ^= 3
    spec = {"class": "qebias.generators.dncnn:DnCNN", "kwargs": {"width": 8, "depth": 4}}
    save_network(root / "model.safetensors", DnCNN(8, 4), spec, {})
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "compress raw --codec jpeg --level 30 -o jpeg",
        "compress raw --codec bpg --level 42 -o bpg",
        "enhance comp --model model.safetensors -o enhanced",
        "enhance comp --model model.safetensors --tile 256 --halo 8 -o tiled",
        "score --images comp --raw raw --metric psnr,ssim,nlpd -o scores.csv",
    ],
    ids=["jpeg", "bpg", "enhance", "tiles", "score"],
)
def test_memory_of_many_small_pictures_and_a_huge_one(large, command):
    assert peak(large, *command.split()) < 3


def test_code_many_limits_the_pixels_under_way(monkeypatch):
    import threading

    from qebias import codecs

    monkeypatch.setattr(codecs, "MOST_UNDER_WAY", 100)
    loaded, taken = [], []
    lock = threading.Lock()

    def load(k):
        with lock:
            loaded.append(k)
            assert len(loaded) - len(taken) <= 3  # two under way, and the one that is being taken
        return scene(k)

    images = [lambda k=k: load(k) for k in range(12)]
    for k, _ in enumerate(codecs.code_many(images, Jpeg(30), 8, progress=False, costs=[50] * 12)):
        taken.append(k)
    assert len(taken) == 12


def test_the_first_word_comes_before_any_picture_is_decoded(tree, monkeypatch):
    "Headers alone are read at the door"
    monkeypatch.setattr(files, "read_picture", lambda path: pytest.fail("decoded"))
    monkeypatch.setattr(files, "read_rgb8", lambda path: pytest.fail("decoded"))
    picked, _ = files.pick([tree / "raw"])
    assert [(p.name, p.pixels) for p in picked] == [("01", 2240), ("x/01", 2240), ("y/z/02", 2240)]


def test_one_command_at_a_time_in_a_folder(tree):
    from qebias.core import LockedError, locked

    script = textwrap.dedent("""
        import sys, time
        from qebias.core import locked
        with locked(sys.argv[1]):
            print("mine", flush=True)
            time.sleep(60)
    """)
    (tree / "out").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tree / "out")], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        other.stdout.readline()
        with pytest.raises(LockedError, match="another process"):
            files.compress_files([tree / "raw"], Jpeg(30), tree / "out", workers=1)
    finally:
        other.kill()
        other.wait()
    with locked(tree / "out"):
        pass


def test_in_order_keeps_to_a_budget_of_pixels():
    import threading

    from qebias.core import in_order, threads

    lock, under_way, most = threading.Lock(), [0], [0]

    def work(cost):
        with lock:
            under_way[0] += cost
            most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.01)
        with lock:
            under_way[0] -= cost
        return cost

    costs = [30, 40, 50, 10, 10, 250, 10, 60, 60, 5]
    with threads(8) as pool:
        assert list(in_order(pool, work, costs, 8, lambda cost: cost, 100)) == costs
        assert most[0] <= 250  # the dearest alone
        assert list(in_order(pool, work, [60, 60, 60, 20], 8, lambda cost: cost, 100)) == [60, 60, 60, 20]
    most[0] = 0
    with threads(8) as pool:
        list(in_order(pool, work, [60, 60, 60, 20], 8, lambda cost: cost, 100))
    assert most[0] <= 100
