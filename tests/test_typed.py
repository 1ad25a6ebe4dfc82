"What a type checker sees of the package, in a program that imports it"

import subprocess
import sys
from importlib.resources import files

PROGRAM = """
import numpy as np
import torch
from qebias.audit import AuditReport
from qebias.bias import audit, deviation
from qebias.codecs import Bpg, Jpeg, bpp, code
from qebias.discriminators import ConditionalDiscriminator, UNetSN
from qebias.features import Psi
from qebias.generators.rrdb import RRDBNet
from qebias.inference import enhance, enhance_tensor
from qebias.losses import LossWeights, domain_divergence, vanilla_gan
from qebias.metrics import features, frechet_distance, metric
from qebias.rates import Curve, bd_br

rgb: np.ndarray = np.zeros((64, 64, 3), np.uint8)
data: bytes = Jpeg(10).encode(rgb)
rate: float = bpp(data, rgb) + code(rgb, Bpg(37)).bpp
enhanced: np.ndarray = enhance(RRDBNet(width=8, blocks=1), rgb, tile=32)
x: torch.Tensor = enhance_tensor(RRDBNet(), torch.rand(1, 3, 8, 8))
gan = vanilla_gan(ConditionalDiscriminator(UNetSN(6), True)(x, x), torch.zeros(1, 1))
loss: torch.Tensor = gan.generator + domain_divergence(*(Psi()(x)["conv5_4"] for _ in range(3)))
lambdas = LossWeights(recon=1.0, divergence=0.1)
scored: float = metric("psnr")(rgb, rgb) + frechet_distance(features("fd_nss")(rgb), np.eye(36))
leaning: str = f"{round(deviation(3.0, 4.0, 5.0), 1)} %"
report: AuditReport = audit([rgb], [rgb], [rgb])
saved: float | None = bd_br(Curve(np.ones(4), np.ones(4)), Curve(np.ones(4), np.ones(4))).value
wrong: int = deviation(3.0, 4.0, 5.0)
RRDBNet(widht=8)
enhance(RRDBNet(), "photo.png")
"""


def test_a_program_that_imports_the_package_is_checked(tmp_path):
    "The package says that it is typed, and three errors of the program are found, no more"
    assert (files("qebias") / "py.typed").is_file()
    (tmp_path / "program.py").write_text(PROGRAM)
    place = str(files("qebias").joinpath("..").resolve())
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    told = subprocess.run(
        [*command, "--ignore-missing-imports", "--follow-imports=silent", "program.py"],
        cwd=tmp_path,
        env={"MYPYPATH": place, "PATH": ""},
        capture_output=True,
        text=True,
    )
    lines = [line for line in told.stdout.splitlines() if ": error:" in line]
    assert len(lines) == 3, told.stdout + told.stderr
    for line, words in zip(
        lines, ("Incompatible types in assignment", '"widht"', 'has incompatible type "str"')
    ):
        assert words in line
