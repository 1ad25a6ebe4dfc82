"""JPEG coding beside other wheels', where they are there: equal bytes? pictures? which ratio?

    python tests/benchmarks/jpeg.py [--quality 10 30 50] [--rounds 9]

Photographs are those of QEBIAS_DATA/kodak24. The sides take turns on each picture; a ratio is above 1
where the other is faster, and is given as the median over pictures with its range, in processor time.
"""

import argparse
import importlib
import os
import statistics
import time
from pathlib import Path

import numpy as np

from qebias.codecs import Jpeg
from qebias.core import read_rgb


def opencv():
    cv2 = importlib.import_module("cv2")

    def encode(rgb, quality):
        return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    def decode(data):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    return encode, decode


def simplejpeg():
    simple = importlib.import_module("simplejpeg")

    def encode(rgb, quality):
        return simple.encode_jpeg(rgb, quality, colorsubsampling="420", fastdct=False)

    def decode(data):
        return simple.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)

    return encode, decode


def imagecodecs():
    codecs = importlib.import_module("imagecodecs")

    def encode(rgb, quality):
        return codecs.jpeg8_encode(rgb, level=quality, subsampling="420", optimize=False)

    return encode, codecs.jpeg8_decode


def best(call, rounds: int):  # (processor seconds, what it gave)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        found = call()
        times.append(time.process_time() - start)
    return min(times), found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quality", type=int, nargs="+", default=[10, 30, 50])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    paths = sorted((Path(os.environ["QEBIAS_DATA"]) / "kodak24").glob("*.png"))[::3]
    pictures = [read_rgb(path) for path in paths]
    for make in (opencv, simplejpeg, imagecodecs):
        try:
            encode, decode = make()
        except ImportError:
            print(f"{make.__name__} is not installed")
            continue
        ratios, same = {"encode": [], "decode": []}, {"encode": 0, "decode": 0}
        for quality in args.quality:
            codec = Jpeg(quality)
            for rgb in pictures:
                mine, data = best(lambda: codec.encode(rgb), args.rounds)
                other, theirs = best(lambda: encode(rgb, quality), args.rounds)
                ratios["encode"].append(mine / other)
                same["encode"] += data == theirs
                mine, picture = best(lambda: codec.decode(data), args.rounds)
                other, found = best(lambda: decode(data), args.rounds)
                ratios["decode"].append(mine / other)
                same["decode"] += bool(np.array_equal(picture, found))
        for what, found in ratios.items():
            said = f"{statistics.median(found):.2f}x ({min(found):.2f} to {max(found):.2f})"
            print(f"{make.__name__} {what}: {said}, equal in {same[what]} of {len(found)}")


if __name__ == "__main__":
    main()
