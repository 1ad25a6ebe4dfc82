"""What a second process gives: `python tests/benchmarks/processes.py [--batch 4] [--iterations 12]`

The same training, through `fit`, as one process with one thread, one process with two threads, and two
processes with one thread each, which share its batch. RRDB 32/4 and a discriminator of width 32, patches of
128 pixels, psi at a quarter of VGG-19's width. Seconds are medians over iterations after the first three; the
efficiency is the time of one thread over twice that of two.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from qebias.codecs import Jpeg
from qebias.datasets import load_dataset
from qebias.methods import METHODS, train_config
from qebias.pairs import build_pairs
from qebias.training import fit, read_stats

NETWORKS = {
    "RRDBNet": {"width": 32, "blocks": 4, "growth": 32},
    "UNetSN": {"width": 32},
    "VGGStyle": {"width": 32},
}


def seconds(method, args, pairs, folder, processes, threads):
    config = train_config(
        METHODS[method],
        NETWORKS,
        iterations=args.iterations,
        batch=args.batch,
        patch=128,
        psi="random-w16-s0",
        processes=processes,
        threads=threads,
    )
    fit(config, pairs, folder, log_every=1)
    return statistics.median(r["seconds"] for r in read_stats(folder)[3:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("`")[0])
    parser.add_argument("--methods", nargs="+", default=["rrdb", "realesrgan+both"], choices=list(METHODS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=12)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, batch {args.batch} of 128 x 128\n")
    print(
        "| method | 1 process, 1 thread, s | 1 process, 2 threads | 2 processes, 1 thread each |\n"
        "| --- | ---: | ---: | ---: |"
    )
    with tempfile.TemporaryDirectory() as work:
        pairs = build_pairs(
            load_dataset("sample", "train"), Jpeg(20), Path(work) / "pairs" / "jpeg-20", progress=False
        )
        for method in args.methods:
            one, two, both = (
                seconds(method, args, pairs, Path(work) / f"{method}-{p}-{t}", p, t)
                for p, t in ((1, 1), (1, 2), (2, 1))
            )
            print(
                f"| {method} | {one:.3f} | {two:.3f} ({one / two / 2:.0%}) "
                f"| {both:.3f} ({one / both / 2:.0%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
