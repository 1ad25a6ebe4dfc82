"""BPG beside libbpg's own programs, picture by picture: PSNR and bytes at equal QP, BD-rate, processor time

    python tests/benchmarks/bpg.py --programs FOLDER [--encoder jctvc] [--levels 27 32] [--out pairs.jsonl]

FOLDER holds `bpgenc` and `bpgdec` of libbpg 0.9.8, built with the encoder that is asked for. The photographs
are those of QEBIAS_DATA/kodak24. Both sides' files are decoded by `Bpg`, so that what differs is the encoder;
what differs where libbpg's file is decoded by `bpgdec` is told apart. Times are of the processor: of this
process for ours, of the program for libbpg's, which reads a PNG and writes a PPM; the sides take turns.
`--decoding` times decoding alone: both sides decode the file that `Bpg` wrote, in turn, three times each.
With `--out` each pair is kept as it is made, and a run that is started again goes on from there.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from qebias.codecs import Bpg
from qebias.core import read_rgb


def psnr(a, b) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error))


def run_timed(*command) -> float:  # processor seconds of a program
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(rgb, codec) -> dict:
    start = time.process_time()
    data = codec.encode(rgb)
    middle = time.process_time()
    back = codec.decode(data)
    end = time.process_time()
    return {
        "bytes": len(data),
        "psnr": psnr(rgb, back),
        "encode": middle - start,
        "decode": end - middle,
    }


def theirs(path, rgb, codec, programs, folder) -> dict:
    written, shown = Path(folder) / "a.bpg", Path(folder) / "a.ppm"
    encoder = ["-q", str(codec.qp), "-e", codec.encoder]
    encode = run_timed(programs / "bpgenc", *encoder, "-o", written, path)
    decode = run_timed(programs / "bpgdec", "-o", shown, written)
    return {
        "bytes": written.stat().st_size,
        "psnr": psnr(rgb, codec.decode(written.read_bytes())),
        "psnr, bpgdec": psnr(rgb, np.asarray(Image.open(shown))),
        "encode": encode,
        "decode": decode,
    }


def pairs(paths, levels, encoder, programs, out) -> list[dict]:
    "A dictionary for each picture and level; what `out` holds is not made again"
    done = [json.loads(line) for line in out.read_text().splitlines()] if out and out.exists() else []
    known = {(one["picture"], one["qp"], one["encoder"]) for one in done}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            rgb = read_rgb(path)
            for qp in levels:
                if (path.stem, qp, encoder) in known:
                    continue
                codec = Bpg(qp, encoder)
                one = {"picture": path.stem, "qp": qp, "encoder": encoder}
                one["ours"] = ours(rgb, codec)
                one["theirs"] = theirs(path, rgb, codec, programs, folder)
                done.append(one)
                if out:
                    with out.open("a") as file:
                        file.write(json.dumps(one) + "\n")
    return [one for one in done if one["encoder"] == encoder and one["qp"] in levels]


def bd_rates(found) -> dict:  # picture -> per cent
    import bjontegaard

    rates = {}
    for picture in sorted({one["picture"] for one in found}):
        own = sorted((one for one in found if one["picture"] == picture), key=lambda one: one["qp"])
        sides = [
            [one[side][what] for one in own] for side in ("theirs", "ours") for what in ("bytes", "psnr")
        ]
        rates[picture] = bjontegaard.bd_rate(*sides, method="akima")
    return rates


def decoding(paths, levels, encoder, programs) -> None:
    "Print how many times as fast as `bpgdec` our decoding is, by QP"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        written, shown = Path(folder) / "a.bpg", Path(folder) / "a.ppm"
        for path in paths:
            for qp in levels:
                codec = Bpg(qp, encoder)
                data = codec.encode(read_rgb(path))
                written.write_bytes(data)
                for _ in range(3):
                    start = time.process_time()
                    codec.decode(data)
                    mine = time.process_time() - start
                    theirs = run_timed(programs / "bpgdec", "-o", shown, written)
                    found.append({"qp": qp, "ours": {"decode": mine}, "theirs": {"decode": theirs}})
    for qp in [*levels, "all"]:
        print(f"| {qp} | {ratio([one for one in found if qp in ('all', one['qp'])], 'decode')} |")


def spread(values, digits=3) -> str:
    low, mean, high = min(values), statistics.fmean(values), max(values)
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def ratio(found, what) -> str:
    factors = [one["theirs"][what] / one["ours"][what] for one in found]
    return f"{statistics.median(factors):.2f}x ({min(factors):.2f} to {max(factors):.2f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--encoder", default="jctvc")
    parser.add_argument("--levels", type=int, nargs="+", default=[27, 32, 37, 42, 47])
    parser.add_argument("--pictures", nargs="*", help="their names; all if left out")
    parser.add_argument("--decoding", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    paths = sorted((Path(os.environ["QEBIAS_DATA"]) / "kodak24").glob("*.png"))
    paths = [path for path in paths if not args.pictures or path.stem in args.pictures]
    if args.decoding:
        return decoding(paths, args.levels, args.encoder, args.programs.resolve())
    found = pairs(paths, args.levels, args.encoder, args.programs.resolve(), args.out)
    print("mean over pictures, and the range of single pictures")
    print("| QP | ours less libbpg's, dB | bytes, % | by bpgdec instead, dB | encoding | decoding |")
    print("| --- | --- | --- | --- | --- | --- |")
    for qp in [*args.levels, "all"]:
        some = [one for one in found if qp in ("all", one["qp"])]
        decibels = spread([one["ours"]["psnr"] - one["theirs"]["psnr"] for one in some])
        sizes = spread([100 * (one["ours"]["bytes"] / one["theirs"]["bytes"] - 1) for one in some], 2)
        own = spread([one["theirs"]["psnr, bpgdec"] - one["theirs"]["psnr"] for one in some])
        print(f"| {qp} | {decibels} | {sizes} | {own} | {ratio(some, 'encode')} | {ratio(some, 'decode')} |")
    worst = min(found, key=lambda one: one["ours"]["psnr"] - one["theirs"]["psnr"])
    print(f"lowest: {worst['picture']} at QP {worst['qp']}")
    if len(args.levels) > 3:
        rates = bd_rates(found)
        least, most = min(rates, key=rates.get), max(rates, key=rates.get)
        print(f"BD-rate, %: {spread([*rates.values()], 2)}; lowest {least}, highest {most}")


if __name__ == "__main__":
    main()
