"What does not read well in nbs/data/20_pairs.ipynb: kills, rivals, damage, real photographs"

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qebias.codecs import CodecError, Jpeg
from qebias.core import QebiasError, array_digest, digest, read_json, write_json
from qebias.datasets import RawImage, load_dataset
from qebias.pairs import Pairs, PatchSampler, Pixels, batches, build_pairs, to_float


def picture(seed, h=40, w=56):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def make(count=3, h=40, w=56):
    return [RawImage(f"p{k}", lambda k=k: picture(k, h + k, w)) for k in range(count)]


def build(folder, images=None, codec=None, **options):
    return build_pairs(
        images or make(),
        codec or Jpeg(20),
        folder,
        workers=options.pop("workers", 1),
        progress=False,
        **options,
    )


def litter(folder):
    return [f.name for f in folder.iterdir() if f.name.startswith(".") and not f.name.endswith(".lock")]


class Wrapped:
    "A codec that does something before it encodes"

    name, level, suffix = "jpeg", 20, ".jpg"

    def __init__(self, before=lambda count: None, **described):
        self.before, self.count, self.described = before, 0, described

    def describe(self):
        return Jpeg(20).describe() | self.described

    def encode(self, rgb):
        self.count += 1
        self.before(self.count)
        return Jpeg(20).encode(rgb)

    def decode(self, data):
        return Jpeg(20).decode(data)


def test_no_torch_at_import():
    assert (
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, qebias.pairs\n"
                "sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))",
            ]
        ).returncode
        == 0
    )


def test_processes_write_what_one_process_writes(tmp_path):
    one, two = build(tmp_path / "a/jpeg-20"), build(tmp_path / "b/jpeg-20", workers=2)
    assert one.key == two.key and [one.stream(i) for i in range(3)] == [two.stream(i) for i in range(3)]
    one.verify()
    two.verify()


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_data_set(tmp_path, workers):
    def peak(count, size=192):
        tracemalloc.start()
        try:
            build(tmp_path / f"{count}/jpeg-20", make(count, size, size), workers=workers)
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most / (3 * size * (size + count))  # in pictures, the tallest of them

    peak(4)
    few, many = peak(12), peak(84)
    assert many < few + 5 and many < 20


@pytest.mark.parametrize("h, w", [(9, 9), (9, 40), (17, 31), (64, 64), (65, 33)])
def test_any_size(tmp_path, h, w):
    pairs = build(
        tmp_path / "d/jpeg-20",
        [RawImage("x", lambda: picture(0, h, w)), RawImage("y", lambda: picture(1, 16, 16))],
    )
    assert np.array_equal(pairs.raw(0), picture(0, h, w)) and np.array_equal(
        pairs.compressed(0), Jpeg(20).decode(Jpeg(20).encode(picture(0, h, w)))
    )
    assert np.array_equal(pairs.raw(1), picture(1, 16, 16)) and pairs.bpp(0) == 8 * pairs.nbytes(0) / (h * w)


def test_manifest_says_what_made_it(tmp_path):
    manifest = build(tmp_path / "d/jpeg-20").manifest
    assert (
        manifest["codec"] == json.loads(json.dumps(Jpeg(20).describe()))
        and manifest["provenance"]["packages"]["pillow"]
    )
    assert [e["name"] for e in manifest["images"]] == ["p0", "p1", "p2"] and str(tmp_path) not in json.dumps(
        manifest
    )


