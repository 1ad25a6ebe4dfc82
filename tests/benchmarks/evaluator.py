"""The evaluator beside pyiqa, metric by metric, over a folder: `python tests/benchmarks/evaluator.py --help`

Both score the same pairs of PNG files with psnr, ssim, nlpd, lpips-alex and niqe, in one process and with the
same number of threads. pyiqa does it as its documentation shows: `create_metric`, then `metric(enhanced file,
raw file)`, one metric after the other. Ours is `qebias.metrics.score` over functions that read the files.
Either builds its networks anew in every round, imports are made before; the order alternates, and the best
round of each counts. The photographs (JPEG, quality 20) are those of QEBIAS_DATA/kodak24, the weights those
of QEBIAS_WEIGHTS; without photographs, scenes of scikit-image.
"""

import argparse
import datetime
import functools
import io
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest.mock import patch

NAMES = {
    "psnr": "psnr",
    "ssim": "ssim",
    "nlpd": "nlpd",
    "lpips-alex": "lpips",
    "niqe": "niqe",
}  # ours -> pyiqa's


def pictures(count):
    "uint8 arrays, and what they are"
    from qebias.core import read_rgb

    folder = os.environ.get("QEBIAS_DATA")
    if folder and (Path(folder) / "kodak24").is_dir():
        return [
            read_rgb(path) for path in sorted((Path(folder) / "kodak24").glob("*.png"))[:count]
        ], "kodak24"
    from skimage import data

    return [data.astronaut(), data.coffee(), data.chelsea()][:count], "scikit-image"


def fill(work, count):
    "Folders raw/ and enhanced/ of PNG files"
    import numpy as np
    from PIL import Image

    from qebias.core import write_png

    images, what = pictures(count)
    for i, rgb in enumerate(images):
        Image.fromarray(rgb).save(stream := io.BytesIO(), "JPEG", quality=20)
        write_png(work / "raw" / f"{i:02}.png", rgb)
        write_png(work / "enhanced" / f"{i:02}.png", np.array(Image.open(stream)))
    return sorted((work / "raw").iterdir()), sorted((work / "enhanced").iterdir()), what


def cache_for_pyiqa(home):
    "Put the weight files where pyiqa and torchvision look, so that neither asks the network"
    import torch
    import torchvision

    from qebias.metrics import ALEXNET
    from qebias.weights import find, find_any

    state = torchvision.models.alexnet().state_dict()
    state = {key: torch.zeros(1).expand(value.shape) for key, value in state.items()} | torch.load(
        find_any(*ALEXNET), map_location="cpu"
    )
    (home / "hub/checkpoints").mkdir(parents=True)
    (home / "hub/pyiqa").mkdir()
    torch.save(state, home / "hub/checkpoints" / ALEXNET[0])
    for file in ("LPIPS_v0.1_alex-df73285e.pth", "niqe_modelparameters.mat"):
        (home / "hub/pyiqa" / file).symlink_to(find(file).resolve())


def by_pyiqa(names, raw, enhanced):
    import pyiqa

    values, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        metric = pyiqa.create_metric(NAMES[name], device="cpu")
        both = metric.metric_mode == "FR"
        for r, e in zip(raw, enhanced):
            values[e.stem, name] = float((metric(str(e), str(r)) if both else metric(str(e))).squeeze())
        seconds[name] = time.perf_counter() - start
    return values, seconds


def by_ours(names, raw, enhanced):
    from qebias.core import read_rgb
    from qebias.metrics import score

    start = time.perf_counter()
    table = score(
        [
            (e.stem, functools.partial(read_rgb, e), functools.partial(read_rgb, r))
            for r, e in zip(raw, enhanced)
        ],
        names,
    )
    return {(row.image, row.metric): row.value for row in table.itertuples()}, {
        "all": time.perf_counter() - start
    }


def compare(count=24, threads=2, rounds=2, wanted=tuple(NAMES)):
    "Times and values of both: a dictionary"
    import torch

    from qebias.core import package_versions
    from qebias.metrics import available

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    names = available(list(wanted))[0]
    times, values, parts = {"pyiqa": [], "ours": []}, {}, []
    with tempfile.TemporaryDirectory() as work:
        if not available(["lpips-alex", "niqe"])[1]:
            cache_for_pyiqa(Path(work) / "torch")
        names = [n for n in names if n not in ("lpips-alex", "niqe") or (Path(work) / "torch").exists()]
        raw, enhanced, what = fill(Path(work), count)

        def by_pyiqa_there(*arguments):
            with patch.dict(os.environ, {"TORCH_HOME": work + "/torch"}):
                return by_pyiqa(*arguments)

        sides = ("pyiqa", by_pyiqa_there), ("ours", by_ours)
        for side, call in sides:
            call(names, raw[:1], enhanced[:1])
        for k in range(rounds):
            for side, call in sides[:: 1 - 2 * (k % 2)]:
                values[side], seconds = call(names, raw, enhanced)
                times[side].append(sum(seconds.values()))
                if side == "pyiqa":
                    parts.append(seconds)
    torch.set_num_threads(before)
    best = parts[times["pyiqa"].index(min(times["pyiqa"]))]
    worst = {
        n: max(
            abs(values["ours"][key] - v) / max(abs(v), 1e-12)
            for key, v in values["pyiqa"].items()
            if key[1] == n
        )
        for n in names
    }
    return {
        "pictures": what,
        "images": len(raw),
        "threads": threads,
        "pyiqa": times["pyiqa"],
        "ours": times["ours"],
        "pyiqa by metric": best,
        "ratio": min(times["pyiqa"]) / min(times["ours"]),
        "largest relative difference": worst,
        "versions": package_versions(("pyiqa", "torch", "numpy")),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("images", 24), ("threads", 2), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--metrics", nargs="+", choices=list(NAMES), default=list(NAMES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = compare(options.images, options.threads, options.rounds, options.metrics)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}; "
        f"{found['images']} images of {found['pictures']}, {found['threads']} threads; {found['versions']}"
    )
    for side in ("pyiqa", "ours"):
        print(f"{side:6}", *(f"{seconds:.2f} s" for seconds in found[side]))
    print("pyiqa by metric:", ", ".join(f"{n} {s:.2f} s" for n, s in found["pyiqa by metric"].items()))
    print(
        "largest relative difference:",
        ", ".join(f"{n} {d:.1e}" for n, d in found["largest relative difference"].items()),
    )
    print(f"ratio {found['ratio']:.2f}")
    if found["ratio"] < 2 or max(found["largest relative difference"].values()) > 1e-5:
        sys.exit("slower than twice as fast, or other values")


if __name__ == "__main__":
    main()
