"""Weights of every network after a short training: `python tests/benchmarks/trained.py FOLDER --photos DIR`

Fresh weights say little about bf16: their features have other sizes. So each network of the paper's size
learns for some steps to undo JPEG of qualities 10 to 75 on photographs, and `inference.py --weights FOLDER
--picture PNG` then shows what bf16 costs it. A network whose file is there already is left out. Its loss and
the gain in PSNR on the last two photographs, which are not trained on, are printed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from inference import NETWORKS

from qebias.codecs import Jpeg, code
from qebias.config import TrainConfig
from qebias.inference import enhance
from qebias.metrics import metric
from qebias.pretrained import JpegPatches, Recipe, batch_of, training_pictures
from qebias.training import Trainer


def trained(name, pictures, steps, batch, lr):
    "The network after so many steps, and its last loss"
    module, _, residual = name.partition("-")
    sizes = {"residual": True} if residual else {}
    spec = {"class": f"qebias.generators.{module}:{NETWORKS[name]}", "kwargs": sizes}
    config = TrainConfig(
        method=name,
        stage="fidelity",
        generator=spec,
        iterations=steps,
        batch=batch,
        patch=64,
        precision="bf16",
        threads=1,
        schedule={"kind": "cosine", "lr": lr, "warmup": steps // 20},
    )
    trainer = Trainer(config)
    patches = JpegPatches(pictures, Recipe("jpeg", (10, 75), name, batch=batch, patch=64))
    for step in range(steps):
        log = trainer.step(step, *batch_of(patches, np.random.default_rng(step)))
    return trainer.generator.eval(), float(log["recon"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets NAME.pt of each network")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs of 96 px or more")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--lr", type=float, default=3e-4)
    for name, value in (("steps", 300), ("batch", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    pictures = training_pictures([options.photos], 96)
    held_out = [rgb[:160, :160] for rgb in pictures[-2:]]
    psnr = metric("psnr")
    for name in options.networks:
        path = options.folder / f"{name}.pt"
        if path.exists():
            continue
        began = time.process_time()
        network, loss = trained(name, pictures[:-2], options.steps, options.batch, options.lr)
        gains = []
        for rgb in held_out:
            compressed = code(rgb, Jpeg(20)).decoded
            gains.append(psnr(enhance(network, compressed), rgb) - psnr(compressed, rgb))
        torch.save(network.state_dict(), path)
        seconds = time.process_time() - began
        print(f"{name}: {seconds:.0f} s, L1 {loss:.4f}, {np.mean(gains):+.2f} dB at JPEG 20", flush=True)


if __name__ == "__main__":
    main()
