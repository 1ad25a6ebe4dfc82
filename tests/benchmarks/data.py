"""What the data cost a training: `python tests/benchmarks/data.py [--rounds 30]`

Three tables: cutting a batch and turning it into floats beside the training step that uses it, for the
fastest networks; the memory that a sampler takes over stores of 10, 100 and 1000 pictures; and how much of a
store's build is not the codec's time, with one worker and with two. All times are the processor's, of this
process and its children, so that other work on the machine counts for little; the build's time on the clock
stands beside it. Another version of the package is measured by `PYTHONPATH=CHECKOUT`.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qebias.codecs import Bpg, Jpeg, code
from qebias.datasets import RawImage
from qebias.methods import METHODS, train_config
from qebias.pairs import Pairs, PatchSampler, _Writer, build_pairs, to_float
from qebias.study.profile import load_profile
from qebias.training import Trainer

DEMO = load_profile("demo")  # whose fidelity stage trains a small DnCNN in RRDBNet's place
STEPS = [("arcnn", {}, 128, 16), ("arcnn", {}, 64, 4), ("rrdb", DEMO.networks, DEMO.patch, 4)]


def used(who=resource.RUSAGE_CHILDREN):
    spent = resource.getrusage(who)
    return spent.ru_utime + spent.ru_stime


def photographs(count, height=320, width=480):
    "Smooth pictures with some noise, which a codec treats as it treats photographs"

    def load(k):
        rng = np.random.default_rng(k)
        coarse = rng.integers(0, 256, (height // 32, width // 32, 3)).astype(np.float32)
        smooth = (
            torch.nn.functional.interpolate(
                torch.from_numpy(coarse).permute(2, 0, 1)[None], (height, width), mode="bicubic"
            )[0]
            .permute(1, 2, 0)
            .numpy()
        )
        return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)

    return [RawImage(f"p{k:04}", lambda k=k: load(k)) for k in range(count)]


def median(call, rounds):
    times = []
    for k in range(rounds):
        start = time.process_time()
        call(k)
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def shares(folder, rounds):
    pairs = build_pairs(photographs(8), Jpeg(20), folder / "steps/jpeg-20", workers=1, progress=False)
    print(
        "| step | patches | cutting and floats, ms | step, ms | share |\n| --- | --- | ---: | ---: | ---: |"
    )
    for method, networks, patch, batch in STEPS:
        sampler = PatchSampler(pairs, patch, batch, 0)
        trainer = Trainer(
            train_config(METHODS[method], networks, iterations=100, batch=batch, patch=patch, threads=1)
        )
        data = median(lambda k: to_float(sampler(k)), rounds)
        floats = to_float(sampler(0))
        for k in range(2):
            trainer.step(k, *floats)
        step = median(lambda k: trainer.step(k, *floats), max(rounds // 5, 3))
        print(
            f"| {method}{' of demo' if networks else ''} | {batch} of {patch} "
            f"| {data:.2f} | {step:.1f} | {data / step:.1%} |",
            flush=True,
        )


def stored(folder, count, side=256):
    "A store of noise, both sides"
    for name, more in (
        ("raw", {"key": "k"}),
        ("jpeg-20", {"key": "k", "raw": "k", "codec": {"codec": "jpeg", "level": 20}, "suffix": ".jpg"}),
    ):
        (folder / name).mkdir(parents=True)
        with _Writer(folder / name) as writer:
            for k in range(count):
                writer.add(
                    f"p{k}",
                    np.random.default_rng(k).integers(0, 256, (side, side, 3), np.uint8),
                    nbytes=1,
                    bpp=1.0,
                    stream="",
                )
            writer.close(**more)
    return Pairs(folder / "jpeg-20")


def anonymous():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024


def memory(folder):
    print(
        "\n| pictures | store, MB | memory of its own that the sampler takes, MiB |\n| ---: | ---: | ---: |"
    )
    for count in (10, 100, 1000):
        before = anonymous()
        sampler = PatchSampler(stored(folder / str(count), count), 128, 16, 0)
        for k in range(100):
            sampler(k)
        print(f"| {count} | {2 * count * 3 * 256 * 256 / 1e6:.0f} | {anonymous() - before:.1f} |", flush=True)


def build(folder, size):
    print(
        "\n| codec | pictures | workers | time, s | all processor time, s "
        "| in the codec alone, s | outside of it |"
        "\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for codec, count in ((Jpeg(20), 60), (Bpg(37), 6)):
        arrays = [image() for image in photographs(count, *size)]
        images = [RawImage(f"p{k:04}", lambda rgb=rgb: rgb) for k, rgb in enumerate(arrays)]
        build_pairs(
            images, Jpeg(90), folder / f"{codec.name}/warm", workers=1, progress=False
        )  # the raw side
        start = time.process_time()
        for rgb in arrays:
            code(rgb, codec)
        alone = time.process_time() - start
        for workers in (1, 2):
            clock, start, children = time.perf_counter(), time.process_time(), used()
            build_pairs(images, codec, folder / f"{codec.name}/{workers}", workers=workers, progress=False)
            spent, clock = time.process_time() - start + used() - children, time.perf_counter() - clock
            print(
                f"| {codec.name} | {count} of {size[1]}x{size[0]} | {workers} "
                f"| {clock:.2f} | {spent:.2f} | {alone:.2f} | {1 - alone / spent:.0%} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(320, 480),
        metavar=("HEIGHT", "WIDTH"),
        help="of the pictures whose store is built",
    )
    parser.add_argument("--only", choices=("shares", "memory", "build"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        if options.only in (None, "shares"):
            shares(Path(work), options.rounds)
        if options.only in (None, "memory") and os.path.exists("/proc/self/status"):
            memory(Path(work) / "memory")
        if options.only in (None, "build"):
            build(Path(work) / "build", options.size)


if __name__ == "__main__":
    main()
