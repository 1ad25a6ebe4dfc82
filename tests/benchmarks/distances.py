"""The distances of an evaluation with and without what methods share: `python tests/benchmarks/distances.py [--patch 64] [--rounds 3]`

Processor time of `measure` for a method on the pictures of a level, alone and with the raw and compressed side that `shared` has kept in a
file (its reading counts), in turn, and of making that file once. Scenes of scikit-image, JPEG at quality 20, blurred as a method would not;
all distances that this machine can compute.
"""

import argparse
import tempfile
import time

import numpy as np
import torch
from PIL import Image, ImageFilter

from qebias.bias import DISTANCES, measure, shared
from qebias.codecs import Jpeg
from qebias.datasets import load_dataset
from qebias.metrics import available


def best(calls, rounds):
    "The least processor time of each, one after the other in every round, and what they gave"
    times, found = [float("inf")] * len(calls), [None] * len(calls)
    for _ in range(rounds):
        for k, call in enumerate(calls):
            start = time.process_time()
            found[k] = call()
            times[k] = min(times[k], time.process_time() - start)
    return times, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes = load_dataset("sample", "eval")
    names, raw = [scene.name for scene in scenes], [scene() for scene in scenes]
    compressed = [Jpeg(20).decode(Jpeg(20).encode(rgb)) for rgb in raw]
    enhanced = [np.array(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(0.7))) for rgb in compressed]
    print(
        "| distance | a method alone, s | with the shared side, s | ratio | making it once, s |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for distance in available(DISTANCES)[0]:
        with tempfile.TemporaryDirectory() as folder:

            def side():
                return shared(distance, raw, compressed, names, folder, options.patch)

            def alone(cache=None):
                return measure(distance, raw, compressed, enhanced, names, options.patch, cache=cache)

            alone()  # imports
            start = time.process_time()
            side()
            once = time.process_time() - start
            (plain, kept), (a, b) = best([alone, lambda: alone(side())], options.rounds)
            assert a.s == b.s
            print(f"| {distance} | {plain:.3f} | {kept:.3f} | {plain / kept:.2f}x | {once:.3f} |", flush=True)


if __name__ == "__main__":
    main()