@pytest.mark.parametrize("size", [[0] * 10_000, {"a": 1}, "many", None, 1.5, True])
def test_a_manifest_whose_size_is_no_number_is_refused_in_a_line(tmp_path, size):
    folder = build(tmp_path / "d/jpeg-20").raw_folder
    manifest = read_json(folder / "manifest.json") | {"bytes": size}
    content = {name: value for name, value in manifest.items() if name != "digest"}
    write_json(folder / "manifest.json", content | {"digest": digest(content)})
    with pytest.raises(QebiasError, match="build it again") as told:
        Pixels(folder)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    "what",
    [
        "same",
        "version",
        "order",
        "name",
        "content",
        "fewer",
        "format",
        "broken",
        "no manifest",
        "raw gone",
        "raw cut",
    ],
)
def test_reused_only_when_everything_matches(tmp_path, what):
    folder, images, codec = tmp_path / "d/jpeg-20", make(), Wrapped()
    build(folder, images)
    if what == "version":
        codec = Wrapped(pillow="99")
    if what == "order":
        images = images[::-1]
    if what == "name":
        images[0].name = "other"
    if what == "content":
        images[0] = RawImage("p0", lambda: picture(77))
    if what == "fewer":
        images = images[:2]
    if what == "format":
        write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"format": 0})
    if what == "broken":
        (folder / "manifest.json").write_text("{")
    if what == "no manifest":
        (folder / "manifest.json").unlink()
    if what == "raw gone":
        shutil.rmtree(tmp_path / "d/raw")
    if what == "raw cut":
        os.truncate(tmp_path / "d/raw/pixels.bin", 100)
    pairs = build(folder, images, codec)
    assert codec.count == (0 if what in ("same", "raw gone", "raw cut") else len(images))
    assert pairs.names == [i.name for i in images]
    pairs.verify()
    assert not litter(tmp_path / "d")


def test_content_key_is_of_content(tmp_path):
    pairs = build(tmp_path / "a/jpeg-20")
    assert build(tmp_path / "b/jpeg-20", codec=Wrapped(pillow="99")).key == pairs.key
    renamed = [RawImage(f"q{k}", i.load) for k, i in enumerate(make())]
    assert build(tmp_path / "c/jpeg-20", renamed).key == pairs.key
    assert (
        len(
            {
                build(tmp_path / "d/jpeg-20", make()[::-1]).key,
                build(tmp_path / "d/jpeg-30", codec=Jpeg(30)).key,
                pairs.key,
            }
        )
        == 3
    )


def test_raw_is_stored_once(tmp_path):
    loads = []
    images = [RawImage(f"p{k}", lambda k=k: (loads.append(k), picture(k))[1]) for k in range(3)]
    for quality in (10, 20, 30):
        build(tmp_path / f"d/jpeg-{quality}", images, Jpeg(quality))
    assert len(loads) == 6  # once to know them, once to store them
    assert sorted(f.name for f in (tmp_path / "d").iterdir() if not f.name.startswith(".")) == [
        "jpeg-10",
        "jpeg-20",
        "jpeg-30",
        "raw",
    ]


def test_a_failing_picture_is_named_and_leaves_nothing(tmp_path):
    def fail(count):
        if count == 2:
            raise CodecError("no luck")

    with pytest.raises(QebiasError, match="p1"):
        build(tmp_path / "d/jpeg-20", codec=Wrapped(fail))
    assert not (tmp_path / "d/jpeg-20").exists() and not litter(tmp_path / "d")
    build(tmp_path / "d/jpeg-20").verify()


def test_a_failed_rebuild_keeps_the_old_store(tmp_path):
    key = build(tmp_path / "d/jpeg-20").key

    def fail(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "d/jpeg-20", codec=Wrapped(fail, pillow="99"))
    assert Pairs(tmp_path / "d/jpeg-20").key == key and not litter(tmp_path / "d")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*a):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        QebiasError, match=r"cannot build .*raw .*No space left on device.*free some space"
    ) as error:
        build(tmp_path / "d/jpeg-20")
    assert "\n" not in str(error.value) and not (tmp_path / "d/raw").exists() and not litter(tmp_path / "d")


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "d").write_text("in the way")
    with pytest.raises(QebiasError, match="cannot build"):
        build(tmp_path / "d/jpeg-20")


def test_raw_is_no_name_for_pairs(tmp_path):
    with pytest.raises(QebiasError, match="give the pairs another name"):
        build(tmp_path / "d/raw")


def test_a_codec_that_changes_the_size_is_refused(tmp_path):
    class Cropping(Wrapped):
        def decode(self, data):
            return np.ascontiguousarray(super().decode(data)[1:])

    with pytest.raises(QebiasError):
        build(tmp_path / "d/jpeg-20", codec=Cropping())
    assert not (tmp_path / "d/jpeg-20").exists()


