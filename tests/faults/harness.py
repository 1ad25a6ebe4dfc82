"""Files from strangers: a corpus of every kind that is read, mutations of it, and processes that read them

Run by `tests/faults/test_faults.py`; `python tests/faults/harness.py CASES [KIND ...]` reads so many files,
spread over the kinds, and prints the figures. A case is a good file after some mutations of its bytes, or,
for half of the cases where `shapes.py` knows the kind, a file that is well formed and not what its reader
expects. Each is read in a process with limits: 5 seconds of a processor, and 2 GB beyond what the imports
take. It ends in success, or in one documented line that names the file; anything else, a hang, a dead
process, is a fault.
"""

import importlib
import io
import json
import os
import queue
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import shapes
from hypothesis import strategies as st

SECONDS = 5
MEMORY = 2 * 2**30  # bytes

# What is read, by whom

READERS = {
    "png": "qebias.pictures:read_picture",
    "jpg": "qebias.pictures:read_picture",
    "webp": "qebias.pictures:read_picture",
    "avif": "qebias.pictures:read_picture",
    "tif": "qebias.pictures:read_picture",
    "gif": "qebias.pictures:read_picture",
    "bmp": "qebias.pictures:read_picture",
    "ppm": "qebias.pictures:read_picture",
    "jp2": "qebias.pictures:read_picture",
    "tga": "qebias.pictures:read_picture",
    "bpg": "qebias.pictures:read_picture",
    "safetensors": "qebias.weights:tensors",
    "pth": "qebias.weights:tensors",
    "json": "qebias.core:read_json",
    "yaml": "qebias.core:read_yaml",
    "parquet": "qebias.core:read_table",
    "csv": "qebias.core:read_table",
    "model": "readers:model",
    "checkpoint": "readers:checkpoint",
    "manifest": "readers:manifest",
    "profile": "readers:profile",
    "claims": "readers:claims",
    "stats": "readers:stats",
    "results": "readers:results",
}
SUFFIX = {  # where it is not the name of the kind
    "model": "safetensors",
    "checkpoint": "pt",
    "manifest": "json",
    "profile": "yaml",
    "claims": "yaml",
    "stats": "jsonl",
    "results": "parquet",
}


# The corpus


def scene(height=23, width=37):
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin(x / 5)], -1).astype(np.uint8)


def pictures():
    "Seeds of every format, with what a picture may carry"
    from PIL import Image, ImageCms

    from qebias.codecs import Bpg
    from qebias.pictures import Picture, save_picture

    rgb = Image.fromarray(scene())
    grey, rgba = rgb.convert("L"), Image.fromarray(np.dstack([scene(), scene()[..., 1]]))
    palette = rgb.quantize(30)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    carried = {"icc_profile": icc, "exif": exif, "dpi": (300, 300)}
    deep = io.BytesIO()
    save_picture_to(deep, Picture(scene().astype(np.uint16) * 257, depth=16), save_picture)
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}

    def saved(image, kind, **more):
        out = io.BytesIO()
        image.save(out, kind, **more)
        return out.getvalue()

    return {
        "png": [
            saved(rgb, "PNG"),
            saved(rgba, "PNG", **carried),
            saved(palette, "PNG", transparency=3),
            saved(grey.convert("1"), "PNG"),
            saved(rgb, "PNG", **frames),
            deep.getvalue(),
        ],
        "jpg": [
            saved(rgb, "JPEG", quality=30),
            saved(rgb, "JPEG", progressive=True, **carried),
            saved(grey, "JPEG"),
            saved(rgb.convert("CMYK"), "JPEG", icc_profile=icc),
        ],
        "webp": [
            saved(rgb, "WEBP"),
            saved(rgba, "WEBP", lossless=True, **carried),
            saved(rgb, "WEBP", **frames),
        ],
        "avif": [
            saved(rgb, "AVIF", quality=40),
            saved(rgba, "AVIF"),
            saved(rgb, "AVIF", icc_profile=icc, exif=exif),
        ],
        "tif": [
            saved(rgb, "TIFF", **carried),
            *(
                saved(rgb, "TIFF", compression=c)
                for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
            ),
            saved(grey.convert("1"), "TIFF", compression="group4"),
            saved(Image.fromarray(scene()[..., 0].astype(np.uint16) * 257), "TIFF"),
            saved(rgb, "TIFF", **frames),
            saved(rgba, "TIFF", big_tiff=True),
            saved(palette, "TIFF"),
        ],
        "gif": [saved(palette, "GIF"), saved(palette, "GIF", transparency=2), saved(rgb, "GIF", **frames)],
        "bmp": [saved(rgb, "BMP"), saved(palette, "BMP"), saved(rgba, "BMP")],
        "ppm": [
            saved(rgb, "PPM"),
            saved(grey, "PPM"),
            b"P6\n9 4\n65535\n" + bytes(range(216)),
            b"P2 2 2 255 1 2 3 4\n",
        ],
        "jp2": [saved(rgb, "JPEG2000"), saved(grey, "JPEG2000", irreversible=True)],
        "tga": [saved(rgb, "TGA"), saved(rgba, "TGA", compression="tga_rle"), saved(grey, "TGA")],
        "bpg": [Bpg(37).encode(scene()), Bpg(47, "x265").encode(scene(64, 48))],
    }


