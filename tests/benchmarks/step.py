"""A GAN's training step: ours beside the textbook's, and beside BasicSR's own `optimize_parameters`

    python tests/benchmarks/step.py [--basicsr PATH] [--methods realesrgan esrgan]
        [--networks 64/23/64 32/16/32] [--batch 4] [--device cpu] [--parts]

The same networks (RRDB width/blocks, growth 32, and the discriminator's width), the same batch of 128 x 128
patches, VGG-19 at full width with random weights. Contenders take turns, one step each, in one process; a row
gives medians and minima, and the median and range over rounds of the first contender's time over this one's.
`floor` is what the convolutions of that step would take at the highest rate that a convolution of 256
channels reached on this machine just after: no step that computes them can be faster. With --parts a profile
of one step says how many seconds lie in convolutions, forward and backward, and in everything else. On a GPU
our step is recorded as a CUDA graph, and measured after that; --parts takes it one operation at a time, as
the profile must. BasicSR's checkout is imported as in `peers.py`; its step computes in fp32 only.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import peers
import torch
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from qebias.methods import METHODS, train_config
from qebias.training import StepGraph, Trainer, device_name, textbook_step

PATCH, PSI = 128, "random-w64-s0"


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(call, device):
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def best_rate(device, precision):
    "Multiply-adds a second of a 3 x 3 convolution with 256 channels, channels last"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 4 if device.type == "cpu" else 64
    x, w = (
        torch.randn(*s, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for s in ((n, 256, 32, 32), (256, 256, 3, 3))
    )
    with torch.no_grad():
        took = min(clock(lambda: F.conv2d(x, w, padding=1), device) for _ in range(20))
    return n * 32 * 32 * 256 * 256 * 9 / took


def our_trainer(method, networks, args, precision):
    return Trainer(
        train_config(
            METHODS[method],
            networks,
            iterations=1000,
            batch=args.batch,
            patch=PATCH,
            psi=PSI,
            precision=precision,
            device=args.device,
            threads=args.threads,
        ),
        graph=args.device == "cuda" and not args.parts,
    )


def their_model(peer, method, networks, args):
    "BasicSR's model by its own constructor, from its own options"
    import yaml

    opt = yaml.safe_load((peer.options / peers.OPTIONS[method]).read_text())
    g = networks["RRDBNet"]
    opt["network_g"] |= {
        "scale": 1,
        "num_feat": g["width"],
        "num_block": g["blocks"],
        "num_grow_ch": g["growth"],
    }
    opt["network_d"] |= {"num_feat": networks["UNetSN"]["width"]}
    opt |= {
        "scale": 1,
        "num_gpu": int(args.device != "cpu"),
        "is_train": True,
        "dist": False,
        "rank": 0,
        "path": {},
        "high_order_degradation": False,
        "l1_gt_usm": False,
        "percep_gt_usm": False,
        "gan_gt_usm": False,
    }
    return peer.models[method](opt)


def contenders(method, networks, args, raw, compressed):
    "name -> a call that takes one step"
    found = {}
    if args.basicsr and "+" not in method:
        model = their_model(peers.load_basicsr(args.basicsr, 64), method, networks, args)

        def theirs(i):
            model.update_learning_rate(i + 1)
            model.feed_data({"gt": raw, "lq": compressed})
            model.optimize_parameters(i + 1)

        found["BasicSR fp32"] = theirs
    book = our_trainer(method, networks, args, "fp32")
    for module in (book.generator, book.average, book.discriminator):
        module.to(memory_format=torch.contiguous_format)
    found["textbook fp32"] = lambda i: textbook_step(book, i, raw, compressed)
    for precision in ("fp32", "bf16"):
        trainer = our_trainer(method, networks, args, precision)
        found[f"ours {precision}"] = lambda i, t=trainer: t.step(i, raw, compressed)
    return found


def measure(method, sizes, args):
    width, blocks, d_width = map(int, sizes.split("/"))
    networks, device = (
        {
            "RRDBNet": {"width": width, "blocks": blocks, "growth": 32},
            "VGGStyle": {"width": d_width},
            "UNetSN": {"width": d_width},
        },
        torch.device(args.device),
    )
    raw = torch.rand(args.batch, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)).to(device)
    compressed = (raw + 0.05 * torch.randn_like(raw)).clamp(0, 1)
    calls = contenders(method, networks, args, raw, compressed)
    times, work, warm = (
        {name: [] for name in calls},
        {},
        args.warm + StepGraph.alone * (device.type == "cuda"),
    )
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call(0)
        work[name] = counter.get_total_flops() / 2
    for i in range(-warm, args.rounds):
        for name, call in calls.items():
            took = clock(lambda: call(i + warm), device)
            if i >= 0:
                times[name].append(took)
    first = next(iter(times))
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(times[first], taken)]
        rate = best_rate(device, name[-4:])
        yield {
            "method": method,
            "networks": sizes,
            "batch": args.batch,
            "step": name,
            "median": statistics.median(taken),
            "min": min(taken),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "floor": work[name] / rate,
            "peak_gmacs": rate / 1e9,
            "step_gmac": work[name] / 1e9,
            **(parts(calls[name], device) if args.parts else {}),
        }


def parts(call, device):
    "Seconds of a step in convolutions on the way there, on the way back, and in everything else"
    found = {"forward": 0.0, "backward": 0.0, "rest": 0.0}
    with profile(
        activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    ) as seen:
        call(0)
        wait(device)
    for event in seen.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel's time stands beside the operation that started it
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        where = (
            "rest"
            if not event.key.startswith("aten::") or "convolution" not in event.key
            else "backward"
            if "backward" in event.key
            else "forward"
        )
        found[where] += spent / 1e6
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--basicsr", help="checkout of XPixelGroup/BasicSR")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["realesrgan", "esrgan"],
        choices=[m for m in METHODS if METHODS[m].discriminator],
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["64/23/64", "32/16/32"],
        help="RRDB width/blocks/discriminator width",
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--parts", action="store_true", help="profile one step of each")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = []
    print(
        f"torch {torch.__version__}, {device_name(args.device)}, {args.threads} threads, "
        f"batch {args.batch}, patch {PATCH}; multiply-adds counted as they are executed"
    )
    for method in args.methods:
        for sizes in args.networks:
            for row in measure(method, sizes, args):
                rows.append(row)
                inside = "".join(
                    f"  {part} {row[part]:.3f}" for part in ("forward", "backward", "rest") if part in row
                )
                low, high = row["ratios"]
                print(
                    f"{method:12s} {sizes:9s} {row['step']:14s} {row['median']:7.3f} s  "
                    f"min {row['min']:7.3f}  {row['ratio']:5.2f}x ({low:.2f} to {high:.2f})  "
                    f"{row['step_gmac']:.0f} GMAC, "
                    f"floor {row['floor']:.3f} s at {row['peak_gmacs']:.0f} GMAC/s, "
                    f"which the step reaches {row['floor'] / row['median']:.0%} of{inside}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(
            json.dumps(
                {"torch": torch.__version__, "device": device_name(args.device), "rows": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
