"Weight files: every row can be placed, is checked, and fails in one line; no network unless asked"

import dataclasses
import hashlib
import http.server
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from qebias import datasets, weights
from qebias.core import QebiasError
from qebias.weights import (
    FILES,
    MissingWeights,
    convert_weights,
    download,
    find,
    find_any,
    needs_conversion,
    places,
    state,
    status,
)

NAMES = sorted(FILES)
PICKLES = sorted(name for name in FILES if name.endswith((".pth", ".pt")))
SHORT = sorted(name for name in FILES if needs_conversion(FILES[name]))


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A machine without weights, and without network: a connection is an error"
    for name in ("QEBIAS_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def refuse(*args, **kwargs):
        raise AssertionError("a look-up touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def small(monkeypatch, name, digits=64, known_size=True):
    "Let a few bytes take the place of a weight file: the row keeps its place and its name"
    content = f"small stand-in for {name}".encode()
    row = dataclasses.replace(
        FILES[name],
        bytes=len(content) if known_size else None,
        sha256=hashlib.sha256(content).hexdigest()[:digits],
    )
    monkeypatch.setitem(FILES, name, row)
    return content


def cache_path(root_torch, root_hf, name):
    folder = FILES[name].folder
    if folder.startswith("hf:"):
        return root_hf / f"models--{folder[3:]}" / "snapshots" / ("0" * 40) / "model.safetensors"
    return root_torch / "hub" / folder / name


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message and len(message) < 900
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("name", NAMES)
def test_missing_is_one_line_at_once(home, name):
    start = time.perf_counter()
    with pytest.raises(MissingWeights) as error:
        find(name, "metric 'x'")
    assert time.perf_counter() - start < 0.5
    one_line(
        error,
        "metric 'x' needs",
        name,
        "QEBIAS_WEIGHTS",
        FILES[name].url or "no public address",
        str(home / "home"),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["QEBIAS_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME", "HOME"])
def test_every_file_is_found_where_it_may_lie(home, monkeypatch, name, place):
    content, base = small(monkeypatch, name), home / "base"
    if place == "QEBIAS_WEIGHTS":
        monkeypatch.setenv(place, str(base))
        path = base / name
    elif place == "TORCH_HOME":
        monkeypatch.setenv("TORCH_HOME", str(base))
        monkeypatch.setenv("HF_HOME", str(base))
        path = cache_path(base, base / "hub", name)
    elif place == "XDG_CACHE_HOME":
        monkeypatch.setenv(place, str(base))
        path = cache_path(base / "torch", base / "huggingface/hub", name)
    else:
        path = cache_path(home / "home/.cache/torch", home / "home/.cache/huggingface/hub", name)
    with pytest.raises(MissingWeights):
        find(name)
    put(path, content)
    assert find(name) == path
    row = next(r for r in status() if r["file"] == name)
    assert (row["state"], row["checked"], row["path"]) == ("present", True, path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("digits,known_size", [(64, True), (8, False)])
def test_every_file_is_checked(home, monkeypatch, name, digits, known_size):
    content = small(monkeypatch, name, digits, known_size)
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    path = put(home / "w" / name, content[::-1])
    with pytest.raises(QebiasError) as error:
        find(name)
    assert not isinstance(error.value, MissingWeights)
    found = hashlib.sha256(content[::-1]).hexdigest()[:digits]
    one_line(error, name, f"expected sha256 {FILES[name].sha256}", f"found {found}", "remove it")
    os.utime(put(path, content[:-3]), (1, 1))
    with pytest.raises(QebiasError) as error:
        find(name)
    one_line(
        error, f"expected {len(content)} bytes, found {len(content) - 3}" if known_size else "expected sha256"
    )
    assert next(r for r in status() if r["file"] == name)["state"] == "wrong"
    os.utime(put(path, content), (2, 2))
    if digits == 8 and name in PICKLES:
        with pytest.raises(MissingWeights) as error:
            find(name)
        one_line(error, name, str(path), "8 digits of its hash", "run qebias metrics --convert")
    else:
        assert find(name) == path


def test_torch_and_timm_agree_on_the_places(home, monkeypatch):
    "The caches are computed as the libraries themselves do, in a fresh process with their own variables"
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("TORCH_HOME", str(home / "t"))
    monkeypatch.setenv("HF_HOME", str(home / "h"))
    code = "import torch; from huggingface_hub import constants\n"
    code += "print(torch.hub.get_dir()); print(constants.HF_HUB_CACHE)"
    torch_dir, hf_dir = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    ).stdout.split()
    assert places("niqe_modelparameters.mat") == [Path(torch_dir) / "pyiqa/niqe_modelparameters.mat"]
    assert places("timm-resnet50.a1_in1k.safetensors")[0].is_relative_to(
        Path(hf_dir) / "models--timm--resnet50.a1_in1k"
    )


def test_the_users_folder_comes_first_and_a_wrong_file_there_is_not_passed_over(home, monkeypatch):
    name = "niqe_modelparameters.mat"
    content = small(monkeypatch, name)
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    monkeypatch.setenv("TORCH_HOME", str(home / "t"))
    put(home / "t/hub/pyiqa" / name, content)
    assert find(name) == home / "t/hub/pyiqa" / name
    wrong = put(home / "w" / name, b"other")
    with pytest.raises(QebiasError, match=str(wrong)):
        find(name)
    with pytest.raises(QebiasError, match=str(wrong)):
        find_any(name, "RN50.pt")
    with pytest.raises(QebiasError, match=str(wrong)):
        download(name)


def test_a_folder_or_an_unreadable_file_is_no_weight_file(home, monkeypatch):
    name = "niqe_modelparameters.mat"
    content = small(monkeypatch, name)
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    (home / "w" / name).mkdir(parents=True)
    with pytest.raises(MissingWeights):
        find(name)
    (home / "w" / name).rmdir()
    put(home / "w" / name, content)

    def denied(path, *args):
        raise PermissionError(13, "Permission denied")

    weights._hashed.cache_clear()
    monkeypatch.setattr(weights, "file_digest", denied)
    with pytest.raises(QebiasError, match=r"cannot be read \(Permission denied\)"):
        find(name)


def test_empty_variables_count_as_unset(home, monkeypatch):
    for variable in ("QEBIAS_WEIGHTS", "TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, "")
    assert places("RN50.pt") == [home / "home/.cache/torch/hub/clip/RN50.pt"]


def test_a_big_file_is_hashed_once(home, monkeypatch):
    name, calls = "vgg16-397923af.pth", []
    content = small(monkeypatch, name)
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    path = put(home / "w" / name, content)
    real = weights.file_digest

    def slow(p):
        calls.append(p)
        time.sleep(0.05)
        return real(p)

    monkeypatch.setattr(weights, "file_digest", slow)
    threads = [threading.Thread(target=find, args=(name,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    find(name), status()
    assert calls == [str(path)]
    os.utime(path, (1, 1))
    find(name)
    assert len(calls) == 2


def test_import_is_light():
    "The table is read by the command line: no torch, no pooch"
    heavy = ("torch", "pooch", "requests", "pandas")
    code = f"import sys, qebias.weights; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# --- downloads, from a server on this machine ---


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "QEBIAS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown(), server.server_close()


@pytest.mark.parametrize(
    "name,digits",
    [
        (name, digits)
        for name in NAMES
        for digits in (8, 64)
        if FILES[name].url and FILES[name].sha256 and (digits == 64 or name not in PICKLES)
    ],
)
def test_download_brings_the_file_or_nothing(site, tmp_path, monkeypatch, name, digits):
    folder, url = site
    content = small(monkeypatch, name, digits, known_size=digits == 64)
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], url=f"{url}/{name}"))
    target = tmp_path / "torch/hub" / FILES[name].folder / name
    put(folder / name, content[::-1])
    with pytest.raises(QebiasError) as error:
        download(name, progress=False)
    one_line(error, name, "nothing was kept")
    assert list(target.parent.iterdir()) == []
    put(folder / name, content)
    assert download(name, progress=False) == target == find(name)
    assert target.read_bytes() == content and [p.name for p in target.parent.iterdir()] == [name]
    (folder / name).unlink()
    assert download(name, progress=False) == target  # already right: no request


def test_download_prefers_the_users_folder_and_names_a_dead_address(site, tmp_path, monkeypatch):
    folder, url = site
    name = "RN50.pt"
    content = small(monkeypatch, name)
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], url=f"{url}/{name}"))
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path / "w"))
    with pytest.raises(QebiasError) as error:
        download(name, progress=False)
    one_line(error, f"could not fetch {name} from {url}/{name}", "404", "nothing was kept")
    put(folder / name, content)
    assert download(name, progress=False) == tmp_path / "w" / name
    (tmp_path / "w" / name).unlink()
    with socket.socket() as s:  # a port that nobody listens on
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], url=f"http://127.0.0.1:{free}/{name}"))
    with pytest.raises(QebiasError) as error:
        download(name, progress=False)
    one_line(error, "could not fetch RN50.pt")
    assert list((tmp_path / "w").iterdir()) == []