@pytest.mark.parametrize(
    "file, index", [("raw/pixels.bin", 5), ("jpeg-20/pixels.bin", -5), ("jpeg-20/streams/p1.jpg", 30)]
)
def test_one_changed_bit_is_found(tmp_path, file, index):
    pairs = build(tmp_path / "d/jpeg-20")
    pairs.verify()
    data = bytearray((tmp_path / "d" / file).read_bytes())
    data[index] ^= 4
    (tmp_path / "d" / file).write_bytes(data)
    with pytest.raises(QebiasError, match="remove .* build it again") as error:
        Pairs(tmp_path / "d/jpeg-20").verify()
    assert {"raw/pixels.bin": "p0", "jpeg-20/pixels.bin": "p2", "jpeg-20/streams/p1.jpg": "p1"}[file] in str(
        error.value
    )


def test_sixty_flipped_bits_are_noticed_by_whoever_reads_the_store(tmp_path):
    build(tmp_path / "d/jpeg-20")
    where = np.random.default_rng(0)
    for name in ("raw/pixels.bin", "jpeg-20/pixels.bin", "raw/manifest.json", "jpeg-20/manifest.json"):
        file = tmp_path / "d" / name
        whole = file.read_bytes()
        for bit in where.integers(0, 8 * len(whole), 15):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << int(bit) % 8
            file.write_bytes(data)
            with pytest.raises(QebiasError, match="build it again|broken|JSON|json"):
                PatchSampler(Pairs(tmp_path / "d/jpeg-20"), 8, 1, 0)
        file.write_bytes(whole)
    PatchSampler(Pairs(tmp_path / "d/jpeg-20"), 8, 1, 0)


