"""The command line as people know it: help, suggestions, lists, models, signals, and nothing heavy before its
time"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from warm import qebias

from qebias import pretrained
from qebias.cli import STOPPED, listed
from qebias.core import write_png
from qebias.discriminators import UNetSN
from qebias.generators.dncnn import DnCNN
from qebias.networks import network_spec, save_network

QEBIAS = [sys.executable, "-c", "import sys; sys.argv[0] = 'qebias'; from qebias.cli import main; main()"]


@pytest.fixture()
def model(tmp_path):
    "A network that adds ten grey levels"
    net = DnCNN(4, 3)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    torch.nn.init.constant_(net.layers[-1].bias, 10 / 255)
    path = tmp_path / "models" / "jpeg.safetensors"
    path.parent.mkdir()
    card = {"codec": "jpeg", "levels": [8, 90], "aim": "fidelity", "reaches": "ten levels more"}
    save_network(path, net, network_spec(DnCNN, width=4, depth=3), {"card": card})
    return path


@pytest.fixture()
def photo(tmp_path):
    "A photograph of 90 x 70 pixels as JPEG of quality 20"
    rgb = np.random.default_rng(0).integers(60, 180, (7, 9, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(rgb).save(tmp_path / "photo.jpg", quality=20)
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize(
    "args", [("-h",), ("--help",), ("enhance", "-h"), ("study", "--help"), ("train", "-h")]
)
def test_help_is_help_and_fast(args):
    code, out, err = qebias(*args)
    assert code == 0 and out.startswith("Usage: qebias") and not err


def test_choices_are_shown():
    out = qebias("enhance", "-h")[1]
    assert "fp32|bf16" in out and "torch|onnxruntime|openvino" in out
    assert "generator|discriminator" in qebias("convert", "-h")[1]


def test_completion_can_be_had():
    code, out, err = qebias(
        "--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert code == 0 and "_QEBIAS_COMPLETE" in out


@pytest.mark.parametrize(
    "args",
    [("-h",), ("enhance", "-h"), ("study", "-h"), ("--version",), ("enhance", "--list-models"), ("data",)],
)
def test_what_needs_no_network_imports_no_torch(args):
    code = (
        "import sys; sys.argv = ['qebias', *sys.argv[1:]]\nfrom qebias.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'torchvision', 'pyiqa', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-500:] + done.stderr[-500:]


@pytest.mark.parametrize(
    "args, what",
    [
        (("enhanc", "x"), "Did you mean 'enhance'"),
        (("enhance", "x", "--modle", "y"), "No such option: --modle. Did you mean --model?"),
        (("enhance", "x", "-o", "y", "--backend", "tensorrt"), "is not one of"),
        (("enhance", "x"), "Missing option '-o'"),
    ],
)
def test_did_you_mean(args, what):
    code, out, err = qebias(*args)
    assert code == 2 and what in err and err.startswith("qebias: ") and len(err.splitlines()) == 1


WRONG = [
    (("compress", "in/none.png", "--level", 37, "-o", "o"), "in/none.png does not exist"),
    (("compress", "in/scene.png", "--level", 99, "-o", "o"), "99"),
    (("compress", "in/scene.png", "--codec", "avi", "--level", 37, "-o", "o"), "avi"),
    (
        ("compress", "in/scene.png", "--codec", "jpeg", "--encoder", "x265", "--level", 37, "-o", "o"),
        "jpeg has no option 'encoder'",
    ),
    (("compress", "in/scene.png", "--level", 37, "-o", "in"), "is an input and would be overwritten"),
    (("enhance", "in/scene.png", "--model", "none.safetensors", "-o", "o"), "none.safetensors"),
    (("enhance", "in/scene.png", "--model", "none.safetensors", "--halo", 8, "-o", "o"), "none.safetensors"),
    (("score", "--images", "in", "--metric", "pnsr", "-o", "o/s.csv"), "pnsr"),
    (("score", "--images", "none", "-o", "o/s.csv"), "none"),
    (("audit", "--raw", "in", "--compressed", "none", "--enhanced", "in", "-o", "o"), "none"),
    (("metrics", "vmaf"), "vmaf"),
    (("data", "div2k", "--hash", "00"), "--mirror and --hash belong to --download"),
    (("study", "dmeo"), "unknown profile 'dmeo'"),
    (("study", "smoke", "--jobs", 4), "--jobs belongs to --executor slurm"),
    (("study", "smoke", "--set", "patchs=3"), "unknown key patchs"),
    (("study", "smoke", "--only", "tab9"), "--only tab9: "),
    (("study", "smoke", "--set", "device=abacus"), "device 'abacus' is not known"),
    (("compress", "in/scene.png", "--level", "few", "-o", "o"), "See qebias compress --help"),
    (("compres", "in/scene.png"), "Did you mean 'compress'"),
    (("compress", "in/scene.png", "--levl", 37, "-o", "o"), "Did you mean --level?"),
    (("enhance", "in/scene.png", "-o", "o"), "neither JPEG nor BPG"),
    (("enhance", "in/scene.png", "--model", "jepg", "-o", "o"), "there is no model 'jepg'"),
    (("enhance", "in/scene.png", "--precision", "fp8", "-o", "o"), "is not one of"),
    (
        ("train", "in", "--method", "esrgan", "--level", 20, "--set", "iteration=3"),
        "--set iteration=3: write",
    ),
    (("convert", "in/scene.png", "-o", "o/m.safetensors"), "scene.png is neither a file of torch.save"),
    (("export", "none.safetensors", "-o", "o/m.onnx", "--onnx"), "none.safetensors does not exist"),
    (("compress", "in/scene.png", "--level", 37, "-o", "in/scene.png/x"), "choose another with -o"),
]


@pytest.mark.parametrize("args, expected", WRONG, ids=[each[1][:40] for each in WRONG])
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, args, expected):
    write_png(tmp_path / "in" / "scene.png", np.full((40, 56, 3), 120, np.uint8))
    code, out, err = qebias(*args, cwd=tmp_path)
    *before, last = (out + err).strip().splitlines()  # enhance says first what it is about to do
    assert code, out
    assert last.startswith("qebias: ") and expected in last
    assert len(before) == (args[0] == "enhance" and code == 1)
    assert not list((tmp_path / "o").glob("[!.]*"))
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["scene.png"]


@pytest.mark.parametrize(
    "given, found",
    [
        (None, []),
        ([], []),
        (["tab5,tab4"], ["tab5", "tab4"]),
        (["tab5", "tab4"], ["tab5", "tab4"]),
        (["tab5, tab4", "fig1", "tab4"], ["tab5", "tab4", "fig1"]),
        ([",,"], []),
    ],
)
def test_lists_by_commas_and_by_repetition(given, found):
    assert listed(given) == found


def test_metrics_take_lists():
    code, out, err = qebias("metrics", "psnr,ssim", "nlpd", "--check")
    assert code == 0 and all(name in out for name in ("psnr", "ssim", "nlpd"))


# ---------------------------------------------------------------- enhance


def test_a_photo_without_a_model_gets_the_one_that_fits(tmp_path, model, photo):
    code = (
        "import sys, qebias.pretrained as p; from pathlib import Path\n"
        f"p.HOME = Path({str(model.parent)!r}); sys.argv = ['qebias', *sys.argv[1:]]\n"
        "from qebias.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "enhance", str(photo), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "photo.jpg: JPEG of quality 20, model jpeg" in done.stdout
    (written,) = [p for p in (tmp_path / "out").iterdir() if p.suffix == ".png"]
    before, after = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (photo, written))
    assert np.array_equal(after, np.minimum(before + 10, 255))


def test_a_fine_photo_passes_through(tmp_path, model, photo, monkeypatch, request):
    monkeypatch.setattr(pretrained, "HOME", model.parent)
    pretrained.models.cache_clear()
    request.addfinalizer(pretrained.models.cache_clear)
    Image.open(photo).save(tmp_path / "fine.jpg", quality=95)
    said = []
    choose = pretrained.chooser(say=said.append)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(choose(tmp_path / "fine.jpg")(x), x) and not torch.equal(choose(photo)(x), x)
    assert "JPEG of quality 95, which jpeg (for 8 to 90) would not help: it passes through" in said[0]


def test_a_model_by_file_and_weights_from_elsewhere(tmp_path, model, photo):
    from qebias.networks import load_state

    assert qebias("enhance", photo, "-o", tmp_path / "a", "--model", model)[0] == 0
    torch.save({"params_ema": load_state(model)}, tmp_path / "theirs.pth")
    assert qebias("enhance", photo, "-o", tmp_path / "b", "--model", tmp_path / "theirs.pth")[0] == 0
    assert qebias("convert", tmp_path / "theirs.pth", "-o", tmp_path / "c.safetensors")[0] == 0
    assert qebias("enhance", photo, "-o", tmp_path / "c", "--model", tmp_path / "c.safetensors")[0] == 0
    pngs = [(tmp_path / f / "photo.png").read_bytes() for f in "abc"]
    assert pngs[0] == pngs[1] == pngs[2]


def test_a_stranger_s_class_is_not_imported(tmp_path, photo):
    from safetensors.torch import save_file

    header = json.dumps({"spec": {"class": "this:Zen"}, "provenance": {}})
    save_file({"a": torch.ones(1)}, tmp_path / "this.safetensors", {"qebias": header})
    code, out, err = qebias("enhance", photo, "-o", tmp_path / "o", "--model", tmp_path / "this.safetensors")
    assert code == 1 and "the module 'this' would be imported" in err and "--trust" in err
    assert "Beautiful is better" not in out + err and not (tmp_path / "o").exists()


def test_another_engine_gives_the_same_picture(tmp_path, model, photo):
    for module in ("onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    assert qebias("enhance", photo, "-o", tmp_path / "a", "--model", model)[0] == 0
    args = ("--model", model, "--backend", "onnxruntime")
    assert qebias("enhance", photo, "-o", tmp_path / "b", *args)[0] == 0
    a, b = (np.asarray(Image.open(tmp_path / f / "photo.png")).astype(int) for f in "ab")
    assert np.abs(a - b).max() <= 1


def test_export_onnx_and_weights(tmp_path, model):
    for module in ("onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    code, out, err = qebias("export", model, "--onnx", "-o", tmp_path / "m.onnx")
    assert code == 0 and "grey levels off PyTorch" in out, err
    assert (tmp_path / "m.onnx").stat().st_size > 1000
    assert qebias("export", model, "-o", tmp_path / "m.pth")[0] == 0
    assert qebias("export", model, "--onnx", "-o", tmp_path / "m.pt")[0] == 1


@pytest.mark.slow
def test_twelve_megapixels(tmp_path, model):
    "First line within two seconds of processor time, below 1.5 GB, progress on the way"
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(rgb).save(tmp_path / "large.jpg", quality=30)
    command = [
        *QEBIAS,
        "enhance",
        str(tmp_path / "large.jpg"),
        "-o",
        str(tmp_path / "o"),
        "--model",
        str(model),
    ]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first = child.stdout.readline()
    waited = time.monotonic() - start
    assert first.startswith("enhancing 1 input") and waited < 2
    child.stdout.read()
    usage = os.wait4(child.pid, 0)[2]
    assert usage.ru_maxrss < 1.5 * 2**20, usage.ru_maxrss
    assert Image.open(tmp_path / "o" / "large.png").size == (4000, 3000)


# ---------------------------------------------------------------- signals

WAITING = """
import sys, time
sys.argv = ["qebias", "methods"]
import qebias.cli as cli
{patch}
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "patch",
    [
        "cli.app = lambda standalone_mode: (print('on', flush=True), time.sleep(60))",
        # one that does not listen: the second line of defence
        "def deaf(standalone_mode):\n    print('on', flush=True)\n    while True:\n"
        "        try: time.sleep(60)\n        except KeyboardInterrupt: pass\ncli.app = deaf",
        # one that waits for a thread at its end
        "import threading\ndef threads(standalone_mode):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    print('on', flush=True)\n    time.sleep(60)\ncli.app = threads",
        # one whose main thread is in one long call, as a convolution is: no handler of Python is asked
        "import ctypes\ndef call(standalone_mode):\n"
        "    print('on', flush=True)\n    libc = ctypes.CDLL(None)\n"
        "    for _ in range(2): libc.sleep(30)\ncli.app = call",
    ],
    ids=["listens", "deaf", "threads", "one long call"],
)
def test_both_signals_end_a_command_within_two_seconds_in_the_same_words(number, patch):
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(patch=patch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "on\n"
    start = time.monotonic()
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert time.monotonic() - start < 2.5  # of a machine that has other work as well
    assert child.returncode == 128 + number
    assert set(err.splitlines()) == {f"qebias: {STOPPED}"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_imports_are_under_way_is_answered_in_the_same_words(number):
    slow = "import sys, threading, os, signal; sys.argv[0] = '/usr/bin/qebias'; import qebias\n"
    slow += "sys.meta_path.insert(0, type('Slow', (), {'find_spec': staticmethod(lambda name, *more: "
    slow += f"os.kill(os.getpid(), {int(number)}) if name == 'typer' else None)}}))\nimport qebias.cli"
    done = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True)
    assert done.returncode == 128 + number and done.stderr == f"qebias: {STOPPED}\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_stream_that_is_closed_is_an_empty_one(tmp_path, closed):
    "It was a traceback, or silence, or a pipe of ours took its number"
    write_png(tmp_path / "in.png", np.full((40, 56, 3), 120, np.uint8))
    words = [
        "compress",
        str(tmp_path / "in.png"),
        "--codec",
        "jpeg",
        "--level",
        "30",
        "-o",
        str(tmp_path / "o"),
    ]
    ends = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    done = subprocess.run(["sh", "-c", f'"$@" {ends}', "sh", *QEBIAS, *words], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert ("bpp" in done.stdout) == (1 not in closed)
    assert (tmp_path / "o" / "in.png").is_file() and (tmp_path / "o" / "in.jpg").is_file()


def test_a_lack_of_memory_is_one_line():
    code = "import qebias.cli as c, qebias.methods as m\nclass None_:\n"
    code += "    def values(self): raise MemoryError('Unable to allocate 9 TiB')\n"
    code += "m.METHODS = None_()\nimport sys; sys.argv = ['qebias', 'methods']; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr
        == "qebias: memory ran out (Unable to allocate 9 TiB): free some, or ask for less at once\n"
    )


def test_a_signal_to_a_child_does_not_end_the_command():
    patch = (
        "import os, signal\ndef parent(standalone_mode):\n    child = os.fork()\n    if not child:\n"
        "        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
        "        print('on', flush=True); time.sleep(60)\n"
        "    os.waitpid(child, 0); time.sleep(2); print('done', flush=True)\ncli.app = parent"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(patch=patch)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "on\n"
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    os.kill(child, signal.SIGTERM)
    out, _ = parent.communicate(timeout=20)
    assert out == "done\n" and parent.returncode == 0


def test_a_stopped_enhancement_leaves_nothing_half_written(tmp_path, model):
    folder = tmp_path / "many"
    for i in range(40):
        write_png(folder / f"{i}.png", np.full((400, 600, 3), i, np.uint8))
    command = [*QEBIAS, "enhance", str(folder), "-o", str(tmp_path / "o"), "--model", str(model)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("[1/40]") for line in child.stdout)  # ends with the command, whatever happens
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 143 and STOPPED in err
    written = sorted(
        p for p in (tmp_path / "o").iterdir() if p.suffix == ".png" and not p.name.startswith(".")
    )
    assert written and all(Image.open(p).size == (600, 400) and Image.open(p).load() for p in written)


# ---------------------------------------------------------------- train


def test_train_ends_with_the_path_of_the_weights(tmp_path):
    for i in range(4):
        rgb = np.random.default_rng(i).integers(0, 256, (8, 9, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        write_png(tmp_path / "photos" / f"{i}.png", rgb)
    tiny = [
        f"--set={k}" for k in ("iterations=2", "pretraining=3", "batch=2", "patch=48", "psi=random-w4-s0")
    ]
    args = ("train", "photos", "--method", "realesrgan+both", "--codec", "jpeg", "--level", 20, *tiny)
    code, out, err = qebias(*args, "--set=device=cpu", "-o", "run", cwd=tmp_path)
    assert code == 0, err
    last = out.splitlines()[-1]
    assert last == "weights: run/training/generator.safetensors"
    assert (tmp_path / "run/training/generator.safetensors").exists()
    assert "to go" in out and "dB compressed" in out
    assert json.loads((tmp_path / "run/result.json").read_text())["method"] == "realesrgan+both"
    code, out, err = qebias("train", "photos", "--method", "realesrgn", "--level", 20, cwd=tmp_path)
    assert code == 1 and "realesrgn" in err and len(err.splitlines()) == 1


def test_documented_commands_exist():
    text = Path(__file__).parents[1].joinpath("nbs/tools/60_cli.ipynb").read_text()
    for command in (
        "study",
        "train",
        "compress",
        "enhance",
        "score",
        "audit",
        "convert",
        "export",
        "methods",
    ):
        assert f"def {command}(" in text


# Files from strangers, at the door of every command


def test_a_pipe_of_weights_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    for command in ("convert", "export"):
        code, _, err = qebias(command, tmp_path / "w.pth", "-o", tmp_path / "out.safetensors")
        assert code == 1 and "w.pth" in err and "no file" in err and err.count("\n") == 1
    code, _, err = qebias("convert", tmp_path / "none.pth", "-o", tmp_path / "out.safetensors")
    assert code == 1 and err == f"qebias: {tmp_path}/none.pth does not exist: name a file of weights\n"


def test_broken_weights_are_told_with_the_picture(tmp_path, photo):
    net = DnCNN(4, 3)
    torch.nn.init.constant_(net.layers[-1].bias, float("nan"))
    torch.save(net.state_dict(), tmp_path / "nan.pth")
    code, _, err = qebias("enhance", photo, "-o", tmp_path / "out", "--model", tmp_path / "nan.pth")
    assert code == 1 and err.startswith(f"qebias: {photo}: the enhanced picture holds values that are not")
    assert err.count("\n") == 1 and not list((tmp_path / "out").rglob("*.png"))


def test_torch_s_own_warnings_do_not_stand_beside_ours(tmp_path):
    torch.save({"a": torch.ones(3).to_sparse()}, tmp_path / "sparse.pth")
    code, _, err = qebias("convert", tmp_path / "sparse.pth", "-o", tmp_path / "out.safetensors")
    assert code == 1 and err.startswith("qebias: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["esc\x1b[31m.png", "new\nline.png", "-dash.png", "ünï.png"])
def test_a_name_commands_no_terminal(tmp_path, name):
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in" / name, np.full((20, 20, 3), 90, np.uint8))
    code, out, err = qebias("compress", "in", "--codec", "jpeg", "--level", 30, "-o", "out", cwd=tmp_path)
    assert code == 0 and "\x1b" not in out and len(out.splitlines()) == 2
    (tmp_path / "in" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    code, out, err = qebias("compress", "in", "--codec", "jpeg", "--level", 30, "-o", "out", cwd=tmp_path)
    assert code == 1 and "\x1b" not in err and err.count("\n") == 1 and err.count("in/") == 1


# One corrupted picture is named before hours are spent


@pytest.fixture()
def photographs(tmp_path):
    "Twelve photographs, and a folder of two others"
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 12), ("others", 2)):
        for k in range(count):
            write_png(tmp_path / folder / f"{k:02d}.png", rng.integers(0, 256, (64, 72, 3), np.uint8))
    return tmp_path


def spoiled(folder, how):
    "Make one photograph of a folder unreadable; its name"
    data = (folder / "05.png").read_bytes()
    if how == "png, cut":
        (folder / "05.png").write_bytes(data[: len(data) // 2])
    elif how == "png, zeros at its end":
        (folder / "05.png").write_bytes(data[:-200] + bytes(200))
    elif how == "png, a flipped bit":
        (folder / "05.png").write_bytes(data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
    elif how == "text":
        (folder / "05.png").write_text("no picture")
    elif how == "eps":
        (folder / "05.png").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    else:
        (folder / "05.png").unlink()
        Image.open(folder / "06.png").save(folder / "05.jpg", quality=90)
        data = (folder / "05.jpg").read_bytes()
        (folder / "05.jpg").write_bytes(data[:-20])
    return "05.jpg" if how == "jpeg, cut near its end" else "05.png"


SPOILED = ["png, cut", "png, zeros at its end", "png, a flipped bit", "text", "eps", "jpeg, cut near its end"]


@pytest.mark.parametrize("how", SPOILED)
def test_a_corrupted_picture_of_a_training_set_is_named_at_once(photographs, monkeypatch, how):
    from qebias import photos
    from qebias.cli import app
    from qebias.core import QebiasError

    monkeypatch.chdir(photographs)
    monkeypatch.setattr(photos, "build_pairs", lambda *args: pytest.fail("it went on"))
    monkeypatch.setattr("qebias.study.runner.run", lambda *args: pytest.fail("it went on"))
    name = spoiled(photographs / "photos", how)
    one = rf"^1 of 12 pictures in .*photos cannot be read: .*{name}"
    with pytest.raises(QebiasError, match=one + ".*; --skip leaves a few out$"):
        app(["train", "photos", "--method=arcnn", "--level=30", "-o", "run"], standalone_mode=False)
    two = ["--raw-train=photos", "--raw-eval=others"]
    for pictures in (["--raw=photos"], two, ["--raw-train=others", "--raw-eval=photos"]):
        with pytest.raises(QebiasError, match=one) as error:
            app(["study", "smoke", *pictures, "--out=study"], standalone_mode=False)
        assert "skip" not in str(error.value)  # which studies do not have
    assert not (photographs / "run").exists()


def test_a_training_may_leave_out_a_few(photographs):
    spoiled(photographs / "photos", "png, zeros at its end")
    tiny = [
        "--set=iterations=1",
        "--set=batch=1",
        "--set=patch=32",
        "--set=device=cpu",
    ]
    args = ["train", "photos", "--method", "arcnn", "--level", 30, "--skip", "-o", "run", *tiny]
    code, out, err = qebias(*args, cwd=photographs)
    assert code == 0, err
    assert out.splitlines()[0].startswith("1 of 12 pictures in photos cannot be read: photos/05.png")
    assert "11 photographs" not in out and "9 photographs to train on, 2 to look at" in out
    assert "Warning" not in err
    for k in (7, 8):
        (photographs / "photos" / f"{k:02d}.png").write_text("no picture")
    code, out, err = qebias(*args, cwd=photographs)
    assert code == 1 and err.startswith("qebias: 3 of 12 photographs in photos cannot be read, and --skip")


def test_a_warning_of_the_library_is_a_line_like_the_others(photographs):
    Image.open(photographs / "photos" / "01.png").save(photographs / "photos" / "01.bmp")
    code, out, err = qebias("study", "smoke", "--raw=photos", "--out=study", "--dry-run", cwd=photographs)
    assert code == 0 and "UserWarning" not in err
    assert err.startswith("qebias: note: ") and "left out 01.bmp" in err and err.count("\n") == 1


def test_a_home_folder_that_the_shell_leaves_alone(tmp_path, model, photo):
    "--out=~/folder and a name in quotes reach the command as they are; a folder called ~ is a trap for rm"
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    (home / "in").mkdir()
    photo.rename(home / "in" / "photo.jpg")
    model.rename(home / "net.safetensors")
    words = ("enhance", "~/in/photo.jpg", "--model", "~/net.safetensors", "--out=~/enhanced pictures")
    code, _, err = qebias(*words, cwd=here, env={"HOME": str(home)})
    assert code == 0, err
    assert (home / "enhanced pictures" / "photo.png").is_file() and not list(here.iterdir())
    code, _, err = qebias("compress", "~nobody.here/x", "--level", "30", "-o", "o", cwd=here)
    assert code == 1 and "~nobody.here/x does not exist" in err


def test_a_discriminator_is_not_written_as_onnx(tmp_path):
    spec = network_spec(UNetSN, in_channels=3, width=2)
    save_network(tmp_path / "d.safetensors", UNetSN(3, 2), spec, {})
    code, _, err = qebias("export", tmp_path / "d.safetensors", "-o", tmp_path / "d.onnx")
    assert code == 1 and "holds a UNetSN, which is no generator: -o NAME.pth takes it" in err
    assert qebias("export", tmp_path / "d.safetensors", "-o", tmp_path / "d.pth")[0] == 0
    code, _, err = qebias("export", tmp_path / "d.safetensors", "-o", tmp_path / "d")
    assert code == 1 and "an ONNX file in .onnx" in err


def test_an_equals_sign_after_the_short_option_is_no_name(tmp_path, model, photo):
    code, _, err = qebias("enhance", photo, "-o=out", "--model", model, cwd=tmp_path)
    assert code == 2 and "write -o out or --out=out (./=out for that name)" in err
    assert not list(tmp_path.glob("=*"))
    assert qebias("enhance", photo, "-o", "./=out", "--model", model, cwd=tmp_path)[0] == 0
    assert (tmp_path / "=out" / "photo.png").is_file()
