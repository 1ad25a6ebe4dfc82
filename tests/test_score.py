"""The evaluator: one walk, bounded memory, failures per metric, resumption after a kill, sets with kept
statistics, and folders of files"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qebias import files, metrics
from qebias.core import QebiasError, is_absent, read_rgb, write_png
from qebias.metrics import (
    METRICS,
    FewImages,
    features,
    fetch,
    frechet_distance,
    metric,
    metric_name,
    score,
)
from qebias.pictures import NamedPicture

pytestmark = pytest.mark.filterwarnings("ignore::qebias.metrics.FewImages")
RNG = np.random.default_rng(0)
ONE = ["psnr", "ssim", "nlpd"]


def noise(h=100, w=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def softened(rgb):
    return np.ascontiguousarray((rgb.astype(np.uint16) * 3 // 4 + 30).astype(np.uint8))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def pairs():
    return [(f"i{k}", softened(noise(seed=k)), noise(seed=k)) for k in range(5)]


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    for variable in ("QEBIAS_WEIGHTS", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))


# --- values


def test_values_are_those_of_each_metric_alone_whatever_the_number_of_workers(pairs):
    before = torch.get_num_threads()
    tables = [score(pairs, ONE, workers=workers) for workers in (1, 2, 4)]
    assert torch.get_num_threads() == before
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert (
        list(tables[0].image) == [name for name, *_ in pairs for _ in ONE]
        and list(tables[0].metric) == ONE * 5
    )
    for row in tables[0].itertuples():
        _, enhanced, raw = pairs[int(row.image[1:])]
        assert row.value == pytest.approx(metric(row.metric)(enhanced, raw), rel=1e-6)


def test_floats_and_tensors_are_clamped_and_rounded(pairs):
    name, enhanced, raw = pairs[0]
    over = enhanced / 255.0
    over[enhanced == enhanced.max()] = 1.2
    rounded = enhanced.copy()
    rounded[enhanced == enhanced.max()] = 255
    expected = score([(name, rounded, raw)], ["psnr"]).value
    for image in (
        over,
        over.astype(np.float32),
        torch.tensor(over).permute(2, 0, 1),
        torch.tensor(over).permute(2, 0, 1)[None].float(),
    ):
        assert score([(name, image, raw)], ["psnr"]).value.equals(expected)
    assert (
        metrics._eight_bit(np.full((1, 1, 3), 0.5 / 255 + 1e-9))[0, 0, 0] == 1
        and metrics._eight_bit(np.full((1, 1, 3), -0.3)).max() == 0
    )
    for bad, words in (
        (over * 255, "floating values up to"),
        (over * np.nan, "NaN or infinity"),
        (raw.astype(np.int32), "dtype int32"),
        ("no.png", "does not exist"),
    ):
        with pytest.raises(QebiasError, match=f"^{name}: .*{words}"):
            score([(name, bad, raw)], ["psnr"])


def test_each_image_is_loaded_once_and_memory_does_not_grow():
    alive, most, loads, lock = [0], [0], [], threading.Lock()

    def gone():
        with lock:
            alive[0] -= 1

    def loader(k, change):
        def load():
            rgb = change(noise(seed=k))
            with lock:
                loads.append(k)
                alive[0] += 1
                most[0] = max(most[0], alive[0])
            weakref.finalize(rgb, gone)
            return rgb

        return load

    table = score(((f"i{k}", loader(k, softened), loader(k, np.copy)) for k in range(24)), ONE, workers=2)
    assert len(table) == 72 and sorted(loads) == sorted([*range(24)] * 2)
    assert 2 <= most[0] <= 2 * 4 and alive[0] == 0  # pairs under way


def test_a_tensor_or_a_luminance_is_made_once_for_all_metrics(pairs, monkeypatch):
    made = []
    real = metrics._tensor
    monkeypatch.setattr(metrics, "_tensor", lambda rgb, device: made.append(1) or real(rgb, device))
    score(pairs[:2], ONE + ["fd_nss"])
    assert len(made) == 4


# --- failures


def failing(monkeypatch, name, error, on):
    "Let one metric fail for the images whose first pixel is in `on`"
    real = metrics._built

    def built(which, device):
        call = real(which, device)

        def run(*views):
            if views[0].rgb[0, 0, 0] in on:
                raise error
            return call(*views)

        return run if which == name else call

    monkeypatch.setattr(metrics, "_built", built)


@pytest.mark.parametrize(
    "error,words",
    [
        (MemoryError(), "ran out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            "ran out of memory",
        ),
        (
            RuntimeError("Calculated padded input size\nis small"),
            "nlpd failed: RuntimeError: Calculated padded input size is small",
        ),
        (QebiasError("nlpd needs more"), "nlpd needs more"),
        (np.linalg.LinAlgError("singular"), "singular"),
    ],
)
def test_one_metric_fails_for_one_image_and_the_rest_is_whole(pairs, monkeypatch, error, words):
    whole = score(pairs, ONE + ["fd_nss"])
    failing(monkeypatch, "nlpd", error, {pairs[3][1][0, 0, 0]})
    table = score(pairs, ONE + ["fd_nss"])
    missing = table.value.isna()
    assert list(table[missing].image) == ["i3"] and list(table[missing].metric) == ["nlpd"]
    assert table[~missing].equals(whole[~missing])
    (cell,) = table.attrs["empty"]
    assert (
        (cell["image"], cell["metric"]) == ("i3", "nlpd")
        and words in cell["reason"]
        and "\n" not in cell["reason"]
    )
    with pytest.raises(QebiasError, match="^i3: "):
        score(pairs, ONE, errors="raise")


def test_a_fault_of_ours_is_not_an_empty_cell(pairs, monkeypatch):
    failing(monkeypatch, "ssim", TypeError("wrong"), {pairs[1][1][0, 0, 0]})
    before, others = torch.get_num_threads(), set(threading.enumerate())
    with pytest.raises(TypeError):
        score(pairs, ONE)
    assert torch.get_num_threads() == before
    assert not [t for t in set(threading.enumerate()) - others if t.name.startswith("ThreadPool")]


def test_small_odd_and_foreign_images(pairs):
    small = ("small", softened(noise(20, 400)), noise(20, 400))
    table = score([pairs[0], small, pairs[1]], ONE + ["fd_nss"])
    reasons = {(c["image"], c["metric"]): c["reason"] for c in table.attrs["empty"]}
    assert set(reasons) == {("small", "nlpd"), ("", "fd_nss")}
    assert reasons["small", "nlpd"] == "nlpd needs images of at least 32x32 px, not 20x400" and reasons[
        "", "fd_nss"
    ].startswith("fd_nss lacks 1 of 3 images, first small: ")
    other = score([("x", noise(50, 50), noise(50, 51)), ("y", noise(50, 50), None)], ["psnr"])
    assert other.value.isna().all() and [
        "compares images of one size" in other.attrs["empty"][0]["reason"],
        "pass it" in other.attrs["empty"][1]["reason"],
    ] == [True, True]
    table.to_json(), json.dumps(table.attrs)  # can be written with the table


def test_a_value_that_is_no_number_is_an_empty_cell(monkeypatch, pairs):
    monkeypatch.setattr(metrics, "psnr", lambda enhanced, raw: float("nan"))
    table = score(pairs[:1], ["psnr"])
    assert (
        table.value.isna().all()
        and table.attrs["empty"][0]["reason"] == "psnr has no value for this image, but nan"
    )
    with pytest.raises(QebiasError, match="psnr has no value for this image, but nan"):
        metrics.metric("psnr")(*pairs[0][1:])


@pytest.mark.parametrize(
    "names,errors,words",
    [(["lpips"], "keep", "did you mean lpips-alex?"), (["psnr"], "drop", "errors is 'keep' or 'raise'")],
)
def test_wrong_arguments(names, errors, words):
    with pytest.raises(QebiasError, match=words.replace("?", "\\?")):
        score([], names, errors=errors)


# --- resuming


def counted(monkeypatch):
    calls = []
    real = metrics.psnr
    monkeypatch.setattr(metrics, "psnr", lambda enhanced, raw: calls.append(1) or real(enhanced, raw))
    return calls


def test_a_journal_spares_what_is_known_and_nothing_else(pairs, monkeypatch, tmp_path):
    calls, journal = counted(monkeypatch), tmp_path / "deep" / "j.jsonl"
    first = score(pairs, ["psnr", "fd_nss"], journal=journal)
    assert (
        len(calls) == 5
        and score(pairs, ["psnr", "fd_nss"], journal=journal).equals(first)
        and len(calls) == 5
    )
    assert (
        score([("other name", *pairs[2][1:])], ["psnr"], journal=journal).value.item() == first.value[2]
        and len(calls) == 5
    )  # content counts, names do not
    score([("i2", pairs[2][1], pairs[1][2])], ["psnr"], journal=journal)
    assert len(calls) == 6
    monkeypatch.setitem(METRICS, "psnr", replace(METRICS["psnr"], version=2))
    score(pairs, ["psnr"], journal=journal)
    assert len(calls) == 11


def test_no_reference_values_do_not_depend_on_the_raw_image(monkeypatch, tmp_path):
    built = metrics._built
    calls = []
    monkeypatch.setattr(metrics, "_ready", lambda name: METRICS[name])
    monkeypatch.setattr(metrics, "_version", lambda name, device: "v")
    monkeypatch.setattr(
        metrics,
        "_built",
        lambda name, device: (lambda view: calls.append(1) or 4.2) if name == "niqe" else built(name, device),
    )
    big = noise(200, 200)
    for raw in (None, noise(200, 200, 1), noise(7, 7)):
        assert score([("a", big, raw)], ["niqe"], journal=tmp_path / "j").value.item() == 4.2
    assert len(calls) == 1


def test_a_torn_line_is_computed_again_and_an_empty_cell_is_tried_again(pairs, monkeypatch, tmp_path):
    journal = tmp_path / "j.jsonl"
    first = score(pairs, ["psnr"], journal=journal)
    journal.write_bytes(journal.read_bytes()[:-9])
    calls = counted(monkeypatch)
    assert score(pairs, ["psnr"], journal=journal).equals(first) and len(calls) == 1
    assert (
        all(json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}"))
        and score(pairs, ["psnr"], journal=journal).equals(first)
        and len(calls) == 1
    )
    with monkeypatch.context() as patch:
        failing(patch, "ssim", MemoryError(), {pairs[0][1][0, 0, 0]})
        assert score(pairs, ["ssim"], journal=journal).value.isna().sum() == 1
    assert score(pairs, ["ssim"], journal=journal).value.notna().all()


def test_features_come_back_from_a_journal_bit_for_bit(tmp_path):
    for value in (
        1 / 3,
        RNG.normal(size=(3, 4)),
        np.float32(RNG.normal(size=(2, 5))).astype(np.float64),
        np.array([[np.nan, 1.0]]),
    ):
        journal = metrics._Journal(tmp_path / "j")
        journal.get(["k", str(value)], lambda: value)
        again = metrics._Journal(tmp_path / "j").get(["k", str(value)], None)
        assert np.array_equal(again, value, equal_nan=True) and np.asarray(again).dtype == np.float64


def test_a_foreign_file_is_not_written_into(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    with pytest.raises(QebiasError, match="photo.png is no journal of scores"):
        score([], ["psnr"], journal=tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == b"\x89PNG\r\n\x1a\n..."


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on(tmp_path, number):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import time, numpy as np
        from qebias.metrics import score
        def load(k, wait):
            def inner():
                time.sleep(wait)
                return np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)
            return inner
        print("go", flush=True)
        pairs = [(str(k), load(k, 0.1), load(k + 100, 0)) for k in range(20)]
        score(pairs, ["psnr", "nlpd"], journal="j.jsonl", workers=1)
        """)
    )
    child = subprocess.Popen(
        [sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with child:
        child.stdout.readline()
        deadline = time.monotonic() + 60
        while not (tmp_path / "j.jsonl").exists() or (tmp_path / "j.jsonl").read_bytes().count(b"\n") < 6:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
        child.send_signal(number)
        child.wait(30)
    journal = tmp_path / "j.jsonl"
    kept = journal.read_bytes()
    assert 6 <= kept.count(b"\n") < 40
    twenty = [(str(k), square(k), square(k + 100)) for k in range(20)]
    whole = score(twenty, ["psnr", "nlpd"], journal=journal, workers=1)
    assert journal.read_bytes().startswith(kept[: kept.rindex(b"\n")])
    assert journal.read_bytes().count(b"\n") in (40, 41)
    journal.unlink()
    again = score(twenty, ["psnr", "nlpd"], journal=journal, workers=1)
    assert again.equals(whole) and len(whole) == 40


def square(k):
    "What the script draws"
    return np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)


# --- sets


def test_a_distance_of_sets_is_that_of_their_features(pairs):
    nss = features("fd_nss")
    expected = frechet_distance(
        np.concatenate([nss(e) for _, e, _ in pairs]), np.concatenate([nss(r) for *_, r in pairs])
    )
    with pytest.warns(FewImages, match="fd_nss of 5 blocks"):
        assert score(pairs, ["fd_nss"]).value.item() == pytest.approx(expected, rel=1e-9)


def test_features_are_of_distances_of_sets():
    with pytest.raises(QebiasError, match="ssim is a value of one image: use metric"):
        features("ssim")


@pytest.mark.parametrize(
    "name,n,d,warns",
    [
        ("fid", 2047, 2048, True),
        ("fid", 2048, 2048, False),
        ("fid_patch256", 500, 2048, True),
        ("fd_alex", 256, 256, True),
        ("fd_nss", 37, 36, False),
    ],
)
def test_when_a_set_is_small(name, n, d, warns):
    assert bool(metrics._few(name, n, d)) == warns


# --- folders of files


@pytest.fixture
def folders(tmp_path, pairs):
    for name, enhanced, raw in pairs[:3]:
        write_png(tmp_path / "e" / f"{name}.png", enhanced)
        (tmp_path / "r").mkdir(exist_ok=True)
        Image.fromarray(raw).save(tmp_path / "r" / f"{name}.bmp")
    return tmp_path


def test_a_folder_is_scored(folders, pairs):
    table = files.score_files(
        folders / "e", folders / "r", ["PSNR", "nlpd", "psnr"], folders / "out" / "s.csv"
    )
    lines = (folders / "out" / "s.csv").read_text().splitlines()
    assert (
        lines[0] == "image,metric,value"
        and len(lines) == 7
        and [p.name for p in (folders / "out").glob("[!.]*")] == ["s.csv"]
    )
    assert float(lines[1].split(",")[2]) == table.value[0] == metric("psnr")(*pairs[0][1:])
    mean = f"{table[table.metric == 'psnr'].value.mean():.4f}"
    assert any(line.startswith("psnr") and "3/3" in line and mean in line for line in files.summary(table))


def test_all_metrics_leave_empty_cells_with_reasons_and_no_numbers(folders, no_weights):
    table = files.score_files(folders / "e", folders / "r", out=folders / "s.csv")
    assert set(table.metric) == set(METRICS)
    empty = table[table.value.isna()]
    assert (
        set(empty.metric) == {n for n, m in METRICS.items() if m.weights} and "musiq" in empty.metric.values
    )
    assert {
        line.rsplit(",", 1)[1] for line in (folders / "s.csv").read_text().splitlines() if ",musiq," in line
    } == {""}
    assert any(
        line == "empty: musiq: musiq_koniq_ckpt-e95806b9.pth missing, see qebias metrics --check"
        for line in files.summary(table)
    )
    with pytest.raises(QebiasError, match="metric 'musiq' needs"):
        files.score_files(folders / "e", folders / "r", ["psnr", "musiq"], folders / "t.csv")
    with pytest.raises(QebiasError, match="no metric can be computed here without raw pictures"):
        files.score_files(folders / "e", out=folders / "t.csv")
    assert not (folders / "t.csv").exists()


def test_an_unreadable_picture_ends_it_and_the_work_is_kept(folders, monkeypatch):
    whole = (folders / "e" / "i2.png").read_bytes()
    (folders / "e" / "i2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(QebiasError, match="^i2: .*i2.png"):
        files.score_files(folders / "e", folders / "r", ["psnr"], folders / "s.csv", workers=1)
    assert not (folders / "s.csv").exists() and (folders / ".s.journal").exists()
    (folders / "e" / "i2.png").write_bytes(whole)
    calls = counted(monkeypatch)
    files.score_files(folders / "e", folders / "r", ["psnr"], folders / "s.csv")
    assert len(calls) == 1
    files.score_files(folders / "e", folders / "r", ["psnr"], folders / "s.csv")
    assert len(calls) == 1  # nothing is computed twice


def test_an_old_table_stays_until_the_new_one_is_whole(folders):
    (folders / "s.csv").write_text("old")
    with pytest.raises(QebiasError, match="s.csv is there and was not written by this command"):
        files.score_files(folders / "e", folders / "r", ["psnr"], folders / "s.csv")
    (folders / "e" / "i0.png").write_bytes((folders / "e" / "i0.png").read_bytes()[:300])
    with pytest.raises(QebiasError, match="i0.png"):
        files.score_files(folders / "e", folders / "r", ["psnr"], folders / "s.csv", overwrite=True)
    assert (folders / "s.csv").read_text() == "old"


def test_turned_pictures_are_compared_as_they_are_seen(tmp_path):
    rgb = noise(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    for side in "er":
        (tmp_path / side).mkdir()
    Image.fromarray(rgb).save(tmp_path / "e" / "a.jpg", exif=exif, quality=95)
    write_png(tmp_path / "r" / "a.png", read_rgb(tmp_path / "e" / "a.jpg"))
    assert files.score_files(tmp_path / "e", tmp_path / "r", ["psnr"], tmp_path / "s.csv").value.item() == 80


# --- the lists


def test_the_list_says_why_and_costs_no_time(no_weights):
    start = time.perf_counter()
    lines = metrics.listing() + metrics.checklist()
    assert time.perf_counter() - start < 5
    assert all(any(line.startswith(name) for line in lines) for name in METRICS)
    assert (
        "    https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/musiq_koniq_ckpt-e95806b9.pth"
        in lines
    )


def test_the_check_tells_right_from_wrong(monkeypatch, tmp_path, no_weights):
    import dataclasses
    import hashlib

    from qebias.weights import FILES

    file = "niqe_modelparameters.mat"
    monkeypatch.setenv("QEBIAS_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(
        FILES, file, dataclasses.replace(FILES[file], bytes=4, sha256=hashlib.sha256(b"good").hexdigest())
    )
    (tmp_path / file).write_bytes(b"good")
    assert (
        f"  {file}: present, hash right (sha256 {FILES[file].sha256[:8]}...), 4 bytes"
        in metrics.checklist(["niqe"])
        and f"    {tmp_path / file}" in metrics.checklist(["niqe"])
    )
    (tmp_path / file).write_bytes(b"evil")
    os.utime(tmp_path / file, (1, 1))
    assert any(
        f"{file}: wrong, expected sha256 {FILES[file].sha256}, found " in line
        for line in metrics.checklist(["niqe"])
    )
    assert any(line.startswith("niqe ") and f"no: {file} wrong" in line for line in metrics.listing())
    monkeypatch.setitem(FILES, file, dataclasses.replace(FILES[file], sha256=""))
    assert any(
        "present, hash not checked (no hash is stated)" in line for line in metrics.checklist(["niqe"])
    )


def test_fetch_goes_on_after_a_failure_and_says_so_at_the_end(monkeypatch, no_weights):
    asked = []

    def download(file, progress):
        asked.append(file)
        if file.startswith("DISTS"):
            raise QebiasError("could not fetch it")
        return Path("/weights") / file

    monkeypatch.setattr(metrics, "download", download)
    said = []
    with pytest.raises(QebiasError, match="1 of 3 files could not be had, see above: DISTS"):
        fetch(["dists", "musiq"], said.append)
    assert (
        asked == ["vgg16-397923af.pth", "DISTS_weights-f5e65c96.pth", "musiq_koniq_ckpt-e95806b9.pth"]
        and len(said) == 3
    )
    with pytest.raises(QebiasError, match="did you mean musiq"):
        fetch(["musik"])


@pytest.mark.parametrize(
    "typed,name",
    [
        ("LPIPS", "lpips-alex"),
        ("TOPIQ", "topiq_fr"),
        ("musiq-koniq", "musiq"),
        ("CLIP-IQA", "clipiqa"),
        ("FID", "fid"),
        ("AHIQ", "ahiq"),
        (" psnr ", "psnr"),
        ("PI", "pi"),
        ("DISTS", "dists"),
        ("HyperIQA", "hyperiqa"),
        ("NIQE", "niqe"),
    ],
)
def test_the_papers_names_are_understood(typed, name):
    assert metric_name(typed) == name


# --- beside pyiqa


@pytest.mark.slow
def test_values_are_those_of_pyiqa_metric_by_metric():
    "In a process of its own: pyiqa keeps where its files lie and how it fetches them from its first import"
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import evaluator\n"
    code += "print(json.dumps(evaluator.compare(count=3, rounds=1)))"
    found = json.loads(
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent / "benchmarks")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
    )
    assert (
        set(found["largest relative difference"]) >= {"psnr"}
        and max(found["largest relative difference"].values()) < 1e-6
    )


def picture(path, value=0, size=(32, 40), exif=None):
    "A picture of noise"
    image = Image.fromarray(np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8))
    image.save(path, **({"exif": exif} if exif else {}))


def test_nothing_is_written_beside_an_input_that_is_a_link(tmp_path):
    (tmp_path / "A").mkdir(), (tmp_path / "B").mkdir()
    picture(tmp_path / "B" / "x.png"), picture(tmp_path / "A" / "link.bmp", 1)
    (tmp_path / "A" / "link.png").symlink_to(tmp_path / "B" / "x.png")
    picture(tmp_path / "A" / "other.png", 2)
    link = [NamedPicture(tmp_path / "A" / "link.png", "link")]
    with pytest.raises(QebiasError, match="link.bmp is there and was not written by this command"):
        files.targets(link, tmp_path / "A", ".bmp")
    with pytest.raises(QebiasError, match="x.png is an input"):
        files.targets(
            [NamedPicture(tmp_path / "A" / "link.png", "x")], tmp_path / "B", ".png", overwrite=True
        )
    (tmp_path / "A" / "other.jpg").write_bytes(b"mine")
    (tmp_path / "A" / "other.bmp").symlink_to(tmp_path / "B" / "x.png")
    with pytest.raises(QebiasError, match="other.jpg is there and was not written by this command"):
        files.targets([NamedPicture(tmp_path / "A" / "other.bmp", "other")], tmp_path / "A", ".jpg")


def test_pairs_that_are_shown_in_different_sizes_are_found_before_anything_is_scored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    picture(tmp_path / "a" / "x.png"), picture(tmp_path / "b" / "x.png", 1, exif=exif)
    with pytest.raises(QebiasError, match="pairs must have one size"):
        files.scored_pairs(tmp_path / "a", tmp_path / "b")
    picture(tmp_path / "a" / "x.png", 2, exif=exif)
    assert len(files.scored_pairs(tmp_path / "a", tmp_path / "b")[0]) == 1


def test_a_name_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    picture(tmp_path / "a" / "x.png")
    os.rename(tmp_path / "a" / "x.png", os.path.join(os.fsencode(tmp_path / "a"), b"x\xff.png"))
    with pytest.raises(QebiasError, match="has a name that is no text, and tables cannot hold it: rename it"):
        files.scored_pairs(tmp_path / "a", None)


def test_a_long_name_can_be_written(tmp_path):
    from qebias.core import atomic, atomic_dir, sweep

    name = "図" * 78
    with atomic(tmp_path / f"{name}.png") as tmp:
        tmp.write_text("whole")
    with atomic_dir(tmp_path / name) as tmp:
        (tmp / "x").touch()
    with pytest.raises(RuntimeError), atomic(tmp_path / f"{name}.bpg"):
        raise RuntimeError
    (tmp_path / f".qebias-unfinished-{name.encode()[:160].decode(errors='ignore')}-abcd1234").mkdir()
    sweep(tmp_path, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, f"{name}.png"]


def test_a_module_that_another_needs_is_named():
    import sys

    from qebias.core import require

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "needs_more":
                import importlib.abc
                import importlib.util

                class Loader(importlib.abc.Loader):
                    def exec_module(self, module):
                        import nowhere_to_be_found  # noqa

                return importlib.util.spec_from_loader(name, Loader())

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        with pytest.raises(QebiasError, match="nowhere_to_be_found is needed for tests and is not installed"):
            require("needs_more", "tests")
    finally:
        sys.meta_path.remove(finder)


def test_pixels_under_way_are_limited(monkeypatch):
    "Four threads, but no more pixels at once than there is room for; a larger one goes alone"
    import threading

    from qebias.files import Pair

    monkeypatch.setattr(metrics, "MOST_UNDER_WAY", 100)
    lock, busy, most = threading.Lock(), [], []

    def load(cost):
        with lock:
            busy.append(cost)
            most.append((sum(busy), len(busy)))
        time.sleep(0.01)
        with lock:
            busy.remove(cost)
        return noise()

    def pair(cost, name):
        made = Pair(name, lambda: load(cost), noise(1), 0)
        made.cost = cost
        return made

    costs = [30, 60, 300, 20, 20, 20, 90, 10] * 3
    score([pair(cost, str(k)) for k, cost in enumerate(costs)], ["psnr"], workers=4)
    assert all(total <= 100 or count == 1 for total, count in most)
    assert max(count for _, count in most) > 1


def test_a_module_that_another_thread_is_importing_is_there(monkeypatch):
    "Until its file is found it has no spec: two pictures of three thousand once had no SSIM"
    half = types.ModuleType("half_imported")
    half.__spec__ = None
    assert is_absent("half_imported")
    monkeypatch.setitem(sys.modules, "half_imported", half)
    assert not is_absent("half_imported")


def test_items_that_are_none_are_named():
    rgb = noise()
    for items in ([rgb], [("a", rgb)], ("a", rgb, rgb)):
        with pytest.raises(QebiasError, match=r"score takes \(name, enhanced, raw or None\) of each image"):
            score(items, ["psnr"])


def test_pictures_in_minus_one_to_one_are_refused():
    with pytest.raises(
        QebiasError, match=r"a: the enhanced image has floating values from -1: pass \[0, 1\]"
    ):
        score([("a", noise() / 127.5 - 1, noise())], ["psnr"])


@pytest.mark.skipif(not os.environ.get("QEBIAS_WEIGHTS"), reason="QEBIAS_WEIGHTS names no folder")
def test_scoring_leaves_the_caller_s_random_numbers_alone(pairs):
    before = torch.get_rng_state()
    score(pairs, ["psnr", "lpips-alex"])
    assert torch.equal(before, torch.get_rng_state())
