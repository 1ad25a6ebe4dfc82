"Readers that are wrong in each way that the harness has to notice"

import os
import time

import numpy as np

from qebias.core import QebiasError


def hangs(path):
    time.sleep(60)


def dies(path):
    os.kill(os.getpid(), 11)


def raises(path):
    raise KeyError("name")


def takes_memory(path):
    return np.ones(3 * 2**30, np.uint8)


def says_two_lines(path):
    raise QebiasError(f"{path}: one\ntwo")


def names_no_file(path):
    raise QebiasError("something is wrong")


def prints(path):
    print("a library's own line")


def works(path):
    return np.ones(200 * 2**20, np.uint8)
