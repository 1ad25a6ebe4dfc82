"""Speed of every network and way of computing: `python tests/benchmarks/inference.py --help`

The plain call is `model(x)` under `no_grad`, channels first, from a float tensor to a float tensor; the
others go from a uint8 picture to a uint8 picture by `enhance`: in fp32, in bf16, and by ONNX Runtime and
OpenVINO where they are installed. All in one process and in turn, on processor time, so that a machine with
other work gives ratios too. A cell is the median over the rounds of how many times as fast it is, its
smallest and largest, and the largest difference to the plain call in grey levels. The weights are fresh, from
one seed (`rrdb-residual` adds its input, as the trained ones here do), or those of `--weights
FOLDER/NAME.pt`, where bf16 shows what it costs a trained network. With `--tile N` the ways are fp32 at once
and fp32 in tiles of N pixels.
"""

import argparse
import importlib
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from qebias.core import QebiasError
from qebias.export import compiled
from qebias.inference import enhance, enhance_tensor, to_tensor

NETWORKS = {
    "arcnn": "ARCNN",
    "dcad": "DCAD",
    "dncnn": "DnCNN",
    "cbdnet": "CBDNet",
    "rdn": "RDN",
    "rbqe": "RBQE",
    "mprnet": "MPRNet",
    "rrdb": "RRDBNet",
    "rrdb-residual": "RRDBNet",
}
WAYS = {
    "fp32": ("torch", "fp32"),
    "bf16": ("torch", "bf16"),
    "onnxruntime": ("onnxruntime", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino bf16": ("openvino", "bf16"),
}


def network(name, weights):
    torch.manual_seed(0)
    module, _, residual = name.partition("-")
    kind = getattr(importlib.import_module(f"qebias.generators.{module}"), NETWORKS[name])
    net = kind(**({"residual": True} if residual else {})).eval()
    if weights:
        net.load_state_dict(torch.load(weights / f"{name}.pt", weights_only=True))
    return net


def picture(path, side):
    "A crop of a picture, or smooth noise"
    if path:
        from PIL import Image

        return np.asarray(Image.open(path).convert("RGB"))[:side, :side]
    coarse = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def ways_of(tile):
    "Way -> (engine, precision, tile)"
    if tile:
        return {"at once": ("torch", "fp32", None), "in tiles": ("torch", "fp32", tile)}
    return {way: (*parts, None) for way, parts in WAYS.items()}


def compare(net, rgb, rounds, threads, ways):
    "Way -> (median, smallest, largest ratio to the plain call; grey levels off)"
    x, calls, off = to_tensor(rgb), {}, {}
    plain = torch.no_grad()(lambda: net(x))
    for way, (backend, precision, tile) in ways.items():
        try:
            fast = compiled(net, backend, precision, threads)
        except QebiasError:
            continue
        arithmetic = precision if backend == "torch" else "fp32"
        calls[way] = lambda fast=fast, p=arithmetic, tile=tile: enhance(fast, rgb, tile, precision=p)
        gap = enhance_tensor(fast, x, tile, precision=arithmetic) - plain()
        off[way] = 255 * gap.abs().max().item()
        calls[way]()
    ratios = {way: [] for way in calls}
    for _ in range(rounds):
        seconds = took(plain)
        for way, call in calls.items():
            ratios[way].append(seconds / took(call))
    return {w: (statistics.median(r), min(r), max(r), off[w]) for w, r in ratios.items()}


def took(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("side", 160), ("threads", 1), ("rounds", 5), ("tile", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--weights", type=Path, help="folder of NAME.pt, state dicts of trained networks")
    parser.add_argument("--picture", type=Path, help="whose upper left corner is enhanced")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = (
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads"
    )
    print(f"{about}, {options.side} x {options.side} pixels, {options.rounds} rounds\n")
    ways = ways_of(options.tile)
    print("| network | " + " | ".join(ways) + " |\n| --- |" + " --- |" * len(ways))
    rgb = picture(options.picture, options.side)
    for name in options.networks:
        found = compare(network(name, options.weights), rgb, options.rounds, options.threads, ways)
        cells = []
        for way in ways:
            if way in found:
                middle, low, high, off = found[way]
                cells.append(f"{middle:.2f}x ({low:.2f} to {high:.2f}), {off:.2g}")
            else:
                cells.append("-")
        shown = NETWORKS[name] + name.removeprefix(name.partition("-")[0]).replace("-", ", ")
        print(f"| {shown} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
