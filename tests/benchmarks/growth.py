"""Processor time against image size, data set, methods and levels: `python tests/benchmarks/growth.py --help`

Three points each, the size growing by the same factor, and the exponent between them: 1 is proportional. What
is planned by another process counts with that process. Work that does not grow (imports, a kernel) lowers an
exponent and never raises it.
"""

import argparse
import math
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qebias.codecs import Bpg, Jpeg
from qebias.core import write_png
from qebias.datasets import RawImage, load_dataset
from qebias.generators.arcnn import ARCNN
from qebias.inference import enhance
from qebias.metrics import score
from qebias.pairs import build_pairs
from qebias.study.estimate import dry_run
from qebias.study.keys import Keys, Study, todo
from qebias.study.profile import check_profile

WORK = Path(tempfile.mkdtemp(prefix="growth-"))
NET = ARCNN()


def noise(side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def smooth(side):
    "Like a photograph in what a codec has to do"
    y, x = np.mgrid[:side, :side]
    return (
        (
            np.stack([128 + 90 * np.sin(x / 17 + y / (23 + 5 * c)) for c in range(3)], -1)
            + np.random.default_rng(0).normal(0, 5, (side, side, 3))
        )
        .clip(0, 255)
        .astype(np.uint8)
    )


def images(count):
    return [RawImage(f"p{k}", lambda k=k: noise(64, k)) for k in range(count)]


def folder(count):
    at = WORK / f"folder-{count}"
    for k in range(count):
        if not (at / f"{k}.png").exists():
            write_png(at / f"{k}.png", noise(64, k))
    return at


def study(methods=2, levels=1, pictures=4):
    names = [
        "arcnn",
        "rrdb",
        "esrgan",
        "realesrgan",
        "esrgan+cond",
        "esrgan+div",
        "esrgan+both",
        "realesrgan+cond",
        "realesrgan+div",
        "realesrgan+both",
        "dcad",
        "dncnn",
        "cbdnet",
        "rdn",
        "rbqe",
        "mprnet",
    ][:methods]
    found = Study(
        check_profile(
            {
                "name": "growth",
                "train": f"folder:{folder(pictures)}",
                "holdout": 0.25,
                "evaluate": {"held": f"folder:{folder(pictures)}"},
                "codecs": {"jpeg": list(range(10, 10 + levels))},
                "methods": names,
                "psi": "random-w4-s0",
                "patch": 32,
            }
        ),
        WORK / f"study-{methods}-{levels}-{pictures}",
    )
    return found


def keys(s):
    todo(Keys(s))


def built(count):
    return WORK / f"built-{count}-{time.monotonic_ns()}" / "jpeg-20"


def taking_up(count):
    found, at = images(count), built(count)
    build_pairs(found, Jpeg(20), at, workers=1, progress=False)
    return lambda: build_pairs(found, Jpeg(20), at, workers=1, progress=False)


# what -> (unit, three sizes, how much of the unit a size is, what to prepare -> what to time)
WORKS = {
    "enhance": ("pixels", (96, 192, 384), lambda n: n * n, lambda n: lambda rgb=noise(n): enhance(NET, rgb)),
    "enhance in tiles": (
        "pixels",
        (96, 192, 384),
        lambda n: n * n,
        lambda n: lambda rgb=noise(n): enhance(NET, rgb, 64),
    ),
    "score": (
        "pixels",
        (192, 384, 768),
        lambda n: n * n,
        lambda n: lambda a=noise(n), b=noise(n, 1): score([("x", a, b)], ["psnr", "ssim", "nlpd"], workers=1),
    ),
    "encode bpg": (
        "pixels",
        (96, 192, 384),
        lambda n: n * n,
        lambda n: lambda rgb=smooth(n): Bpg(37).encode(rgb),
    ),
    "encode jpeg": (
        "pixels",
        (256, 512, 1024),
        lambda n: n * n,
        lambda n: lambda rgb=smooth(n): Jpeg(20).encode(rgb),
    ),
    "build_pairs": (
        "pictures",
        (20, 80, 320),
        lambda n: n,
        lambda n: lambda found=images(n): build_pairs(found, Jpeg(20), built(n), workers=1, progress=False),
    ),
    "taking up a store": ("pictures", (20, 80, 320), lambda n: n, taking_up),
    "reading a folder": (
        "pictures",
        (20, 80, 320),
        lambda n: n,
        lambda n: lambda at=folder(n): load_dataset(f"folder:{at}"),
    ),
    "keys, data set": ("pictures", (20, 80, 320), lambda n: n, lambda n: lambda s=study(pictures=n): keys(s)),
    "keys, methods": ("methods", (4, 8, 16), lambda n: n, lambda n: lambda s=study(methods=n): keys(s)),
    "keys, levels": ("levels", (4, 16, 64), lambda n: n, lambda n: lambda s=study(levels=n): keys(s)),
    "dry run, data set": (
        "pictures",
        (20, 80, 320),
        lambda n: n,
        lambda n: lambda s=study(pictures=n): dry_run(s),
    ),
    "dry run, methods": ("methods", (4, 8, 16), lambda n: n, lambda n: lambda s=study(methods=n): dry_run(s)),
    "dry run, levels": ("levels", (4, 16, 64), lambda n: n, lambda n: lambda s=study(levels=n): dry_run(s)),
}


def spent():
    return sum(
        r.ru_utime + r.ru_stime
        for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(call, least):
    "The best of a few runs; a long one is run once"
    best, until = math.inf, spent() + least
    while True:
        start = spent()
        call()
        best = min(best, spent() - start)
        if spent() > until:
            return best


def measure(name, least=0.5):
    unit, sizes, amount, prepare = WORKS[name]
    if not name.startswith("dry run"):
        prepare(sizes[0])()  # imports
    seconds = [timed(prepare(n), least if not name.startswith("dry run") else 0) for n in sizes]
    amounts = [amount(n) for n in sizes]
    exponents = [
        math.log(b / a) / math.log(y / x) for a, b, x, y in zip(seconds, seconds[1:], amounts, amounts[1:])
    ]
    return {"what": name, "unit": unit, "amounts": amounts, "seconds": seconds, "exponents": exponents}


COLOURS = (
    "#23649C", "#C9772A", "#5E8C61", "#A06A9C", "#8C8C8C", "#0B3A6B", "#B79F3A",
    "#9C3E6B", "#3E9C9C", "#222222",
)  # fmt: skip


def read(page):
    "The rows of a table that was printed, so that its picture can be drawn again"
    rows = []
    for line in Path(page).read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if name in WORKS:
            amounts = [int(a.replace(",", "")) for a in cells[1].split(", ")]
            seconds = [float(s) for s in cells[2].split(", ")]
            rows.append({"what": name, "unit": cells[0], "amounts": amounts, "seconds": seconds})
    return rows


def draw(rows, png):
    "A panel a unit; a colour belongs to one kind of work in all panels"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(r["unit"] for r in rows))
    kinds = list(dict.fromkeys(r["what"].partition(",")[0] for r in rows))
    fig = Figure(figsize=(2.9 * len(units), 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(fig)
    for ax, unit in zip(fig.subplots(1, len(units), squeeze=False, sharey=True)[0], units):
        shown = [r for r in rows if r["unit"] == unit]
        for r in shown:
            at = kinds.index(r["what"].partition(",")[0])
            look = {"color": COLOURS[at], "marker": "osv^DPX<>*"[at]}
            ax.loglog(r["amounts"], r["seconds"], ms=4, lw=1, label=r["what"], **look)
        least, most = min(r["amounts"][0] for r in shown), max(r["amounts"][-1] for r in shown)
        ax.loglog([least, most], [2e-4, 2e-4 * most / least], ":", color="0.5", lw=1, label="proportional")
        ticks = [least, round(math.sqrt(least * most)), most]
        ax.set_xticks(ticks, [f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f} k" for n in ticks])
        ax.minorticks_off()
        ax.set(xlabel=unit)
        ax.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    fig.axes[0].set_ylabel("processor time in s")
    fig.savefig(png, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", help="picture to draw")
    parser.add_argument("--redraw", metavar="PAGE", help="a page with the table; nothing is measured")
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    options = parser.parse_args()
    if options.redraw:
        draw(read(options.redraw), options.png)
        return
    torch.set_num_threads(1)
    print("| | of | sizes | seconds | exponents |\n| --- | --- | --- | --- | --- |")
    rows = []
    for name in options.only:
        rows.append(r := measure(name))
        print(
            f"| {name} | {r['unit']} | {', '.join(f'{a:,}' for a in r['amounts'])} "
            f"| {', '.join(f'{s:.3g}' for s in r['seconds'])} "
            f"| {', '.join(f'{e:.2f}' for e in r['exponents'])} |",
            flush=True,
        )
    if options.png:
        draw(rows, options.png)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
