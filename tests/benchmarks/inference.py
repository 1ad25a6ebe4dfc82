"""Megapixels a second of every network, `enhance` beside the plain call: `python tests/benchmarks/inference.py [--side 256] [--threads 2] [--rounds 3] [--clock wall]`

The plain call is `model(x)` under `no_grad`, from a float tensor to a float tensor, its channels first; `enhance` goes from a uint8
picture to a uint8 picture. Both in one process, in turn, the best round of each counts. `--clock cpu` counts the processor's time
instead of the wall's, for a machine that others use, with one thread. The weights are fresh, from one seed. A row is a line of a
markdown table: speed of the plain call, how many times as fast `enhance` is in fp32, in tiles, and in bf16, and the largest
difference of any value to the plain call in grey levels.
"""

import argparse
import importlib
import os
import platform
import time

import numpy as np
import torch

from qebias.inference import enhance, enhance_tensor, tiling, to_tensor

NETWORKS = {
    "arcnn": "ARCNN",
    "dcad": "DCAD",
    "dncnn": "DnCNN",
    "cbdnet": "CBDNet",
    "rdn": "RDN",
    "rbqe": "RBQE",
    "mprnet": "MPRNet",
    "rrdb": "RRDBNet",
}


def compare(name, side, tile, rounds, clock):
    torch.manual_seed(0)
    net = getattr(importlib.import_module(f"qebias.generators.{name}"), NETWORKS[name])().eval()
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    x = to_tensor(rgb)
    plan = (
        tiling(net, tile, 16 if getattr(net, "reach", None) and net.reach > 64 else None, rgb)
        if getattr(net, "reach", None)
        else None
    )
    ways = {
        "plain": torch.no_grad()(lambda: net(x)),
        "fp32": lambda: enhance(net, rgb),
        "bf16": lambda: enhance(net, rgb, precision="bf16"),
    }
    if plan and plan.tile:
        ways["tiles"] = lambda: enhance(net, rgb, plan)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, call in ways.items():
            start = clock()
            call()
            best[way] = min(best[way], clock() - start)
    plain = ways["plain"]()
    off = [255 * (enhance_tensor(net, x, precision=p) - plain).abs().max().item() for p in ("fp32", "bf16")]
    return (
        side * side / 1e6 / best["plain"],
        {way: best["plain"] / seconds for way, seconds in best.items()},
        off,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("side", 256), ("tile", 128), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, {options.clock} time, {options.side} x {options.side} pixels\n"
    )
    print(
        f"| network | `model(x)`, Mpx/s | `enhance`, fp32 | in tiles of {options.tile} | bf16 | largest difference in grey levels, fp32 | bf16 |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in options.networks:
        speed, ratio, off = compare(name, options.side, options.tile, options.rounds, clock)
        tiles = f"{ratio['tiles']:.2f}x" if "tiles" in ratio else "-"
        print(
            f"| {NETWORKS[name]} | {speed:.3f} | {ratio['fp32']:.2f}x | {tiles} | {ratio['bf16']:.2f}x | {off[0]:.2g} | {off[1]:.2g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