class Slow(http.server.BaseHTTPRequestHandler):
    "Sends half of what it announced; then hangs up, or waits"

    body, wait = b"x" * 200_000, False

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: len(self.body) // 2])
        self.wfile.flush()
        if self.wait:
            time.sleep(60)

    def log_message(self, *args):
        pass


@pytest.fixture
def slow(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Slow,), {}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/RN50.pt"
    server.shutdown(), server.socket.close()


def test_a_connection_that_breaks_leaves_nothing(slow, tmp_path, monkeypatch):
    _, url = slow
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.setitem(
        FILES,
        "RN50.pt",
        dataclasses.replace(FILES["RN50.pt"], url=url, sha256=hashlib.sha256(Slow.body).hexdigest()),
    )
    with pytest.raises(QebiasError) as error:
        download("RN50.pt", progress=False)
    one_line(error, "could not fetch RN50.pt", "nothing was kept")
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_half_file_under_its_name(
    slow, site, tmp_path, monkeypatch, number
):
    server, url = slow
    server.RequestHandlerClass.wait = True
    code = (
        "import dataclasses; from qebias import weights\n"
        f"weights.FILES['RN50.pt'] = dataclasses.replace(weights.FILES['RN50.pt'], url={url!r})\n"
        "weights.download('RN50.pt', progress=False)"
    )
    target = tmp_path / "w"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "QEBIAS_WEIGHTS": str(target)},
        stderr=subprocess.PIPE,
    ) as child:
        deadline = time.monotonic() + 60
        while not (target.exists() and any(p.stat().st_size for p in target.iterdir())):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
        child.send_signal(number)
        child.wait(30)
    assert not (target / "RN50.pt").exists()
    if number == signal.SIGINT:
        assert list(target.iterdir()) == []
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(target))
    with pytest.raises(MissingWeights):
        find("RN50.pt")
    folder, good = site
    put(folder / "RN50.pt", content := b"the whole file")
    monkeypatch.setitem(
        FILES,
        "RN50.pt",
        dataclasses.replace(
            FILES["RN50.pt"], url=f"{good}/RN50.pt", sha256=hashlib.sha256(content).hexdigest()
        ),
    )
    assert download("RN50.pt", progress=False).read_bytes() == content


