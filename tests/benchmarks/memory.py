"""Peak resident memory and time of large pictures and of many

    python tests/benchmarks/memory.py commands [MEGAPIXELS] [SMALL] [FOLDER]
    python tests/benchmarks/memory.py NET TILE HEIGHT WIDTH [THREADS] [-- NET TILE HEIGHT WIDTH [THREADS] ...]

`commands` makes SMALL pictures of 96 x 64 pixels (3,000) and one of MEGAPIXELS (100), and sends both through
`qebias compress`, `enhance` and `score`, and the large one through `audit`: for each command the seconds that
it took, those of a processor, and the peak of its memory, children included. FOLDER keeps the pictures.

The other enhances one picture, and gives the peak above what the process held before. NET is `arcnn`, `rrdb`
(64 channels, 23 blocks, growth 32: the size of ESRGAN) or WIDTH/BLOCKS/GROWTH; TILE is a number of pixels or
`None` for the whole picture. The weights are fresh. Several stand after one another with -- between them, and
each runs in a fork of its own. Needs /proc, so Linux; lines of JSON are printed.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QEBIAS = [sys.executable, "-c", "import sys; sys.argv[0] = 'qebias'; from qebias.cli import main; main()"]


def scene(height, width, seed=0):
    "Edges, waves and grain: a picture on which a codec has work"
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = 60 * np.sin(x / 7 + seed) * np.cos(y / 11) + 50 * ((x // 32 + y // 24) % 2)
    rgb = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        grain = rng.standard_normal((height, width), np.float32) * 6
        rgb[..., channel] = np.clip(100 + waves + 10 * channel + grain, 0, 255)
    return rgb


def made(folder, megapixels, small):
    "The folders of pictures, made where they are not there yet: a large one, many small ones"
    from qebias.core import write_png

    side = round(math.sqrt(megapixels * 1e6))
    large, many = folder / f"large-{side}", folder / f"many-{small}"
    if not (large / "large.png").exists():
        block = scene(min(side, 2000), min(side, 2000))
        times = -(-side // len(block))
        write_png(large / "large.png", np.tile(block, (times, times, 1))[:side, :side])
    for k in range(small):
        if not (many / f"p{k:05}.png").exists():
            write_png(many / f"p{k:05}.png", scene(64, 96, k))
    return large, many


def spent(name, *arguments):
    "Run a command; its seconds and its peak, as JSON"
    begin, before = time.monotonic(), os.times()
    child = subprocess.Popen(
        [*QEBIAS, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(0.05)
    after = os.times()
    error = child.stderr.read().decode(errors="replace").strip().splitlines()
    line = {"what": name, "rc": child.returncode, "seconds": round(time.monotonic() - begin, 1)}
    line["processor"] = round(sum(after[2:4]) - sum(before[2:4]), 1)
    line["peak_gb"] = round(peak, 2)
    print(json.dumps(line | ({"said": error[-1]} if child.returncode and error else {})), flush=True)


def resident(pid):
    "GB that a process and its children have in memory, or the most that it has had"
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        own = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError, ValueError):
        return 0.0
    return own + sum(resident(int(child)) for child in children)


def commands(megapixels="100", small="3000", folder=None):
    "Both sets through the commands"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        for name, raw in zip(("one large", "many small"), made(place, float(megapixels), int(small))):
            out = place / f"out-{raw.name}"
            shutil.rmtree(out, ignore_errors=True)
            jpegs, shown, enhanced = out / "jpeg", out / "compressed", out / "enhanced"
            spent(f"{name}: compress", "compress", raw, "-o", jpegs, "--codec", "jpeg", "--level", 20)
            shown.mkdir(exist_ok=True, parents=True)
            for path in jpegs.glob("*.png"):
                path.rename(shown / path.name)
            spent(f"{name}: enhance", "enhance", jpegs, "-o", enhanced)
            scores = ["--metric", "psnr", "--metric", "ssim", "--metric", "niqe", "--metric", "nlpd"]
            if name == "many small":
                scores = scores[:4]
            more = ["--raw", raw, "-o", out / "scores.csv", *scores]
            spent(f"{name}: score", "score", "--images", enhanced, *more)
            of_three = ["--raw", raw, "--compressed", shown, "--enhanced", enhanced]
            if name == "one large":
                spent(f"{name}: audit", "audit", *of_three, "-o", out / "audit.html")


def held(key):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(key)).split()[1]) / 1024


def network(name, tile, height, width, threads=1):
    import torch

    from qebias.generators.arcnn import ARCNN
    from qebias.generators.rrdb import RRDBNet
    from qebias.inference import enhance, tiling

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    sizes = "64/23/32" if name == "rrdb" else name
    net = ARCNN() if name == "arcnn" else RRDBNet(*map(int, sizes.split("/")))
    rgb = np.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), np.uint8)
    enhance(net, rgb[:64, :64])
    before, started = held("VmRSS"), time.perf_counter()
    plan = tiling(net, None if tile == "None" else int(tile), x=rgb)
    planned = time.perf_counter()
    enhance(net, rgb, plan)
    found = {"net": name, "plan": str(plan), "peak": round(held("VmHWM") - before, 1)}
    found |= {"plan_s": round(planned - started, 2), "enhance_s": round(time.perf_counter() - planned, 2)}
    print(json.dumps(found))


def networks(words):
    "One after the other, each in a fork: the peak of a process is of all that it has done"
    import qebias.generators.arcnn
    import qebias.generators.rrdb
    import qebias.inference  # noqa: F401

    while words:
        end = words.index("--") if "--" in words else len(words)
        child = os.fork()
        if child == 0:
            network(*words[:end])
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{' '.join(words[:end])}: it ended before its time")
        words = words[end + 1 :]


if __name__ == "__main__":
    if sys.argv[1] == "commands":
        commands(*sys.argv[2:])
    else:
        networks(sys.argv[1:])
