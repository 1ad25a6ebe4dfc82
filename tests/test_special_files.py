"""A pipe, a socket, a device, a folder called x.png, a dangling link: every command ends in one line

Each reader guards itself, so that no command has to: none waits for a pipe that nobody writes to.
"""

import contextlib
import os
import signal
import socket

import numpy as np
import pytest
import torch

from qebias import cli, core, pictures
from qebias.core import QebiasError, write_png

SECONDS = 20


def pipe(path):
    os.mkfifo(path)


def socket_file(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def link(path):
    path.symlink_to(path.parent / "nothing.here")


KINDS = [pipe, socket_file, device, folder, link]


class Late(BaseException):
    "No `Exception`: readers turn every one of those into the line that is waited for here"


@contextlib.contextmanager
def limited():
    "A hang is a failure"

    def late(number, frame):
        raise Late(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(call, *args):
    "The one line that a call ends with"
    with limited(), pytest.raises(QebiasError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def command(*args):
    cli.app([str(arg) for arg in args], standalone_mode=False)


@pytest.fixture()
def there(tmp_path):
    "Two folders of the same two pictures, a profile and weights"
    rgb = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    for part in ("raw", "comp", "enh"):
        for name in ("a", "b"):
            write_png(tmp_path / part / f"{name}.png", rgb)
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pth")
    return tmp_path


COMMANDS = {
    "compress": ("raw/x.png", "compress", "raw/x.png", "--codec=jpeg", "--level=30", "-o", "out"),
    "compress a folder": ("raw/x.png", "compress", "raw", "--codec=jpeg", "--level=30", "-o", "out"),
    "enhance": ("comp/x.jpg", "enhance", "comp/x.jpg", "-o", "out"),
    "enhance a folder": ("comp/x.bpg", "enhance", "comp", "-o", "out"),
    "enhance with a model": ("x.pth", "enhance", "comp/a.png", "-o", "out", "--model", "x.pth"),
    "enhance with a model file": ("x.safetensors", "enhance", "comp/a.png", "-o", "out",
                                  "--model", "x.safetensors"),
    "score": ("enh/x.png", "score", "--images=enh", "--raw=raw", "--metric=psnr", "-o", "s.csv"),
    "score's raw": ("raw/x.png", "score", "--images=enh", "--raw=raw", "--metric=psnr", "-o", "s.csv"),
    "score's journal": ("x", "score", "--images=enh", "--raw=raw", "--metric=psnr", "-o", "s.csv",
                        "--journal=x"),
    "audit": ("enh/a.png", "audit", "--raw=raw", "--compressed=comp", "--enhanced=enh", "-o", "p.html"),
    "audit's discriminator": ("x.safetensors", "audit", "--raw=raw", "--compressed=comp", "--enhanced=enh",
                              "--discriminator=x.safetensors", "-o", "p.html"),
    "convert": ("x.pth", "convert", "x.pth", "-o", "m.safetensors"),
    "export": ("x.safetensors", "export", "x.safetensors", "-o", "m.pth"),
    "train": ("raw/x.png", "train", "raw", "--method=arcnn", "--level=30", "-o", "run"),
    "study": ("x.yaml", "study", "x.yaml", "--dry-run", "--out=run"),
    "study's pictures": ("raw/x.png", "study", "smoke", "--raw=raw", "--out=run"),
}  # fmt: skip


@pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_file_is_one_line_at_every_command(there, monkeypatch, name, make, capsys):
    monkeypatch.chdir(there)
    place, *args = COMMANDS[name]
    if name == "score's journal" and make is link:
        pytest.skip("a link that leads nowhere is a journal that begins")
    (there / place).unlink(missing_ok=True)
    make(there / place)
    if make is folder and place.split("/")[0] in ("raw", "comp", "enh") and place not in args:
        (there / place).rmdir()  # a folder in a folder of pictures is walked into, whatever its name
        os.mkfifo(there / place)
    assert place.rpartition("/")[2] in refusal(command, *args)


READERS = {
    "read_json": core.read_json,
    "read_lines": core.read_lines,
    "read_yaml": lambda path: core.read_yaml(path),
    "read_table": lambda path: core.read_table(path.with_suffix(".csv")),
    "tensors_header": core.tensors_header,
    "read_rgb": core.read_rgb,
    "look": pictures.look,
    "read_picture": pictures.read_picture,
}


@pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_guards_itself(tmp_path, name, make):
    path = tmp_path / ("x.csv" if name == "read_table" else "x.png")
    make(path)
    assert path.name in refusal(READERS[name], path)


@pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)
def test_readers_of_networks_and_trainings_guard_themselves(tmp_path, make):
    from qebias.convert import from_elsewhere, read_pickle
    from qebias.networks import load_network
    from qebias.pretrained import quality_of, read_card
    from qebias.training import read_checkpoint
    from qebias.weights import tensors

    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"x{suffix}"
        make(path)
        readers = [tensors, read_pickle, load_network, quality_of, read_card]
        for read in [*readers, lambda path: from_elsewhere(path, "generator")]:
            assert path.name in refusal(read, path)
    (tmp_path / "checkpoint").mkdir()
    make(tmp_path / "checkpoint" / "last.pt")
    if make is not link:  # which is no checkpoint
        assert "last.pt" in refusal(read_checkpoint, tmp_path)


def test_a_name_that_is_no_text_is_one_line_or_left_out(there, monkeypatch, capsys):
    "Linux allows any bytes in a name; tables and pages hold text"
    monkeypatch.chdir(there)
    for part in ("raw", "comp", "enh"):
        with open(f"{part}/caf\udce9.png", "wb") as copy:
            copy.write((there / part / "a.png").read_bytes())
    for part in ("raw", "enh"):
        with contextlib.suppress(FileNotFoundError):
            write_png(
                there / part / "b.png", np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)
            )
    compared = (
        "audit",
        "--raw=raw",
        "--compressed=comp",
        "--enhanced=enh",
        "--metric=psnr",
        "--distance=rmse",
    )
    scored = ("score", "--images=enh", "--raw=raw", "--metric=psnr", "-o", "s.csv")
    for words in ((*compared, "-o", "p.html"), scored):
        assert "has a name that is no text" in refusal(command, *words)
    command(*compared, "-o", "p.html", "--skip")
    with contextlib.suppress(SystemExit):
        command(*scored, "--skip")
    assert r"caf\xe9" in (there / "p.html").read_text()
    assert "caf" not in (there / "s.csv").read_text()


def test_a_folder_to_train_on_may_hold_a_name_that_is_no_text(there):
    from qebias.datasets import load_dataset

    with open(there / "raw" / "caf\udce9.png", "wb") as copy:
        copy.write((there / "raw" / "a.png").read_bytes())
    assert "caf_xe9" in [image.name for image in load_dataset(f"folder:{there / 'raw'}")]