def test_progress_goes_to_stderr(site, tmp_path, monkeypatch, capfd):
    folder, url = site
    name = "RN50.pt"
    content = small(monkeypatch, name)
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], url=f"{url}/{name}"))
    put(folder / name, content)
    download(name)
    out, err = capfd.readouterr()
    assert out == "" and "100%" in err


@pytest.mark.parametrize("name", [n for n in NAMES if not FILES[n].url or not FILES[n].sha256])
def test_download_refuses_what_it_cannot_fetch_or_check(home, name):
    with pytest.raises(QebiasError) as error:
        download(name)
    one_line(error, name, "no public address" if not FILES[name].url else "no hash is known")


def test_real_files_are_what_the_table_says():
    if not os.environ.get("QEBIAS_WEIGHTS"):
        pytest.skip("set QEBIAS_WEIGHTS to a folder that holds weight files")
    rows = [
        r
        for r in status()
        if r["path"] and r["path"].parent == Path(os.environ["QEBIAS_WEIGHTS"]).expanduser()
    ]
    if not rows:
        pytest.skip("QEBIAS_WEIGHTS holds no file of the table")
    assert {r["file"]: r["why"] for r in rows if r["state"] != "present"} == {}


def test_a_user_without_a_home_still_gets_a_place(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in (
        "HOME",
        "XDG_CACHE_HOME",
        "TORCH_HOME",
        "QEBIAS_WEIGHTS",
        "HF_HOME",
        "HF_HUB_CACHE",
        "QEBIAS_DATA",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert [
        str(p) for file in ("RN50.pt", "timm-resnet50.a1_in1k.safetensors") for p in weights.places(file)
    ] == [
        "~/.cache/torch/hub/clip/RN50.pt",
        "~/.cache/huggingface/hub/models--timm--resnet50.a1_in1k/snapshots/*/model.safetensors",
    ]
    assert [str(p) for p in datasets.data_folders()] == ["~/.cache/qebias/data"]


# Files that other packages carry


CARRIED = [name for name in NAMES if FILES[name].package]


@pytest.mark.parametrize("name", CARRIED)
def test_weights_inside_installed_packages_are_found(home, monkeypatch, name):
    content = small(monkeypatch, name)
    assert not find_spec(FILES[name].package.partition("/")[0])
    with pytest.raises(MissingWeights, match="pip install (lpips|dists-pytorch), which carries it"):
        find(name)
    monkeypatch.syspath_prepend(home / "site")
    put(home / "site" / FILES[name].package, content)
    (home / "site" / FILES[name].package.partition("/")[0] / "__init__.py").write_text("raise SystemExit")
    assert find(name) == home / "site" / FILES[name].package  # and the package was not imported
    (home / "site" / FILES[name].package).write_bytes(b"other")
    with pytest.raises(QebiasError, match="is not "):
        find(name)


def test_four_files_are_carried_and_their_hashes_are_whole():
    assert len(CARRIED) == 4 and all(len(FILES[name].sha256) == 64 for name in CARRIED)


class Evil:
    "Runs a command when it is unpickled"

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_nothing_in_a_weight_file_is_executed(tmp_path):
    "Also not in one whose name and eight digits are right"
    import torch

    mark = tmp_path / "ran"
    torch.save({"w": Evil(mark)}, tmp_path / "a.pth")
    torch.save({"w": Evil(mark)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Evil(mark)))
    (tmp_path / "d.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    for path in sorted(tmp_path.glob("*.*")):
        with pytest.raises(QebiasError) as error:
            weights.tensors(path)
        assert str(error.value).startswith(f"{path} is no readable ") and "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)
    assert not mark.exists()


def test_tensors_are_found_where_trainings_leave_them(tmp_path):
    import numpy as np
    import torch

    state = {"module.a.weight": torch.arange(6.0).reshape(2, 3)}
    wrapped = [state, {"params_ema": state, "params": {}}, {"state_dict": state, "best": np.float64(0.5)}]
    for k, value in enumerate(wrapped):
        torch.save(value, tmp_path / f"{k}.pth")
        assert torch.equal(weights.tensors(tmp_path / f"{k}.pth")["a.weight"], state["module.a.weight"])
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(QebiasError, match="other than named tensors"):
        weights.tensors(tmp_path / "list.pth")


# Nothing is executed by any of the loaders, not even by a file whose name and known digits are right


def test_five_files_are_known_by_eight_digits_alone_which_a_stranger_can_match():
    short = {name for name in FILES if 0 < len(FILES[name].sha256) < 64}
    assert (
        set(SHORT)
        == short
        == {
            "AHIQ_vit_p8_epoch33-da3ea303.pth",
            "HyperIQA-resnet50-koniq10k-c96c41b1.pth",
            "cfanet_fr_kadid_res50-2c4cc61d.pth",
            "cfanet_nr_koniq_res50-9a73138b.pth",
            "vgg19-d01eb7cb.pth",
        }
    )


@pytest.fixture
def evil(home, monkeypatch):
    "Every pickled weight file is a program, with the hash that the table asks for; the mark that they leave"
    import torch

    mark = home / "ran"
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    (home / "w").mkdir()
    for k, name in enumerate(PICKLES):
        path = home / "w" / name
        tensors = {"params": {"w": torch.ones(1)}, "state": Evil(mark)}
        torch.save(tensors, path, _use_new_zipfile_serialization=bool(k % 2))
        digits = len(FILES[name].sha256)
        found = hashlib.sha256(path.read_bytes()).hexdigest()[:digits]
        monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], bytes=None, sha256=found))
        assert state(name)["state"] == ("to be converted" if digits == 8 else "present")
    return mark