def test_damaged_raw_pictures_are_never_compressed(tmp_path):
    build(tmp_path / "d/jpeg-20")
    data = bytearray((tmp_path / "d/raw/pixels.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "d/raw/pixels.bin").write_bytes(data)
    with pytest.raises(QebiasError, match="p0 .*is not what was written: remove"):
        build(tmp_path / "d/jpeg-30", codec=Jpeg(30))
    assert not (tmp_path / "d/jpeg-30").exists()


@pytest.mark.parametrize("file", ["raw/pixels.bin", "jpeg-20/pixels.bin"])
@pytest.mark.parametrize("size", [0, 10, None, "longer"])
def test_a_wrong_size_is_found_at_opening(tmp_path, file, size):
    build(tmp_path / "d/jpeg-20")
    file = tmp_path / "d" / file
    if size is None:
        file.unlink()
    elif size == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        os.truncate(file, size)
    with pytest.raises(QebiasError, match=r"pixels.bin is damaged"):
        Pairs(tmp_path / "d/jpeg-20")
    build(tmp_path / "d/jpeg-20").verify()


def test_missing_stream(tmp_path):
    pairs = build(tmp_path / "d/jpeg-20")
    (tmp_path / "d/jpeg-20/streams/p1.jpg").unlink()
    with pytest.raises(QebiasError, match="p1.jpg is not what was written"):
        pairs.stream(1)
    with pytest.raises(QebiasError, match="p1.jpg"):
        pairs.verify()


def test_missing_folder(tmp_path):
    with pytest.raises(QebiasError, match="manifest.json does not exist"):
        Pairs(tmp_path / "nowhere")


def test_a_mapped_store_outlives_its_replacement(tmp_path):
    pairs = build(tmp_path / "d/jpeg-20")
    before = [pairs.raw(i).copy() for i in range(3)]
    build(tmp_path / "d/jpeg-20", [RawImage("new", lambda: picture(50))])
    assert all(np.array_equal(pairs.raw(i), b) for i, b in enumerate(before))


def test_a_copy_in_another_process_carries_no_pixels(tmp_path):
    pairs = build(tmp_path / "d/jpeg-20")
    assert len(pickle.dumps(pairs)) < 1000 and np.array_equal(
        pickle.loads(pickle.dumps(pairs)).raw(2), pairs.raw(2)
    )


# Other processes: a builder that is slow enough to be killed, and rivals for one folder.

BUILDER = '''
import sys, time
import numpy as np
from qebias.codecs import Jpeg
from qebias.datasets import RawImage
from qebias.pairs import build_pairs
folder, slow_load, slow_code, log = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
def note(what):
    with open(log, "a") as file: file.write(what + "\\n")
class Slow:
    name, level, suffix = "jpeg", 20, ".jpg"
    def describe(self): return Jpeg(20).describe()
    def encode(self, rgb): note("code"); time.sleep(slow_code); return Jpeg(20).encode(rgb)
    def decode(self, data): return Jpeg(20).decode(data)
def load(k):
    note("load")
    time.sleep(slow_load)
    return np.random.default_rng(k).integers(0, 256, (40 + k, 56, 3), np.uint8)
if __name__ == "__main__":
    images = [RawImage(f"p{k}", lambda k=k: load(k)) for k in range(3)]
    pairs = build_pairs(images, Slow(), folder, workers=1, progress=False)
    pairs.verify()
    print(pairs.key)
'''


@pytest.fixture
def start(tmp_path):
    script, running = tmp_path / "builder.py", []
    script.write_text(BUILDER)

    def run(folder, slow_load=0.0, slow_code=0.0, log="log"):
        running.append(
            subprocess.Popen(
                [sys.executable, script, folder, str(slow_load), str(slow_code), tmp_path / log],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def logged(file, what):
    return file.read_text().split().count(what) if file.exists() else 0


@pytest.mark.parametrize("slow", ["load", "code"])
def test_killed_in_the_middle(tmp_path, start, slow):
    log, data = tmp_path / "log", tmp_path / "d"
    builder = start(data / "jpeg-20", **{f"slow_{slow}": 0.5})
    until(
        lambda: logged(log, slow) == (5 if slow == "load" else 2)
    )  # three looks and the second picture of the store; the second encoding
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert litter(data), "killed too late to show anything"
    assert not (data / "jpeg-20").exists() and (data / "raw").exists() == (slow == "code")
    pairs = build(data / "jpeg-20")
    pairs.verify()
    assert len(pairs) == 3 and not litter(data)


def test_rivals_for_one_folder(tmp_path, start):
    rivals = [start(tmp_path / "d/jpeg-20", slow_load=0.05, slow_code=0.3) for _ in range(2)]
    found = [r.communicate(timeout=120) for r in rivals]
    assert [r.returncode for r in rivals] == [0, 0], found
    assert found[0][0] == found[1][0]
    assert (
        logged(tmp_path / "log", "code") == 3 and logged(tmp_path / "log", "load") == 3 + 3 + 3
    )  # each looks, one stores
    assert not litter(tmp_path / "d")


def test_rivals_for_one_raw_store(tmp_path, start):
    rivals = [start(tmp_path / f"d/jpeg-20{x}", slow_load=0.1) for x in "ab"]
    found = [r.communicate(timeout=120) for r in rivals]
    assert [r.returncode for r in rivals] == [0, 0], found
    assert logged(tmp_path / "log", "load") == 3 + 3 + 3 and logged(tmp_path / "log", "code") == 6


def test_a_waiting_rival_goes_on_when_the_first_is_killed(tmp_path, start):
    first = start(tmp_path / "d/jpeg-20", slow_code=30)
    until(lambda: logged(tmp_path / "log", "code") == 1)
    second = start(tmp_path / "d/jpeg-20", log="log2")
    until(lambda: logged(tmp_path / "log2", "load") == 3)
    time.sleep(0.5)
    assert second.poll() is None and logged(tmp_path / "log2", "code") == 0
    first.kill()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert logged(tmp_path / "log2", "code") == 3 and not litter(tmp_path / "d")


# The sampler


@pytest.fixture
def pairs(tmp_path):
    return build(tmp_path / "d/jpeg-20")


def test_every_position_and_picture_comes_up(pairs):
    rows = np.concatenate([PatchSampler(pairs, 39, 64, 0).draw(k) for k in range(60)])
    assert np.abs(np.bincount(rows[:, 0], minlength=3) / len(rows) - 1 / 3).max() < 0.03
    assert np.abs(np.bincount(rows[:, 3], minlength=8) / len(rows) - 1 / 8).max() < 0.03
    for i in range(3):
        here = rows[rows[:, 0] == i]
        assert set(here[:, 1]) == set(range(pairs.raw(i).shape[0] - 39 + 1)) and set(here[:, 2]) == set(
            range(56 - 39 + 1)
        )


def test_a_patch_as_large_as_the_picture(pairs):
    sampler = PatchSampler(pairs, 40, 32, 0)
    assert all(top == 0 for i, top, *_ in sampler.draw(0) if i == 0) and sampler(0)[0].shape == (
        32,
        3,
        40,
        40,
    )
    with pytest.raises(QebiasError, match=r"shorter side of 1 of 3 pictures: p0 \(40\)"):
        PatchSampler(pairs, 41, 1, 0)


def test_patches_lie_over_each_other(tmp_path):
    raw, compressed = to_float(
        PatchSampler(build(tmp_path / "d/jpeg-20", load_dataset("sample", "train")), 64, 64, 0)(7)
    )

    def distance(a, b):
        return (a - b).abs().mean((1, 2, 3))

    assert (distance(raw, compressed) < 0.9 * distance(raw, compressed.flip(3))).all()


def test_pure_function_of_seed_iteration_and_rank(pairs):
    import torch

    def batch(seed, iteration, rank):
        return PatchSampler(pairs, 32, 8, seed, rank, world=3)(iteration)[0]

    base = batch(1, 10**9, 1)
    sampler = PatchSampler(pickle.loads(pickle.dumps(pairs)), 32, 8, 1, 1, world=3)
    for k in (0, 5, 10**9 + 1):
        sampler(k)
    assert torch.equal(sampler(np.int64(10**9))[0], base)
    for other in ((2, 10**9, 1), (1, 10**9 - 1, 1), (1, 10**9, 0), (1, 10**9, 2)):
        assert not torch.equal(batch(*other), base)


@pytest.mark.parametrize("world, each", [(1, 12), (2, 6), (3, 4), (12, 1)])
def test_the_number_of_processes_does_not_matter(pairs, world, each):
    rows = np.concatenate([PatchSampler(pairs, 16, each, 0, rank, world).draw(3) for rank in range(world)])
    assert np.array_equal(rows, PatchSampler(pairs, 16, 12, 0).draw(3))


def test_several_stores(tmp_path):
    stores = [build(tmp_path / f"d/jpeg-{q}", codec=Jpeg(q)) for q in (10, 50)]
    rows = PatchSampler(stores, 32, 64, 0, symmetries="none").draw(0)
    raw, compressed = PatchSampler(stores, 32, 64, 0, symmetries="none")(0)
    assert set(rows[:, 0]) == set(range(6))
    for (i, top, left, _), patch in zip(rows, compressed):
        assert np.array_equal(
            stores[i // 3].compressed(i % 3)[top : top + 32, left : left + 32], patch.permute(1, 2, 0).numpy()
        )


def test_patches_are_copies(pairs):
    sampler = PatchSampler(pairs, 32, 4, 0)
    before = pairs.raw(0).copy()
    for part in sampler(0):
        part.zero_()
    assert np.array_equal(pairs.raw(0), before) and sampler(0)[0].float().mean() > 50


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_floats_are_exact(pairs, device):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    parts = PatchSampler(pairs, 32, 4, 0)(0)
    floats = to_float(parts, device)
    assert all(
        f.device.type == device and f.dtype == torch.float32 and f.shape == p.shape
        for f, p in zip(floats, parts)
    )
    assert all(torch.equal((f * 255).round().to("cpu", torch.uint8), p) for f, p in zip(floats, parts))
    assert torch.equal(parts[0], PatchSampler(pairs, 32, 4, 0)(0)[0])


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_batches_are_those_of_the_sampler_in_order(pairs, ahead):
    import torch

    sampler, seen = PatchSampler(pairs, 32, 4, 0), []

    def slow(i):
        time.sleep(0.003 * (i % 3))
        return sampler(i)

    for i, raw, compressed in batches(slow, range(7, 19), ahead=ahead):
        assert all(torch.equal(a, b) for a, b in zip((raw, compressed), to_float(sampler(i))))
        seen.append(i)
    assert seen == list(range(7, 19)) and not list(batches(slow, range(0)))


def test_batches_for_a_gpu_are_pinned_while_the_training_goes_on(pairs, monkeypatch):
    import torch

    sampler, pinned, moved = PatchSampler(pairs, 32, 4, 0), [], []
    floats = to_float

    def pin_memory(part):
        pinned.append(threading.current_thread())
        return part

    def there(parts, device="cpu"):
        if isinstance(parts, tuple):  # a batch, and not the parts that it comes to
            moved.append(device)
        return floats(parts)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr("qebias.pairs.to_float", there)
    assert len(list(batches(sampler, range(3), "cuda:0"))) == 3
    assert moved.count("cuda:0") == 3 and len(pinned) == 6
    assert threading.main_thread() not in pinned
    assert len(list(batches(sampler, range(3)))) == 3 and len(pinned) == 6


def test_batches_run_ahead_and_no_further(pairs):
    sampler, cut = PatchSampler(pairs, 32, 4, 0), []

    def counted(i):
        cut.append(i)
        return sampler(i)

    with contextlib.closing(batches(counted, range(100), ahead=3)) as stream:
        next(stream)
        until(lambda: len(cut) == 4)
        time.sleep(0.05)
        assert cut == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["closed", "dropped", "error in the loop", "error in the sampler"])
def test_batches_leave_no_thread(pairs, how):
    sampler, before = PatchSampler(pairs, 32, 4, 0), threading.active_count()

    def fails(i):
        return sampler(i) if i < 2 else {}[i]

    if how == "error in the sampler":
        with pytest.raises(KeyError, match="2"):
            list(batches(fails, range(9)))
    elif how == "dropped":
        stream = batches(sampler, range(9))
        next(stream)
        del stream
    else:
        with contextlib.suppress(ZeroDivisionError), contextlib.closing(batches(sampler, range(9))) as stream:
            next(stream)
            if how != "closed":
                1 / 0
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "options, why",
    [
        (dict(patch=0), "patch 0"),
        (dict(batch=0), "batch 0"),
        (dict(rank=1), "rank 1 of 1"),
        (dict(rank=-1, world=2), "rank -1 of 2"),
        (dict(world=0), "of 0"),
    ],
)
def test_impossible_samplers(pairs, options, why):
    with pytest.raises(QebiasError, match=why):
        PatchSampler(pairs, **(dict(patch=32, batch=4, seed=0) | options))


def test_kodak(tmp_path):
    if not (found := os.environ.get("QEBIAS_DATA")) or not (Path(found) / "kodak24").is_dir():
        pytest.skip("set QEBIAS_DATA to a folder that holds kodak24/")
    images = load_dataset(f"folder:{found}/kodak24")
    pairs = build_pairs(images, Jpeg(30), tmp_path / "kodak/jpeg-30", workers=1, progress=False)
    pairs.verify()
    assert (
        len(pairs) == 24 and sum(p.shape[0] * p.shape[1] for p in map(pairs.raw, range(24))) == 24 * 512 * 768
    )
    error = [np.mean((pairs.raw(i).astype(float) - pairs.compressed(i)) ** 2) for i in range(24)]
    assert (
        26 < np.mean(10 * np.log10(255**2 / np.array(error))) < 33
        and 0.3 < np.mean([pairs.bpp(i) for i in range(24)]) < 1.2
    )
    assert [array_digest(pairs.raw(i)) for i in range(24)] == [i.digest for i in images]


def test_a_sampler_travels_to_another_process_without_its_pictures(tmp_path):
    import pickle

    big = [
        RawImage(f"p{k}", lambda k=k: np.random.default_rng(k).integers(0, 256, (128, 128, 3), np.uint8))
        for k in range(4)
    ]
    sampler = PatchSampler(
        build_pairs(big, Jpeg(20), tmp_path / "d" / "jpeg-20", workers=1, progress=False), 32, 3, seed=0
    )
    data = pickle.dumps(sampler)
    assert len(data) < 2000
    assert all((a == b).all() for a, b in zip(sampler(5), pickle.loads(data)(5)))


def test_patches_that_are_scaled_already_are_refused():
    "They once became 255 times as dark"
    import torch

    for batch in (torch.rand(1, 3, 4, 4), np.zeros((1, 3, 4, 4), np.uint8)):
        with pytest.raises(QebiasError, match="patches are uint8 tensors"):
            to_float((batch, batch))


def test_pictures_without_a_name_are_one_line(tmp_path):
    with pytest.raises(QebiasError, match="RawImage.name, load., one of these is a ndarray"):
        build_pairs([picture(0)], Jpeg(20), tmp_path / "d" / "jpeg-20")
