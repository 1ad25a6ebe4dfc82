"Readers of files that lie in a folder of their own, as the harness calls them: with the path of one file"

import shutil
from pathlib import Path

import numpy as np
from harness import scene

from qebias.claims import read_claims
from qebias.core import QebiasError, read_table
from qebias.networks import load_network, outline
from qebias.pairs import Pixels
from qebias.stats import COLUMNS, Results, estimate
from qebias.study.estimate import specs_of
from qebias.study.keys import Study, jobs
from qebias.study.profile import load_profile
from qebias.study.work import config_of
from qebias.training import read_checkpoint, read_stats


def placed(path, name):
    "A folder that holds the file under the name that its reader looks for"
    folder = Path(path).parent / "case-folder"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(path, folder / name)
    return folder


def manifest(path):
    folder = placed(path, "manifest.json")
    (folder / "pixels.bin").write_bytes(scene(12, 10).tobytes() + (scene(12, 10) + 1).tobytes())
    store = Pixels(folder)
    return [np.asarray(store[i]).sum() for i in range(len(store))]


def checkpoint(path):
    return read_checkpoint(placed(path, "checkpoint/last.pt"))


def stats(path):
    return read_stats(path)


def profile(path):
    "A profile as a dry run reads it: what each row's training is told, and which jobs there are"
    study = Study(load_profile(str(path)), Path(path).parent / "run")
    for row in list(study.rows.values())[:20]:
        specs_of(config_of(study, row, row.seeds[0]))
    if len(study.profile.seeds) * len(study.rows) < 100:
        return len(jobs(study))


def claims(path):
    return read_claims(path)


def results(path):
    table = read_table(path, COLUMNS)
    try:
        found = Results(table)
        return [
            estimate(found.values(row, quantity, dataset, codec, level))
            for dataset, codec, level, row, quantity in list(found.places_of)[:20]
        ]
    except QebiasError as error:  # the table's, which knows no file any more
        raise QebiasError(f"{path}: {error}") from None


def model(path):
    return load_network(path)


# The first network without memory of its own imports much of torch, which is no reader's fault
outline({"class": "qebias.discriminators:UNetSN", "kwargs": {"width": 4}})