def test_the_program_would_run_if_it_were_unpickled(evil, home):
    import torch

    torch.load(home / "w" / PICKLES[0], weights_only=False)
    assert evil.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_no_reader_runs_a_weight_file(evil, name):
    from qebias import convert, metrics

    path = state(name)["path"]
    for read in (
        lambda: weights.tensors(path),  # which psi is read with as well
        lambda: metrics.state_of(name, ""),
        lambda: convert.read_pickle(path),
        lambda: convert.load_any(path),
        lambda: convert_weights(name),
        lambda: weights.convert_all(say=str),
    ):
        with pytest.raises(QebiasError):
            read()
        assert not evil.exists()


PICKLED = [
    "ahiq",
    "clipiqa",
    "dists",
    "fid",
    "fid_patch256",
    "fd_alex",
    "hyperiqa",
    "lpips-alex",
    "musiq",
    "topiq_fr",
]


@pytest.mark.parametrize("name", PICKLED)
def test_no_metric_runs_a_weight_file(evil, home, name):
    from qebias import metrics

    for file in metrics.METRICS[name].weights:
        if file.endswith(".safetensors"):
            (home / "w" / file).write_bytes(b"\2\0\0\0\0\0\0\0{}")
    build = metrics.features if metrics.METRICS[name].kind == "set" else metrics.metric
    with pytest.raises(QebiasError) as error:
        build(name)
    assert not evil.exists() and "\n" not in str(error.value)


