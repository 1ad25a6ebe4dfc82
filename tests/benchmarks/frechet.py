"""The Frechet distance beside pyiqa's: `python tests/benchmarks/frechet.py [--n 100] [--d 2048] [--rounds 3]`

Processor time from two sets of n features of d dimensions, random but of unequal scales, to the distance.
pyiqa's is what its FID does with features: covariances, then scipy's root of their d x d product. Ours needs
the eigenvalues of an n x n matrix only. The sides take turns; above 1 ours is the faster.
"""

import argparse
import statistics
import time

import numpy as np
from pyiqa.archs.fid_arch import frechet_distance as roots

from qebias.metrics import frechet_distance


def theirs(a, b):
    means = a.mean(0), b.mean(0)
    spreads = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return roots(means[0], spreads[0], means[1], spreads[1])


def took(call, *arguments):  # (processor seconds, what it gave)
    start = time.process_time()
    found = call(*arguments)
    return time.process_time() - start, float(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("n", 100), ("d", 2048), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    dice, ratios, times = np.random.default_rng(0), [], []
    for _ in range(args.rounds):
        scales = dice.uniform(0.1, 1, args.d)
        a, b = dice.normal(0, scales, (args.n, args.d)), dice.normal(0.1, scales, (args.n, args.d))
        frechet_distance(a, b)  # its imports
        ours, found = took(frechet_distance, a, b)
        other, wanted = took(theirs, a, b)
        times.append(1000 * ours)
        ratios.append(other / ours)
        print(f"{1000 * ours:.1f} ms, {other:.2f} s; {found:.6g}, {wanted:.6g}", flush=True)
    print(f"ours {statistics.median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})")
    print(f"{statistics.median(ratios):,.0f}x ({min(ratios):,.0f} to {max(ratios):,.0f})")


if __name__ == "__main__":
    main()
