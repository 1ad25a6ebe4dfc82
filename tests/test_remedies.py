"What somebody meets who tries the commands: each wrong turn has a line that says the right one"

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from typer.testing import CliRunner

from qebias import cli, core, weights
from qebias.cli import app
from qebias.codecs import Jpeg, code_many, codec_class
from qebias.convert import convert
from qebias.core import QebiasError, atomic, reading, write_png
from qebias.datasets import data_status, download
from qebias.files import compress_files
from qebias.methods import method
from qebias.networks import build, load_discriminator, network_spec, read_header
from qebias.photos import configs
from qebias.pictures import find_pictures, look


def run(*args):
    "Exit code, output, error of a command"
    done = CliRunner().invoke(app, [str(a) for a in args])
    return done.exit_code, done.output, done.exception


@pytest.fixture()
def scene():
    small = np.random.default_rng(0).integers(60, 180, (6, 7, 3), np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


def saved(path, name, **sizes):
    "Weights as BasicSR keeps them"
    net = build(network_spec(name, **sizes))
    torch.save({"params": net.state_dict()}, path)
    return net


# Discriminators from elsewhere


@pytest.mark.parametrize("legacy", [False, True])
def test_a_discriminator_of_basicsr_is_sent_to_convert_and_comes_back_usable(tmp_path, legacy):
    net = build(network_spec("qebias.discriminators:UNetSN", width=4))
    torch.save(net.state_dict(), tmp_path / "D.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(QebiasError, match="another program: qebias convert .*D.pth --part discriminator"):
        load_discriminator(tmp_path / "D.pth")
    code, out, _ = run(
        "convert",
        tmp_path / "D.pth",
        "-o",
        tmp_path / "D.safetensors",
        "--gan",
        "relativistic",
        "--patch",
        96,
    )
    assert code == 0 and "not conditional by its 3 channels" in out and "patches of 96 px" in out
    found = load_discriminator(tmp_path / "D.safetensors")
    assert (found.conditional, found.gan, found.patch) == (False, "relativistic", 96)


def test_plain_safetensors_are_sent_to_convert_and_a_cut_file_is_not(tmp_path):
    from safetensors.torch import save_file

    net = build(network_spec("qebias.discriminators:UNetSN", width=4))
    save_file(net.state_dict(), tmp_path / "D.safetensors")
    with pytest.raises(QebiasError, match="qebias convert"):
        load_discriminator(tmp_path / "D.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "D.safetensors").read_bytes()[:-9])
    with pytest.raises(QebiasError, match="not a whole safetensors file") as error:
        load_discriminator(tmp_path / "cut.safetensors")
    assert "qebias convert" not in str(error.value)


def test_six_channels_are_conditional_and_it_is_said(tmp_path):
    saved(tmp_path / "D.pth", "qebias.discriminators:UNetSN", width=4, in_channels=6)
    code, out, _ = run("convert", tmp_path / "D.pth", "-o", tmp_path / "D.safetensors")
    assert code == 0 and "conditional by its 6 channels" in out
    assert read_header(tmp_path / "D.safetensors")["provenance"]["conditional"] is True


@pytest.mark.parametrize("more", [{"conditional": True}, {"part": "discriminator"}])
def test_what_belongs_to_discriminators_is_refused_for_a_generator(tmp_path, more):
    saved(tmp_path / "G.pth", "qebias.generators.arcnn:ARCNN")
    with pytest.raises(QebiasError, match="G.pth holds a ARCNN, .*generator"):
        convert(tmp_path / "G.pth", tmp_path / "G.safetensors", **more)
    assert not (tmp_path / "G.safetensors").exists()


def test_garbage_is_told_what_was_expected(tmp_path):
    (tmp_path / "garbage.pth").write_bytes(b"e" * 50)
    with pytest.raises(QebiasError, match="neither a file of torch.save .* nor one of safetensors"):
        convert(tmp_path / "garbage.pth", tmp_path / "out.safetensors")


# psi


def test_psi_is_listed_and_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    code, out, _ = run("metrics", "psi")
    assert code == 0 and "psi vgg19: vgg19-dcbb9e9d.pth, missing" in out
    asked = []

    def fetched(file, progress=True):
        asked.append(file)
        (tmp_path / file).write_bytes(b"weights")

    monkeypatch.setattr(weights, "_fault", lambda entry, path: None)
    monkeypatch.setattr(weights, "download", fetched)
    code, out, _ = run("metrics", "psi", "--download")
    assert code == 0 and asked == ["vgg19-dcbb9e9d.pth"]
    assert f"psi vgg19: vgg19-dcbb9e9d.pth, {tmp_path / 'vgg19-dcbb9e9d.pth'}" in out
    run("metrics", "psi", "--download")
    assert len(asked) == 1
    code, out, _ = run("metrics", "vgg19-original", "--download")
    assert code == 0 and asked[1:] == ["vgg19-d01eb7cb.pth"] and "psi vgg19-original" in out


def test_psi_without_a_public_address_names_the_one_that_has_one(monkeypatch, tmp_path):
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(weights.MissingWeights, match="--set psi=vgg19-original"):
        weights.find("vgg19_features_normalised.safetensors")


def test_without_a_network_one_line_says_which_file_from_where_and_whereto(monkeypatch, tmp_path):
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(entry, path, progress):
        raise QebiasError(f"could not fetch {entry.file}")

    monkeypatch.setattr(weights, "_fetch", unreachable)
    code, _, error = run("metrics", "psi", "--download")
    assert code == 1 and isinstance(error, QebiasError) and "\n" not in str(error)
    for part in ("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/", "sha256 dcbb9e9d", str(tmp_path)):
        assert part in str(error)


# Trainings


@pytest.mark.parametrize("name, stages", [("dncnn", [3000]), ("realesrgan", [6000, 3000])])
def test_iterations_are_those_that_were_asked_for(name, stages):
    settings = {"iterations": 3000, "device": "cpu", "psi": "random-w4-s0"}
    assert [config.iterations for _, config in configs(name, settings)] == stages


def test_a_method_without_pretraining_says_so():
    with pytest.raises(QebiasError, match="arcnn has no pretraining"):
        configs("arcnn", {"pretraining": 5, "device": "cpu"})


# Logs


@pytest.mark.parametrize("terminal", [False, True])
def test_bars_are_for_terminals(monkeypatch, terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    picture = np.zeros((16, 16, 3), np.uint8)
    assert len(list(code_many([picture] * 3, Jpeg(20), workers=1))) == 3
    assert bool(stream.getvalue()) == terminal


# What compress writes


@pytest.mark.parametrize("codec", ["jpeg", "bpg", "avif"])
def test_decoded_pictures_are_as_grey_as_before_and_keep_what_they_carried(tmp_path, scene, codec):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "in").mkdir()
    Image.fromarray(scene[..., 0]).save(tmp_path / "in" / "grey.jpg", dpi=(300, 300))
    Image.fromarray(scene).save(
        tmp_path / "in" / "colour.jpg", dpi=(200, 200), exif=exif, icc_profile=profile
    )
    coder = codec_class(codec)(40)
    compress_files([tmp_path / "in"], coder, tmp_path / "out", workers=1)
    for name, mode, dpi in (("grey", "L", 300), ("colour", "RGB", 200)):
        decoded = coder.decode((tmp_path / "out" / f"{name}{coder.suffix}").read_bytes())
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.mode == mode and round(image.info["dpi"][0]) == dpi
            assert np.array_equal(np.array(image.convert("RGB")), decoded)
            if name == "colour":
                assert dict(image.getexif()) == {0x0112: 1, 0x010F: "maker"}
                assert image.info["icc_profile"] == profile and image.size == scene.shape[:2]


def test_a_profile_that_was_converted_to_srgb_is_not_kept(tmp_path, scene):
    from test_pictures import profile

    Image.fromarray(scene).save(tmp_path / "a.png", icc_profile=profile(True))
    done = compress_files([tmp_path / "a.png"], Jpeg(90), tmp_path / "out", workers=1)
    assert "converted from" in done.notes[0]
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert "icc_profile" not in image.info


# Names and places


def test_an_ascii_locale_writes_any_name(tmp_path, scene):
    name = "sp ace ünï 照片"
    Image.fromarray(scene).save(tmp_path / f"{name}.jpg")
    command = [sys.executable, "-m", "qebias", "compress", f"{name}.jpg", "-o", "o", "--codec", "jpeg"]
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([*command, "--level", "20"], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / f"{name}.png").exists() and (tmp_path / "o" / f"{name}.jpg").exists()


@pytest.mark.parametrize(
    "args", [("enhance", ""), ("compress", "", "--level", 20), ("train", "", "--method=arcnn")]
)
def test_an_empty_path_is_refused(args, tmp_path):
    code, out, _ = run(*args, "-o", tmp_path / "o")
    assert code == 2 and "the name is empty" in out


def test_a_file_that_is_named_twice_is_taken_once(tmp_path, scene):
    write_png(tmp_path / "a.png", scene)
    found, _ = find_pictures([tmp_path / "a.png", tmp_path, tmp_path / "a.png"])
    assert len(found) == 1
    write_png(tmp_path / "other" / "a.png", scene)
    with pytest.raises(QebiasError, match="would have one output"):
        find_pictures([tmp_path / "a.png", tmp_path / "other" / "a.png"])


def test_what_is_left_out_is_named(tmp_path, scene):
    for i in range(12):
        write_png(tmp_path / f"{i:02d}.png", scene)
        (tmp_path / f"{i:02d}.jpg").write_bytes(b"")
    line = find_pictures([tmp_path])[1][0]
    assert "left out 00.jpg, 01.jpg" in line and "09.jpg and 2 more" in line


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypheic", b"\xff\x0a" + b"\0" * 20], ids=["heic", "jxl"])
def test_a_format_that_is_not_read_is_told_which_are(tmp_path, head):
    (tmp_path / "photo.heic").write_bytes(head)
    with pytest.raises(QebiasError, match="what can: PNG, JPEG, .*, BPG"):
        look(tmp_path / "photo.heic")


def test_a_device_is_asked_for_before_any_picture_is_named(tmp_path, scene, monkeypatch):
    Image.fromarray(scene).save(tmp_path / "a.jpg", quality=20)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    code, out, error = run("enhance", tmp_path / "a.jpg", "-o", tmp_path / "o", "--device", "cuda")
    assert code == 1 and "cuda is not there" in str(error)
    assert "a.jpg" not in out and "a.jpg" not in str(error)


def test_what_may_not_be_read_is_not_advised_to_be_removed():
    with pytest.raises(QebiasError, match="w.pth cannot be read .Permission denied.: give") as error:
        with reading("w.pth", "weight file"):
            raise PermissionError(13, "Permission denied")
    assert "remove" not in str(error.value)


def test_a_full_disk_is_told_with_the_path(tmp_path):
    with pytest.raises(OSError) as error:
        with atomic(tmp_path / "a.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "a.png") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "act, near",
    [
        (lambda: codec_class("jpg"), "jpeg"),
        (lambda: method("realesrgn"), "realesrgan"),
        (lambda: data_status("DIV2K"), "div2k"),
        (lambda: download("flick2k"), "flickr2k"),
    ],
)
def test_an_unknown_name_gets_its_neighbour(act, near):
    with pytest.raises(QebiasError, match=rf"did you mean {near}\?"):
        act()


def test_a_name_that_is_near_nothing_gets_none():
    assert core.nearest("zzzz", ["bpg"]) == ""


# The shell


@pytest.mark.parametrize(
    "words, offered",
    [
        ("qebias study de", ["demo"]),
        ("qebias enhance x.jpg --model jpeg-", ["jpeg-perceptual"]),
        ("qebias train x --method dnc", ["dncnn"]),
        ("qebias compress x --codec bp", ["bpg", "bpgenc"]),
        ("qebias metrics ps", ["psi", "psnr"]),
        ("qebias score --metric lpips-a", ["lpips-alex"]),
        ("qebias data fl", ["flickr2k"]),
    ],
)
def test_a_shell_completes_values(monkeypatch, words, offered):
    env = {
        "_QEBIAS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = CliRunner().invoke(app, [], prog_name="qebias", env=env)
    assert done.output.split() == offered


@pytest.mark.parametrize("module", ["qebias", "qebias.cli"])
def test_the_package_is_a_command(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("qebias ")
    assert cli.main


# What is installed


def test_extras_go_by_use():
    from nbdev.config import get_config

    config = get_config()
    plain, study, dev = (config[f"{name}requirements"].split() for name in ("", "study_", "dev_"))
    assert {"av", "opencv-python-headless"} <= {p.split(">")[0] for p in plain}
    assert set(study) < set(dev)
    assert {"papermill", "snakemake", "jupyterlab"} <= {p.split(">")[0] for p in study}
    assert not any(p.startswith(("pytest", "nbdev", "ruff")) for p in study)
    assert not set(plain) & set(dev)