def test_no_psi_runs_a_weight_file(evil):
    from qebias import features

    for psi in ("vgg19", "vgg19-original"):
        with pytest.raises(QebiasError):
            features.load_vgg(psi)
    assert not evil.exists()


# --- pickles that are known by eight digits are read once, and what is made of them is what counts


def stored(path, value, monkeypatch):
    "Let a pickle take the place of a weight file that is known by eight digits; its whole hash"
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(FILES, path.name, dataclasses.replace(FILES[path.name], sha256=whole[:8]))
    return whole


@pytest.fixture
def short(home, monkeypatch):
    "TOPIQ's file, of three numbers, in the user's folder: its path, its whole hash"
    import torch

    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    path = home / "w" / "cfanet_fr_kadid_res50-2c4cc61d.pth"
    return path, stored(path, {"params": {"module.w": torch.arange(3.0)}, "epoch": 7}, monkeypatch)


def users(name):
    "How what a file serves is built"
    from qebias import features, metrics

    for user in FILES[name].used_by:
        if user.startswith("psi "):
            yield lambda user=user: features.load_vgg(user.removeprefix("psi "))
        elif user in metrics.METRICS:
            yield lambda user=user: metrics.metric(user)


@pytest.mark.parametrize("name", SHORT)
def test_a_pickle_known_by_eight_digits_is_read_by_nobody_before_it_is_converted(home, monkeypatch, name):
    import torch

    from qebias import metrics

    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    for other in ("ahiq", "topiq_fr"):
        for file in metrics.METRICS[other].weights:
            if file.endswith(".safetensors"):
                put(home / "w" / file, b"\2\0\0\0\0\0\0\0{}")
    path = home / "w" / name
    stored(path, {"params": {"w": torch.ones(2)}}, monkeypatch)
    monkeypatch.setattr(weights, "load_restricted", lambda path: pytest.fail("it was read"))
    row = state(name)
    assert (row["state"], row["path"], row["source"], row["checked"]) == ("to be converted", path, "", True)
    for use in (lambda: find(name), lambda: metrics.state_of(name, ""), *users(name)):
        with pytest.raises(MissingWeights) as error:
            use()
        one_line(error, name, str(path), "run qebias metrics --convert")


