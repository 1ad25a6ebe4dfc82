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
