"""Every kind of file that is read, damaged and hostile: success, or one line that names it

500 cases in the quick tests, 10,000 with `pytest -m slow`. `harness.py` says how a case is made and read.
"""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import harness

QUICK, SLOW = 500, 10_000


@pytest.fixture(scope="module")
def seeds():
    return harness.corpus()


@pytest.fixture(scope="module")
def reader():
    reader = harness.Reader()
    yield reader
    reader.stop()


@pytest.mark.parametrize("kind", harness.READERS)
def test_the_seeds_themselves_are_read(seeds, reader, kind):
    outcomes = [reader.read(kind, data) for data in seeds[kind]]
    assert set(outcomes) <= {"success", "documented"} and "success" in outcomes  # animations are refused


def check(reader, count, capsys):
    with capsys.disabled():
        print(f"\n  {reader.figures()}")
    assert reader.counts["cases"] >= count
    assert reader.counts["success"] and reader.counts["documented"]
    assert not reader.faults, [(kind, outcome, why) for kind, outcome, why, _ in reader.faults[:5]]
    assert reader.counts["memory"] < harness.MEMORY and not reader.counts["printed"]


def test_500_damaged_files(seeds, capsys):
    check(harness.explore(QUICK, seeds, fixed=True), QUICK, capsys)


@pytest.mark.slow
def test_10000_damaged_files(seeds, capsys):
    check(harness.explore(SLOW, seeds, fixed=True), SLOW, capsys)


@pytest.mark.parametrize(
    "trap, outcome",
    [
        ("hangs", "hangs"),
        ("dies", "other"),
        ("raises", "other"),
        ("takes_memory", "other"),
        ("says_two_lines", "other"),
        ("names_no_file", "other"),
        ("works", "success"),
        ("prints", "success"),
    ],
)
def test_the_harness_notices(monkeypatch, trap, outcome):
    "A test that cannot fail is none: each way to be wrong is seen, and the next case is read all the same"
    monkeypatch.setattr(harness, "SECONDS", 2)
    reader = harness.Reader({"trap": f"traps:{trap}", "json": "qebias.core:read_json"})
    try:
        assert reader.read("trap", b"x") == outcome
        assert reader.read("json", b"1") == "success"
        if trap == "works":
            assert reader.counts["memory"] > 150 * 2**20
        assert reader.counts["printed"] == (trap == "prints")
    finally:
        reader.stop()


def test_bandit_finds_nothing_that_is_not_answered():
    pytest.importorskip("bandit", reason="pip install bandit")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "bandit", "-q", "-r", "qebias", "-c", "pyproject.toml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


FULL = """
import sys
sys.argv = ["qebias", "methods"]
import qebias.cli as cli
from qebias.core import atomic
def checkpoint(standalone_mode):
    with atomic(sys.argv[0] + "-run/checkpoint/last.pt") as tmp:
        raise OSError(28, "No space left on device")
cli.app = checkpoint
cli.main()
"""


def test_a_full_disk_at_a_checkpoint_is_one_line_with_the_file_and_what_to_do(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    what = "qebias-run/checkpoint/last.pt: No space left on device"
    remedy = "what was complete is kept, free some space and run the same command to go on"
    assert done.stderr == f"qebias: {what}: {remedy}\n" and done.returncode == 1
    assert not any((tmp_path / "qebias-run" / "checkpoint").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors", "weights.pth"])
def test_weights_that_find_no_room_are_one_line_and_no_file(tmp_path, name):
    "Both libraries end in errors of their own when a disk is full, which say nothing of it, or not whose"
    import resource

    from qebias.convert import export_weights
    from qebias.networks import build, save_network

    spec = {"class": "qebias.generators.arcnn:ARCNN"}
    net = build(spec)
    save_network(tmp_path / "net.safetensors", net, spec, {})
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / name
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes of a file, as a full disk would
    try:
        with pytest.raises(OSError) as error:
            if name == "model.safetensors":
                save_network(out, net, spec, {})
            else:
                export_weights(tmp_path / "net.safetensors", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.strerror == "File too large" and name in str(error.value.filename)
    assert not list((tmp_path / "out").iterdir())


# Cases that were met


def test_little_files_that_ask_for_long_work(reader):
    "Each took more than 5 s, gigabytes, or a library's own line on the terminal"
    import io
    import json
    import struct
    import zipfile

    def tiff(samples):
        tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: samples, 278: 8, 279: 64}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(600)

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**28))
    many = {f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    header = json.dumps(many).encode()
    for kind, data, words in [
        ("pth", b"\x80\x02" + b"]" * 10**6 + b".", "its pickles do not end"),
        ("pth", b"\x80\x02" + b"(" * 10**6 + b".", "its pickles do not end"),
        ("pth", packed.getvalue(), "its parts are packed"),
        ("safetensors", struct.pack("<Q", len(header)) + header, "the length of a header"),
        ("csv", b"1," * 10**6 + b"1\n", "more than 10,000 columns"),
        ("csv", b"\n\n" + b"1," * 10**6 + b"1\n", "more than 10,000 columns"),
        ("ppm", b"P3 3000 3000 255\n" + b"0 " * 9 * 10**6, "is a PPM in plain text"),
        ("tif", tiff(60_000), "picture"),
    ]:
        assert reader.read(kind, data) == "documented", (kind, words, reader.faults)
        assert words in reader.why
    assert reader.read("stats", b"\n" * 10**7) == "success"
    assert reader.counts["printed"] == 0


def test_well_formed_files_of_another_kind(seeds, reader):
    "Each ended in an error of a library, filled the memory, or printed three thousand letters"
    import io
    import json
    import struct

    import pandas
    import pyarrow as pa
    from pyarrow import parquet

    def table(columns):
        out = io.BytesIO()
        parquet.write_table(columns, out)
        return out.getvalue()

    results = pa.Table.from_pandas(pandas.read_parquet(io.BytesIO(seeds["results"][0])))
    count = results.num_rows

    def other(name, values):
        place = results.column_names.index(name)
        return table(results.set_column(place, name, pa.array(values)))

    often = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int32()), ["x" * 10**5])
    model = seeds["model"][0]
    size = int.from_bytes(model[:8], "little")
    header = json.dumps({**json.loads(model[8 : 8 + size]), "__metadata__": "x" * 5000}).encode()
    tensors = json.loads(model[8 : 8 + size])
    name = next(name for name in tensors if name != "__metadata__")
    tensors[name]["shape"] = [1] * 4000 + tensors[name]["shape"]
    dimensions = json.dumps(tensors).encode()
    manifest = json.loads(seeds["manifest"][0])
    del manifest["images"][0]["digest"]
    for kind, data, words in [
        ("results", table(results.append_column("level", pa.array([1] * count))), "two columns 'level'"),
        (
            "results",
            other("value", [[1.0]] * count),
            "holds list<element: double>, neither numbers nor texts",
        ),
        ("results", other("level", ["a"] * count), "level of the table of results holds no numbers"),
        ("results", other("row", [None] * count), "row of the table of results has holes"),
        ("parquet", table(pa.table({"row": often})), "its texts have 100,000,000,000 bytes"),
        ("model", struct.pack("<Q", len(header)) + header + model[8 + size :], "case-file.safetensors"),
        ("model", struct.pack("<Q", len(dimensions)) + dimensions + model[8 + size :], "has shape (1, 1"),
        ("manifest", harness.repaired_manifest(json.dumps(manifest).encode()), "'digest'"),
    ]:
        assert reader.read(kind, data) == "documented", (kind, words, reader.faults)
        assert words in reader.why, reader.why