@pytest.mark.parametrize("name", SHORT)
def test_a_converted_file_takes_its_place_with_the_same_arrays_and_the_same_identity(home, monkeypatch, name):
    import torch

    from qebias import metrics

    monkeypatch.setenv("TORCH_HOME", str(home / "t"))
    path = home / "t/hub" / FILES[name].folder / name
    tied = torch.arange(6.0).reshape(2, 3)
    value = {
        "params": {"module.a.weight": tied.t(), "a.bias": torch.ones(2, dtype=torch.float16)},
        "heads": {"deep": {"a.bias": tied[0], "count": torch.tensor(3)}},
        "optimiser": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": [1, 2]},
        "epoch": 7,
    }
    whole = stored(path, value, monkeypatch)
    made = convert_weights(name)
    assert made == path.with_suffix(".safetensors") == find(name) == convert_weights(name)
    row = state(name)
    assert (row["state"], row["path"], row["source"], row["checked"]) == ("present", made, whole, True)
    assert weights.identity(made) == whole == weights.identity(path)
    found = metrics.state_of(name, "")
    assert sorted(found) == ["heads", "params"] and sorted(found["heads"]["deep"]) == ["a.bias", "count"]
    for key, tensor in found["params"].items():
        assert torch.equal(tensor, value["params"][key]) and tensor.dtype == value["params"][key].dtype
    assert sorted(weights.tensors(made)) == sorted(weights.tensors(path)) == ["a.bias", "a.weight"]
    path.unlink()
    assert find(name) == made
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    assert find(name) == made
    put(path, b"another")
    assert find(name) == made  # what is not read is not looked at


def test_a_flat_pickle_keeps_its_names(home, monkeypatch):
    "As that of psi, whose layers are found after the conversion"
    import torch

    from qebias import features

    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    path = home / "w/vgg19-d01eb7cb.pth"
    state = {"features.0.weight": torch.rand(64, 3, 3, 3), "features.0.bias": torch.rand(64)}
    stored(path, state, monkeypatch)
    convert_weights(path.name)
    assert weights.tensors(find(path.name)).keys() == state.keys()
    name, ((weight, bias),) = features.load_vgg("vgg19-original", depth=1)
    assert name == "vgg19-d01eb7cb-normalised" and weight.shape == (64, 3, 3, 3)


def relabelled(path, **new):
    "The same arrays under another origin"
    from safetensors.torch import load_file, save_file

    metadata, _ = weights.tensors_header(path)
    save_file(load_file(path), path, {**metadata, **new})


def test_a_converted_file_is_checked(short):
    from safetensors.torch import load_file, save_file

    path, whole = short
    good = convert_weights(path.name).read_bytes()
    made = path.with_suffix(".safetensors")
    for k, damage in enumerate(
        (
            lambda: made.write_bytes(good[:-1] + b"\1"),
            lambda: made.write_bytes(good[:-4]),
            lambda: made.write_bytes(path.read_bytes()),
            lambda: save_file(load_file(made), made),
            lambda: relabelled(made, source="HyperIQA-resnet50-koniq10k-c96c41b1.pth"),
            lambda: relabelled(made, source_sha256="0" * 64),
            lambda: relabelled(made, source_sha256=whole[:8]),
            lambda: relabelled(made, content_sha256="0" * 64),
        )
    ):
        made.write_bytes(good)
        damage()
        os.utime(made, (k, k))
        damaged = made.read_bytes()
        for use in (find, convert_weights, download):
            with pytest.raises(QebiasError) as error:
                use(path.name)
            assert not isinstance(error.value, MissingWeights)
            one_line(error, str(made), "is not what qebias metrics --convert makes of", "remove it and run")
        assert state(path.name)["state"] == "wrong" and made.read_bytes() == damaged
    made.write_bytes(good)
    assert find(path.name) == made


def test_where_the_whole_hash_is_known_the_file_itself_is_read(short, monkeypatch):
    path, whole = short
    convert_weights(path.name)
    monkeypatch.setitem(FILES, path.name, dataclasses.replace(FILES[path.name], sha256=whole))
    assert find(path.name) == path
    with pytest.raises(QebiasError, match="read as it is"):
        convert_weights(path.name)


def test_nothing_is_written_over_what_stands_there_and_nothing_is_left(short, monkeypatch):
    path, _ = short
    made = path.with_suffix(".safetensors")
    made.symlink_to(path.parent / "elsewhere")
    with pytest.raises(QebiasError, match="is there and was not made of"):
        convert_weights(path.name)
    made.unlink()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError):
        convert_weights(path.name)
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_little_pickle_that_speaks_of_much_is_refused_at_once(home, monkeypatch):
    import torch

    monkeypatch.setenv("QEBIAS_WEIGHTS", str(home / "w"))
    path = home / "w" / SHORT[0]
    itself = {}
    itself["again"] = itself
    many = torch.ones(1000)
    layer = {str(k): many for k in range(1000)}
    for value, words in (
        ({"w": torch.ones(1).expand(10**6, 10**6)}, "claim more than a file of its size"),
        ({"a": {str(k): layer for k in range(90)}}, "claim more than a file of its size"),
        (itself, "more than 100 tables"),
        ({"a/b": torch.ones(1)}, "may hold no stroke"),
        ({"epoch": 3}, "no named tensors"),
        ([torch.ones(1)], "no table of tensors"),
    ):
        stored(path, value, monkeypatch)
        start = time.perf_counter()
        with pytest.raises(QebiasError) as error:
            convert_weights(path.name)
        one_line(error, str(path), "is no readable weight file", words)
        assert time.perf_counter() - start < 10
        assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", SHORT)
