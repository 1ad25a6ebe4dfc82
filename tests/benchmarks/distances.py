"""Resampled Fréchet distances, what resamples share computed once: `python tests/benchmarks/distances.py`

Processor time of the distances of 200 resamples of 100 pictures, one by one as `frechet_distance` of the rows
that were drawn, and at once as `frechet_resampled`, in turn; random features of AlexNet's and of the scene
statistics' size.
"""

import argparse
import time

import numpy as np
import torch

from qebias.metrics import frechet_distance, frechet_resampled
from qebias.stats import resamples

SIZES = {"fd_alex": (1, 256), "fd_nss": (4, 36)}  # rows a picture, features a row


def one_by_one(a, b, owner, times):
    "A distance of the drawn rows for each resample"
    found = []
    for draw in times:
        rows = np.repeat(np.arange(len(a)), draw[owner])
        found.append(frechet_distance(a[rows], b[rows]))
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"{i:03d}" for i in range(100)]
    times = np.stack([np.bincount(draw, minlength=100) for draw in resamples(names)])
    generator = np.random.default_rng(0)
    print("| distance | one by one, s | at once, s | ratio |\n| --- | ---: | ---: | ---: |")
    for name, (each, width) in SIZES.items():
        a = generator.normal(size=(100 * each, width))
        b = a + 0.3 * generator.normal(size=a.shape)
        owner = np.repeat(np.arange(100), each)
        least, found = [float("inf")] * 2, [None, None]
        for _ in range(options.rounds):
            for k, way in enumerate((one_by_one, frechet_resampled)):
                start = time.process_time()
                found[k] = way(a, b, owner, times)
                least[k] = min(least[k], time.process_time() - start)
        assert np.allclose(*found, rtol=1e-6)
        print(f"| {name} | {least[0]:.3f} | {least[1]:.3f} | {least[0] / least[1]:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
