"How long a study still takes: held against what two studies really took, job by job"

import json
import math
import statistics

import pytest
from conftest import ROOT

from qebias.study.runner import Progress, kind_of, paces, time_to_go

RECORDED = json.loads((ROOT / "tests" / "numbers" / "progress.json").read_text())


def replayed(name, places=20):
    "At moments of a recorded run: (seconds that it really took from there, estimate, what a mean a job says)"
    events, expected = RECORDED[name]["events"], RECORDED[name]["expected"]
    progress = Progress("unused", len(expected), show=lambda line: None, expected=expected)
    end, found = events[-1][0], []
    for moment, job, state, text in events:
        while len(found) < places and moment >= (len(found) + 1) * end / (places + 1):
            now = (len(found) + 1) * end / (places + 1)
            running = {job: (now - since, at) for job, (since, at) in progress.running.items()}
            told = time_to_go(expected, progress.took, running, now)
            found.append((end - now, told, now / progress.ended * (len(expected) - progress.ended)))
        progress.take({"time": moment, "job": job, "state": state, "text": text})
    return found


def error(pairs):
    "By which factor estimates are off, as a mean over logarithms"
    return math.exp(statistics.fmean(abs(math.log(told / real)) for real, told in pairs))


@pytest.mark.quick
@pytest.mark.parametrize("name", RECORDED)
def test_the_time_to_go_is_right_within_a_factor_of_three_and_two_as_a_rule(name):
    found = replayed(name)
    assert len(found) == 20
    assert all(real / 3 < told < real * 3 for real, told, _ in found)
    assert error([(real, told) for real, told, _ in found]) < 1.7


@pytest.mark.quick
def test_it_is_nearer_than_a_mean_a_job():
    found = replayed("demo")
    assert error([(real, mean) for real, _, mean in found]) > 2


@pytest.mark.quick
def test_by_hand():
    expected = {"train/bpg-37/rrdb/seed-0": 10.0, "train/bpg-37/rrdb/seed-1": 10.0, "item/fig1": 2.0}
    took = {"train/bpg-37/rrdb/seed-0": 30.0}
    assert kind_of("train/bpg-37/rrdb/seed-0") == "train/rrdb" and kind_of("item/fig1") == "item"
    assert paces(expected, took) == {"": 50 / 30, "train": 3.0, "train/rrdb": 3.0}
    # one after the other: another 30 s of training, and an item, of whose kind nothing is known
    item = 2 * 50 / 30
    assert time_to_go(expected, took, {}, 30.0) == 30 + item
    # the second has run 10 s beside it and says that a quarter is done, so 30 s are left, at 4/3 at once
    running = {"train/bpg-37/rrdb/seed-1": (10.0, "1/4")}
    assert time_to_go(expected, took, running, 30.0) == pytest.approx((30 + item) * 30 / 40)
    # everything has ended
    assert time_to_go(expected, dict.fromkeys(expected, 1.0), {}, 3.0) == 0.0


@pytest.mark.quick
def test_many_short_jobs_after_few_long_ones_do_not_take_hours():
    "As a batch on one core: 10 trainings of 3 minutes, then 200 jobs of 2 seconds"
    expected = {f"train/bpg-37/row{i}/seed-0": 90.0 for i in range(10)}
    expected |= {f"measure/sample/bpg-37/row{i}/seed-0": 1.0 for i in range(200)}
    took = dict.fromkeys(list(expected)[:5], 180.0)
    assert time_to_go(expected, took, {}, 5 * 180.0) == pytest.approx(5 * 180 + 200 * 2, rel=0.02)


def test_nothing_is_said_of_the_rest_where_nothing_was_expected():
    said = []
    for expected, words in (({}, ""), ({"train/a": 10.0, "train/b": 10.0}, "; about 10 s to go")):
        progress = Progress("unused", 2, show=said.append, expected=expected)
        progress.take({"job": "train/a", "state": "start", "time": 0.0})
        progress.take({"job": "train/a", "state": "done", "time": 10.0, "text": ""})
        assert progress.to_go(10.0) == words