def test_download_converts_at_once_and_keeps_no_pickle(site, tmp_path, monkeypatch, name):
    import torch

    folder, url = site
    source = folder / name
    whole = stored(source, {"params": {"w": torch.ones(3)}}, monkeypatch)
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], url=f"{url}/{name}"))
    target = tmp_path / "torch/hub" / FILES[name].folder / Path(name).with_suffix(".safetensors")
    right = source.read_bytes()
    source.write_bytes(right[::-1])
    with pytest.raises(QebiasError) as error:
        download(name, progress=False)
    one_line(error, name, "nothing was kept")
    assert list(target.parent.iterdir()) == []
    whole_of_evil = stored(source, {"w": Evil(tmp_path / "ran")}, monkeypatch)
    with pytest.raises(QebiasError) as error:
        download(name, progress=False)
    one_line(error, f"{url}/{name} is no readable weight file (it asks for")
    assert list(target.parent.iterdir()) == [] and not (tmp_path / "ran").exists()
    assert whole != whole_of_evil
    source.write_bytes(right)
    monkeypatch.setitem(FILES, name, dataclasses.replace(FILES[name], sha256=whole[:8]))
    assert download(name, progress=False) == target == find(name)
    assert list(target.parent.iterdir()) == [target] and weights.identity(target) == whole
    source.unlink()
    assert download(name, progress=False) == target  # already right: no request


def test_download_converts_a_pickle_that_is_here_without_a_request(short):
    path, whole = short
    assert download(path.name) == path.with_suffix(".safetensors") and path.exists()


def test_the_command_converts_what_is_here_and_says_the_whole_hash(short, monkeypatch):
    import torch
    from typer.testing import CliRunner

    from qebias.cli import app

    def run(*arguments):
        done = CliRunner().invoke(app, ["metrics", *arguments])
        return done.exit_code, done.output, done.exception

    path, whole = short
    code, out, _ = run("topiq_fr", "--check")
    assert code == 0 and f"{path.name}: to be converted" in out and "run qebias metrics --convert" in out
    code, out, _ = run("hyperiqa", "--convert")
    assert code == 0 and path.name not in out and "missing, there is nothing to convert" in out
    code, out, _ = run("psnr", "--convert")
    assert code == 0 and "each is read as it is" in out
    code, out, _ = run("topiq_fr", "--convert")
    made = path.with_suffix(".safetensors")
    assert (code, out) == (0, f"{path.name}: {made}, its arrays, made of a file of sha256 {whole}\n")
    code, out, _ = run("topiq_fr", "--check")
    assert code == 0 and f"{path.name}: present" in out and whole in out and str(made) in out
    code, out, _ = run("topiq_fr", "--download")
    assert code == 0 and f"{path.name}: there already" in out
    other = path.parent / "vgg19-d01eb7cb.pth"
    psi = stored(other, {"features.0.bias": torch.ones(2)}, monkeypatch)
    code, out, _ = run("psi", "--check")
    assert code == 0 and f"psi vgg19-original: {other.name}, to be converted" in out
    code, out, _ = run("psi", "--convert")
    assert code == 0 and psi in out and path.name not in out
    code, out, _ = run("vgg19-original")
    assert code == 0 and str(other.with_suffix(".safetensors")) in out and psi in out
    other.with_suffix(".safetensors").unlink()
    stored(other, [1], monkeypatch)
    code, out, error = run("--convert")
    assert code == 1 and "1 of 5 files could not be converted, see above: vgg19-d01eb7cb.pth" in str(error)
    assert whole in out and "no table of tensors" in out