def save_picture_to(out, picture, save):
    "A picture's PNG in a buffer"
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "a.png", picture)
        out.write((Path(folder) / "a.png").read_bytes())


PROFILE = """
summary: A small study
train: sample
evaluate: {sample: sample}
codecs: {bpg: [37], jpeg: [10, 20]}
networks:
  RRDBNet: &net {width: 8, blocks: 1, growth: 4}
  Other: *net
training:
  fidelity: {iterations: 6, batch: 2, lr: 1.0e-3, ema: 0.5}
metrics: [psnr, ssim]
text: |
  two
  lines
"""


def structures():
    "Seeds of tables, tensors, manifests and profiles"
    import pandas
    import torch
    from safetensors.numpy import save

    table = pandas.DataFrame({"picture": ["a", "b", "ü"], "value": [1.5, None, -2.0], "seed": [0, 1, 2]})
    parquet, packed = io.BytesIO(), io.BytesIO()
    table.to_parquet(parquet)
    table.to_parquet(packed, compression="gzip")
    arrays = {"a.weight": np.ones((3, 4), np.float32), "a.bias": np.zeros(3, np.float16)}
    header = {"spec": json.dumps({"class": "qebias.generators.arcnn:ARCNN", "kwargs": {}})}
    checkpoint, old = io.BytesIO(), io.BytesIO()
    state = {"params": {"w": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16)}, "epoch": 3}
    torch.save(state, checkpoint)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    manifest = {
        "key": "ab12",
        "pairs": [{"name": "a", "bpp": 0.25, "size": [3, 4]}],
        "note": None,
        "ok": True,
    }
    return {
        "safetensors": [save(arrays), save(arrays, header)],
        "pth": [checkpoint.getvalue(), old.getvalue()],
        "json": [json.dumps(manifest, indent=1).encode(), json.dumps([1, -2.5e-3, "ü\n", {}]).encode()],
        "yaml": [PROFILE.encode(), b"[1, 2.5, true, null, 'x']", b"a: 1\nb:\n - x\n - {c: ~}\n"],
        "parquet": [parquet.getvalue(), packed.getvalue()],
        "csv": [table.to_csv(index=False).encode(), b"a;b\n1;2\n", b'"x\ny",2\n3,4\n'],
        "results": [results_table()],
    }


def results_table() -> bytes:
    "A study's table of two rows and two pictures"
    import pandas

    from qebias.stats import COLUMNS

    place = {
        "dataset": "sample",
        "codec": "bpg",
        "level": 37,
        "trained_on": "",
        "unit": "dB",
        "quantity": "psnr",
    }
    lines = [
        {**place, "picture": picture, "row": row, "seed": seed, "value": 30.0 + seed}
        for picture in "ab"
        for row in ("compressed", "dncnn")
        for seed in (0, 1)
    ]
    out = io.BytesIO()
    pandas.DataFrame(lines)[COLUMNS].to_parquet(out)
    return out.getvalue()


