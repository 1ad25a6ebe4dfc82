"""Peak resident memory of enhancing one picture, above what the process held before

    python tests/benchmarks/memory.py NET TILE HEIGHT WIDTH [THREADS]

NET is `arcnn`, `rrdb` (64 channels, 23 blocks, growth 32: the size of ESRGAN) or WIDTH/BLOCKS/GROWTH; TILE is a number of
pixels or `None` for the whole picture. The weights are fresh. Needs /proc, so Linux; one line of JSON is printed.
"""

import json
import sys
import time

import numpy as np
import torch

from qebias.generators.arcnn import ARCNN
from qebias.generators.rrdb import RRDBNet
from qebias.inference import enhance, tiling


def held(key):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(key)).split()[1]) / 1024


def main(name, tile, height, width, threads=1):
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    net = (
        ARCNN()
        if name == "arcnn"
        else RRDBNet(*map(int, ("64/23/32" if name == "rrdb" else name).split("/")))
    )
    rgb = np.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), np.uint8)
    enhance(net, rgb[:64, :64])
    before, started = held("VmRSS"), time.perf_counter()
    plan = tiling(net, None if tile == "None" else int(tile), x=rgb)
    planned = time.perf_counter()
    enhance(net, rgb, plan)
    print(
        json.dumps(
            {
                "net": name,
                "plan": str(plan),
                "peak": round(held("VmHWM") - before, 1),
                "plan_s": round(planned - started, 2),
                "enhance_s": round(time.perf_counter() - planned, 2),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
