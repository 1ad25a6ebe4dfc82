"Training on photographs of one's own: where the folders lie"

import numpy as np
import pytest

from qebias.core import QebiasError, write_png
from qebias.photos import photographs, train

TINY = {"iterations": 2, "batch": 1, "patch": 48, "device": "cpu"}


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for i in range(3):
        scene = random.integers(0, 256, (8, 9, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        write_png(tmp_path / "Fotos ü" / f"{i}.png", scene)
    return tmp_path / "Fotos ü"


def test_a_training_among_the_photographs_goes_on_and_feeds_no_other(folder):
    "Its bitstreams were taken for photographs: the same command was refused, another one trained on JPEGs"
    said = []
    first = train(folder, "dncnn", "jpeg", 20, folder / "run", TINY, said.append)
    again = train(folder, "dncnn", "jpeg", 20, folder / "run", TINY, said.append)
    assert again["photographs"] == first["photographs"]
    other = train(folder, "dncnn", "jpeg", 30, folder / "other", TINY, said.append)
    assert [p["picture"] for p in other["photographs"]] == [p["picture"] for p in first["photographs"]]
    assert sum("2 photographs to train on, 1 to look at" in line for line in said) == 3
    with pytest.raises(QebiasError, match="holds no photographs, only what a training wrote"):
        train(folder / "run", "dncnn", "jpeg", 20, folder / "third", TINY, said.append)


def test_the_folder_of_the_photographs_is_no_place_for_a_training(folder):
    with pytest.raises(QebiasError, match="-o .* is the folder of the photographs: name another"):
        train(folder, "dncnn", "jpeg", 20, folder / ".." / folder.name, TINY)
    assert sorted(p.name for p in folder.iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_batch_that_memory_does_not_hold_is_one_line(folder, tmp_path, monkeypatch):
    def lacking(*_):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 26214400000 bytes"
        )

    monkeypatch.setattr("qebias.training._loop", lacking)
    with pytest.raises(
        QebiasError, match="not enough memory on cpu for 1 patches of 48 pixels at once: take"
    ):
        train(folder, "dncnn", "jpeg", 20, tmp_path / "run", TINY)


@pytest.mark.parametrize("count", [0, 1025, 100_000])
def test_threads_that_no_system_starts_are_refused(folder, tmp_path, count):
    "PyTorch ends with a segmentation fault"
    with pytest.raises(QebiasError, match="threads: Input should be (less|greater) than"):
        train(folder, "dncnn", "jpeg", 20, tmp_path / "run", {**TINY, "threads": count})


def test_a_folder_of_ones_own_called_streams_counts(folder):
    (folder / "streams").mkdir()
    (folder / "0.png").rename(folder / "streams" / "0.png")
    assert len(photographs(folder, out=folder / "run")) == 3


def test_a_training_goes_over_no_other_file(folder, tmp_path):
    "`result.json` of a folder that was somebody's own was replaced"
    out = tmp_path / "own"
    (out / "training").mkdir(parents=True)
    for name in ("result.json", "training/result.json"):
        (out / name).write_text("precious")
        with pytest.raises(QebiasError, match=f"{name} is there and was not written by a training"):
            train(folder, "arcnn", "jpeg", 30, out, {"iterations": 2})
        assert [p.read_text() for p in out.rglob("*") if p.is_file()] == ["precious"]
        (out / name).unlink()