def of_ours():
    "Seeds of what this project writes itself"
    from qebias import training
    from qebias.codecs import Jpeg
    from qebias.core import project_root
    from qebias.datasets import RawImage
    from qebias.discriminators import UNetSN
    from qebias.generators.arcnn import ARCNN
    from qebias.networks import save_network
    from qebias.pairs import build_pairs

    study = project_root() / "nbs" / "study"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_network(place / "g", ARCNN(), {"class": "qebias.generators.arcnn:ARCNN", "kwargs": {}}, {})
        spec = {"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 4}}
        save_network(place / "d", UNetSN(width=4), spec, {"halo": {"pixels": 16, "difference": 0.0}})
        raw = [RawImage(name, lambda k=k: scene(12, 10) + k) for k, name in enumerate("ab")]
        build_pairs(raw, Jpeg(30), place / "set" / "jpeg-30", workers=1, progress=False)
        content = io.BytesIO()
        training.torch.save({"generator": {"w": training.torch.ones(3)}}, content)
        head = {"iteration": 3, "key": "ab12"}
        head["sha256"] = training._checked_by(head, content.getbuffer())
        return {
            "model": [(place / name).read_bytes() for name in "gd"],
            "manifest": [
                (place / "set" / name / "manifest.json").read_bytes() for name in ("raw", "jpeg-30")
            ],
            "checkpoint": [training._MAGIC + json.dumps(head).encode() + b"\n" + content.getvalue()],
            "stats": [b'{"iteration": 1, "g/total": 0.5}\n{"iteration": 2, "g/total": 0.25}\n'],
            "profile": [path.read_bytes() for path in sorted((study / "profiles").glob("*.yaml"))],
            "claims": [(study / "claims.yaml").read_bytes()],
        }


def corpus():
    "kind -> seeds"
    return pictures() | structures() | of_ours()


# Mutations: data, so that hypothesis can shrink them

NASTY = [
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 300,
    b"&a [*a]",
    b"*a0",
    b"!!python/object/apply:os.system ['true']",
    b"\n".join(b"a%d: &a%d [%s]" % (k, k, b",".join([b"*a%d" % max(k - 1, 0)] * 9)) for k in range(12)),
    b"2020-99-99",
    b"NaN",
    b"1e999",
    b"-0",
    b"\xff\xfe",
    b"\0",
    b"\xed\xa0\x80",
    b"key: 1\nkey: 2\n",
    b"? [a]\n: b\n",
    b"\t",
    b"%TAG ! !",
    b"<<: *a",
    b"---\n",
    b"%!PS-Adobe-3.0 EPSF",
]
NUMBERS = [0, 1, 2, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]

ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp500"]

position = st.floats(0, 1, exclude_max=True)
mutation = st.one_of(
    st.tuples(st.just("flip"), position, st.integers(0, 7)),
    st.tuples(st.just("flip-early"), st.integers(0, 80), st.integers(0, 7)),
    st.tuples(st.just("byte"), position, st.integers(0, 255)),
    st.tuples(
        st.just("number"), position, st.sampled_from(NUMBERS), st.sampled_from(["<I", ">I", "<H", ">H"])
    ),
    st.tuples(
        st.just("number-early"), st.integers(0, 80), st.sampled_from(NUMBERS), st.sampled_from(["<I", ">I"])
    ),
    st.tuples(st.just("cut"), position),
    st.tuples(st.just("delete"), position, st.integers(1, 40)),
    st.tuples(st.just("repeat"), position, st.integers(1, 200), st.integers(1, 50)),
    st.tuples(st.just("insert"), position, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("nasty"), position, st.integers(0, len(NASTY) - 1)),
    st.tuples(st.just("splice"), position, st.integers(0, 9), position),
    st.tuples(st.just("swap"), position, position, st.integers(1, 60)),
    st.tuples(st.just("fill"), position, st.integers(0, 255), st.integers(1, 200)),
    st.tuples(st.just("encoded"), st.just(0), st.sampled_from(ENCODINGS)),
    st.tuples(st.just("digits"), position, st.sampled_from(["0", "-1", "1e400", "9" * 30, "true", "{}"])),
)
case = st.tuples(st.integers(0, 9), st.lists(mutation, min_size=1, max_size=5), st.booleans())
shaped = st.tuples(st.integers(0, 2**32), st.lists(mutation, max_size=1), st.booleans())


def cases(kind):
    "What is drawn for a kind: mutations, and half of the time a shape where there are some"
    return st.one_of(case, shaped.map(lambda drawn: ("shape", *drawn))) if kind in shapes.SHAPES else case


def file_of(kind, seeds, drawn) -> bytes:
    "The file that a case stands for"
    if drawn[0] != "shape":
        return mutated(seeds, *drawn)
    data = shapes.made(kind, seeds, drawn[1])
    return mutated([data], 0, drawn[2] if drawn[3] else [], True)


def mutated(seeds, chosen, steps, repair) -> bytes:
    "A seed after some mutations; where `repair`, with the checksums that its format has"
    data = bytearray(seeds[chosen % len(seeds)])
    for name, where, *more in steps:
        at = min(where, len(data)) if isinstance(where, int) else int(where * len(data))
        if name.startswith("flip") and at < len(data):
            data[at] ^= 1 << more[0]
        elif name == "byte" and at < len(data):
            data[at] = more[0]
        elif name.startswith("number"):
            packed = struct.pack(more[1], more[0] % 256 ** struct.calcsize(more[1]))
            data[at : at + len(packed)] = packed
        elif name == "cut":
            del data[at:]
        elif name == "delete":
            del data[at : at + more[0]]
        elif name == "repeat":
            data[at:at] = data[at : at + more[0]] * more[1]
        elif name == "insert":
            data[at:at] = more[0]
        elif name == "nasty":
            data[at:at] = NASTY[more[0]]
        elif name == "splice":
            other = seeds[more[0] % len(seeds)]
            data[at:] = other[int(more[1] * len(other)) :]
        elif name == "swap":
            other = int(more[0] * len(data))
            a, b = data[at : at + more[1]], data[other : other + more[1]]
            data[at : at + more[1]], data[other : other + more[1]] = b, a
        elif name == "fill":
            data[at : at + more[1]] = bytes([more[0]]) * len(data[at : at + more[1]])
        elif name == "encoded":
            data[:] = data.decode("latin-1").encode(more[0], "replace")
        elif name == "digits":  # another value for the first number that follows
            data[at:] = re.sub(rb"-?\d[\d.]*", more[0].encode(), bytes(data[at:]), count=1)
    if repair and data[:4] == b"\x89PNG":
        return repaired_png(bytes(data))
    return repaired_manifest(bytes(data)) if repair and data[:1] == b"{" else bytes(data)


def repaired_manifest(data) -> bytes:
    "A JSON table with its own digest right, where it carries one"
    from qebias.core import QebiasError, digest, parse_json

    try:
        table = parse_json(data, "")
    except QebiasError:
        return data
    if "digest" not in table:
        return data
    content = {name: value for name, value in table.items() if name != "digest"}
    return json.dumps({**content, "digest": digest(content)}).encode()


def repaired_png(data) -> bytes:
    "A PNG with right checksums, so that what is wrong is read"
    out, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(out)


# Reading, in processes

IMPORTS = {  # what a reader imports when it is first called
    "qebias.pictures": ("av", "PIL.ImageCms"),
    "qebias.core": ("yaml", "pandas", "pyarrow.parquet"),
    "qebias.weights": ("torch", "safetensors.torch"),
}


def serve():
    "A worker: read the files that are named on its input, say on its output how each ended"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    readers = json.loads(sys.argv[1])
    for module in {reader.partition(":")[0] for reader in readers.values()}:
        importlib.import_module(module)
        for name in IMPORTS.get(module, ()):
            importlib.import_module(name)
    with Path("/proc/self/statm").open() as file:
        pages = int(file.read().split()[0])
    base = memory("VmRSS")
    print(json.dumps({"base": base}), file=answers, flush=True)
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        kind, path = json.loads(line)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
        outcome, why = attempt(readers[kind], path)
        peak = memory("VmHWM") - base
        print(json.dumps({"outcome": outcome, "why": why, "memory": peak}), file=answers, flush=True)


def memory(name):
    "Bytes that this process has now (VmRSS), or had at most (VmHWM)"
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def attempt(reader, path):
    "How the reading of a file ends: success, documented, or other"
    from qebias.core import QebiasError

    module, _, name = reader.partition(":")
    try:
        getattr(sys.modules[module], name)(Path(path))
    except QebiasError as error:
        text = str(error)
        named = Path(path).stem in text or "case-folder" in text
        fine = named and "\n" not in text and len(text) < 2000
        return ("documented" if fine else "other"), text
    except BaseException as error:
        return "other", f"{type(error).__name__}: {error}"[:500]
    return "success", ""


class Reader:
    "A worker process, started again after a hang or a death"

    def __init__(self, readers=READERS):
        self.readers = readers
        self.folder = tempfile.TemporaryDirectory(prefix="faults-")
        self.counts = {
            "cases": 0,
            "success": 0,
            "documented": 0,
            "other": 0,
            "hangs": 0,
            "memory": 0,
            "printed": 0,
        }
        self.faults = []
        self.why = ""  # of the last outcome
        self.process = None

    def start(self):
        self.errors = open(Path(self.folder.name) / "stderr", "wb+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import harness; harness.serve()", json.dumps(self.readers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=Path(__file__).parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.answers = queue.SimpleQueue()
        threading.Thread(target=self.listen, args=(self.process, self.answers), daemon=True).start()
        if self.answers.get(timeout=120) is None:
            raise RuntimeError(f"the worker does not start: {self.said()}")

    def listen(self, process, answers):
        for line in process.stdout:
            answers.put(json.loads(line))
        answers.put(None)

    def said(self):
        self.errors.flush()
        return (Path(self.folder.name) / "stderr").read_bytes()[-500:].decode(errors="replace")

    def read(self, kind, data: bytes) -> str:
        "Read one file; the outcome"
        if self.process is None:
            self.start()
        path = str(Path(self.folder.name) / f"case-file.{SUFFIX.get(kind, kind)}")
        Path(path).write_bytes(data)
        before = os.path.getsize(Path(self.folder.name) / "stderr")
        self.process.stdin.write(json.dumps([kind, path]) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        if answer is None:
            status = self.process.wait()
            answer = {"outcome": "other", "why": f"the process died: {status} {self.said()}", "memory": 0}
            self.stop()
        self.why = answer["why"]
        self.counts["cases"] += 1
        self.counts[answer["outcome"]] += 1
        self.counts["memory"] = max(self.counts["memory"], answer["memory"])
        if self.process is not None and os.path.getsize(Path(self.folder.name) / "stderr") > before:
            self.counts["printed"] += 1
        if answer["outcome"] in ("other", "hangs"):
            self.faults.append((kind, answer["outcome"], answer["why"], data))
        return answer["outcome"]

    def answer(self):
        "How a case ended; a hang takes 5 s of a processor, or does nothing so long: others may work too"
        start = now = self.processor()
        while True:
            try:
                return self.answers.get(timeout=SECONDS)
            except queue.Empty:
                before, now = now, self.processor()
            if now - start >= SECONDS or now - before < 0.02:
                self.stop()
                return {"outcome": "hangs", "why": f"more than {SECONDS} s", "memory": 0}

    def processor(self):
        "Seconds of a processor that the worker has had"
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def figures(self) -> str:
        c = dict(self.counts, memory=f"{self.counts['memory'] / 2**20:.0f} MiB")
        return ", ".join(f"{name} {value}" for name, value in c.items())


def explore(count, seeds, kinds=None, fixed=False, report=None):
    "Read so many cases, as many of each kind; the reader with its counts; where `fixed`, always the same"
    from hypothesis import HealthCheck, Phase, given, seed, settings

    reader, kinds = Reader(), kinds or list(READERS)
    quiet = settings(
        max_examples=-(-count // len(kinds)),
        derandomize=fixed,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        for kind in kinds:
            before = dict(reader.counts)

            @quiet
            @given(cases(kind))
            def read(drawn):
                reader.read(kind, file_of(kind, seeds[kind], drawn))

            (read if fixed else seed(random.randrange(2**32))(read))()
            if report:
                report(
                    kind, {name: reader.counts[name] - before[name] for name in before if name != "memory"}
                )
    finally:
        reader.stop()
    return reader


def main():
    "The figures of so many cases in all, by chance; files that are faults are kept in /tmp/faults"
    reader = explore(int(sys.argv[1]), corpus(), sys.argv[2:], report=partial(print, flush=True))
    folder = Path(tempfile.gettempdir()) / "faults"
    folder.mkdir(exist_ok=True)
    for k, (kind, outcome, why, data) in enumerate(reader.faults):
        (folder / f"{k:03d}.{kind}").write_bytes(data)
        print(f"{folder}/{k:03d}.{kind}", outcome, why[:300])
    print(reader.figures())
    return int(bool(reader.faults))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