def test_bombs_and_claims(reader):
    "Small files that ask for much"
    import struct
    import zlib

    def tensors(shape, end):
        header = b'{"w":{"dtype":"F32","shape":%s,"data_offsets":[0,%d]}}' % (shape, end)
        return struct.pack("<Q", len(header)) + header

    def png(width, height):
        def chunk(name, data):
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = zlib.compress(bytes(10**6))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    anchors = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for k in range(1, 12):
        anchors += b"a%d: &a%d [%s]\n" % (k, k, b", ".join([b"*a%d" % (k - 1)] * 10))
    for kind, data in [
        ("safetensors", tensors(b"[1000000000, 1000]", 4 * 10**12)),
        ("safetensors", tensors(b"[1000000000, 1000]", 4)),
        ("safetensors", struct.pack("<Q", 2**62)),
        ("safetensors", struct.pack("<Q", 9000) + b"[" * 9000),
        ("png", png(11000, 12000)),
        ("png", png(2**31 - 1, 2**31 - 1)),
        ("yaml", anchors),
        ("yaml", b"[" * 10**6),
        ("yaml", b"- " * 10**5),
        ("yaml", b"{a: " * 10**5),
        ("yaml", b"a: " + b"9" * 5000),
        ("json", b"[" * 10**6),
        ("json", b"9" * 5000),
        ("json", b'{"a": 1, "a": 2}'),
        ("csv", b'"' * 10**6),
    ]:
        outcome = reader.read(kind, data)
        assert outcome == "documented" or kind == "csv" and outcome == "success", (
            kind,
            data[:40],
            reader.faults,
        )
    assert reader.read("yaml", b"when: 2020-99-99\nanswer: no\n") == "success"  # which are texts


def test_a_network_of_a_thousand_million_blocks_is_refused_at_once():
    import time

    from qebias.core import QebiasError
    from qebias.networks import outline

    began = time.process_time()
    for kwargs in ({"blocks": 10**9}, {"width": 10**400}):
        with pytest.raises(QebiasError, match="is too large: at most 4096"):
            outline({"class": "qebias.generators.rrdb:RRDBNet", "kwargs": kwargs})
    assert time.process_time() - began < 2


def test_a_journal_of_deep_lists_is_none(tmp_path):
    from qebias.core import QebiasError
    from qebias.metrics import _Journal

    (tmp_path / "journal").write_bytes(b"[" * 10**5)
    with pytest.raises(QebiasError, match="journal is no journal of scores"):
        _Journal(tmp_path / "journal")


def test_a_loop_of_links_in_a_folder_of_pictures_is_one_line(tmp_path):
    from PIL import Image

    from qebias.core import QebiasError
    from qebias.pictures import find_pictures, read_rgb8

    (tmp_path / "in").mkdir()
    Image.fromarray(harness.scene()).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    found, _ = find_pictures([tmp_path / "in"], tmp_path / "out")
    for picture in found:
        if picture.name == "loop":
            with pytest.raises(QebiasError, match="loop.png"):
                read_rgb8(picture.path)
    assert "a" in [picture.name for picture in found]
