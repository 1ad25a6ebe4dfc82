"Claims as data: every record can be resolved, every verdict is earned, and noise reproduces nothing"

import re

import numpy as np
import pandas as pd
import pytest

from qebias import claims as c
from qebias.claims import CONTROLS, claims_markdown, claims_text, judge, paper_numbers, read_claims, tally
from qebias.core import QebiasError
from qebias.methods import METHODS
from qebias.metrics import METRICS
from qebias.stats import COLUMNS, Results

FILE = read_claims()
ROWS = ["arcnn", "dncnn", "rrdb", *(m for m in METHODS if m.startswith(("esrgan", "realesrgan")))]
DISTANCES = ("fid", "lpips-alex", "fd_alex", "fd_nss")


def row_lines(row, seed, values, picture_names, place=("set", "bpg", 37)):
    "Lines of one row and seed: quantity -> values of pictures, or one value of the set"
    dataset, codec, level = place
    trained = "" if row == "compressed" or row.count(":") == 1 else f"{codec}-{level}"
    found = []
    for quantity, value in values.items():
        named = zip(picture_names, value) if np.ndim(value) else [("", value)]
        found += [
            (dataset, name, codec, level, row, trained, seed, quantity, float(v), "") for name, v in named
        ]
    return found


def study(means, seeds=4, pictures=14, spread=0.01, auc=0.9, place=("set", "bpg", 37), own=0.05, seed=0):
    "A table from the means of each row's quantities; pictures and trainings differ a little"
    generator = np.random.default_rng(seed)
    names = [f"p{i:02d}" for i in range(pictures)]
    base = {}
    lines = []
    for row, quantities in means.items():
        trained = (
            row != "compressed" and row.count(":") != 1
        )  # a control of a row is trained as often as that
        for k in range(seeds if trained else 1):
            values = {}
            for quantity, mean in quantities.items():
                scale = abs(mean) or 1
                of_picture = base.setdefault(quantity, generator.normal(0, own, pictures))
                noise = generator.normal(0, spread, pictures) + generator.normal(0, spread) if trained else 0
                values[quantity] = mean + scale * (of_picture + noise)
            if trained and any(q.startswith("score:") for q in quantities):
                values["auc:raw-enhanced"] = auc
            lines += row_lines(row, k, values, names, place)
    return pd.DataFrame(lines, columns=COLUMNS)


def lpips(ce, re, cr=0.2):
    return {"lpips-alex": re, "ce:lpips-alex": ce, "re:lpips-alex": re, "cr:lpips-alex": cr}


def scores(raw, enhanced, compressed):
    return {"score:raw": raw, "score:enhanced": enhanced, "score:compressed": compressed}


SAID = {
    "compressed": {"psnr": 30, "bpp": 0.3} | lpips(1e-9, 0.2),
    "control:noise4": {"psnr": 29.1} | lpips(0.11, 0.25),
    "control:unsharp": {"psnr": 28.2} | lpips(0.05, 0.2),
    "realesrgan": {"psnr": 28.5} | lpips(0.13, 0.15) | scores(0.7, 0.3, 0.8),
    "realesrgan+both": {"psnr": 29.6} | lpips(0.16, 0.13) | scores(0.8, 0.1, 0.1),
}


def one(rows, item, statement):
    found = [row for row in rows if (row["item"], row["statement"]) == (item, statement)]
    assert len(found) == 1, [row["statement"] for row in rows if row["item"] == item]
    return found[0]


PSNR = "Tab. 5", "Real-ESRGAN +both: PSNR rises against Real-ESRGAN"
SCORE = "Tab. 1", "Real-ESRGAN scores compressed patches above raw ones"
BIAS = "Fig. 8, 9", "Real-ESRGAN +both: less bias than Real-ESRGAN by lpips-alex"
LEAN = "Fig. 3", "Real-ESRGAN leans towards compressed by lpips-alex"


# The file


def test_every_item_of_the_paper_has_its_records():
    items = {claim.item for claim in FILE.claims}
    for item in ("Tab. 1", "Tab. 2", "Tab. 3", "Tab. 4", "Tab. 5", "Fig. 1", "Fig. 3", "Fig. 4", "Fig. 6"):
        assert item in items
    assert {"Fig. 7", "Fig. 8, 9", "Fig. 10", "Divergence", "Codecs", "Levels", "Modern codec"} <= items


def test_every_number_that_a_record_cites_is_printed_in_the_paper():
    table = study(SAID | {row: {"psnr": 29} for row in ROWS if row not in SAID})
    rows = judge(FILE, table)
    assert len(rows) > 150
    cited = {row["paper"] for row in rows}
    printed = {"-0.48", "+0.08", "-0.83", "-0.82", "-0.90", "+0.79", "+0.63", "-0.003"}
    assert {f"{number}, DIV2K" for number in printed} <= cited
    assert not [p for p in cited if "|" in p or "<" in p]
    assert not [row["statement"] for row in rows if "<" in row["statement"]]


def test_the_differences_of_table_3_are_those_of_table_5():
    numbers = paper_numbers()
    for ref in ("[43]", "[44]"):
        gap = numbers["tab3", "fid", f"{ref}, ours"] - numbers["tab3", "fid", ref]
        assert gap == pytest.approx(numbers["tab5", f"{ref} +both", "fid gain"], abs=0.011)


def test_every_quantity_has_its_smallest_effect():
    rows = judge(FILE, study(SAID | {row: {"psnr": 29} for row in ROWS if row not in SAID}))
    assert not {row["quantity"] for row in rows if row["effect"] == 0}


def test_no_deviation_by_nlpd():
    assert not [claim for claim in FILE.claims if "nlpd" in claim.distances]
    assert {d for claim in FILE.claims for d in claim.distances} == set(DISTANCES)
    assert METRICS["fd_nss"].beside_controls


@pytest.mark.parametrize(
    "text, words",
    [
        ("claims: [{item: Tab. 1}]\neffects: {}\n", "claims / 0 / statement"),
        ("claims: []\neffects: {psnr: much}\n", "effects / psnr"),
        ("claims: []\neffects: {}\nnonsense: 1\n", "nonsense"),
        ("[1, 2\n", "YAML"),
    ],
)
def test_a_broken_file_is_one_line_that_names_the_field(tmp_path, text, words):
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(QebiasError, match=words) as error:
        read_claims(file)
    assert "\n" not in str(error.value)
    with pytest.raises(QebiasError, match="does not exist"):
        read_claims(tmp_path / "none.yaml")


def test_adding_a_claim_is_adding_a_record(tmp_path):
    file = tmp_path / "claims.yaml"
    file.write_text(
        "effects: {psnr: 0.05}\n"
        "claims:\n"
        "- {item: Mine, statement: '<row:label> beats compressed', for: {row: [realesrgan, arcnn]},\n"
        "   rows: [<row>, compressed], quantity: psnr, contrast: difference, side: better,\n"
        "   paper: hypothesis, grade: hypothesis}\n"
    )
    rows = judge(read_claims(file), study(SAID))
    assert [row["statement"] for row in rows] == ["Real-ESRGAN beats compressed", "AR-CNN beats compressed"]
    assert [row["verdict"].partition(":")[0] for row in rows] == ["opposite", "not measured"]


# A test for each verdict


def test_reproduced():
    rows = judge(FILE, study(SAID))
    for place in (PSNR, SCORE, BIAS):
        assert one(rows, *place)["verdict"] == "reproduced", place
    row = one(rows, *PSNR)
    assert row["low"] < row["value"] < row["high"] and row["paper"] == "+0.79, DIV2K"
    assert (row["seeds"], row["pictures"]) == (4, 14)


def test_opposite():
    swapped = SAID | {"realesrgan": SAID["realesrgan+both"], "realesrgan+both": SAID["realesrgan"]}
    rows = judge(FILE, study(swapped))
    assert one(rows, *PSNR)["verdict"] == "opposite"
    assert one(rows, *SCORE)["verdict"] == "opposite"


def test_inconclusive():
    rows = judge(FILE, study(SAID, spread=0.2))
    assert one(rows, *PSNR)["verdict"] == "inconclusive"


def test_negligible():
    same = SAID | {"realesrgan+both": SAID["realesrgan"] | {"psnr": 28.501}}
    rows = judge(FILE, study(same, spread=0.0002))
    assert one(rows, *PSNR)["verdict"] == "negligible"
    assert (
        one(judge(FILE, study(same, spread=0.0002), effects={"psnr": 1e-6}), *PSNR)["verdict"] != "negligible"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_direction_only_below_three_seeds(seeds):
    rows = judge(FILE, study(SAID, seeds=seeds))
    row = one(rows, *PSNR)
    assert row["verdict"] == "direction only" and row["low"] is not None
    assert not [r for r in rows if r["verdict"] in ("reproduced", "holds", "opposite")]


def test_not_testable_where_the_discriminator_is_at_chance():
    chance = judge(FILE, study(SAID, auc=0.69))
    assert one(chance, *SCORE)["verdict"] == "not testable: discriminator at chance"
    assert one(chance, *PSNR)["verdict"] == "reproduced"  # no statement about scores
    half = study(SAID)
    half = half[half["quantity"] != "auc:raw-enhanced"]
    assert one(judge(FILE, half), *SCORE)["verdict"] == "not testable: discriminator at chance"


def test_not_specific_where_noise_passes():
    rows = judge(FILE, study(SAID))
    row = one(rows, *LEAN)
    assert row["verdict"] == "not specific" and "noise4" in row["control"] and "unsharp" in row["control"]
    assert one(rows, *BIAS)["control"] == "none passes"
    nearer = SAID | {"control:noise4": {"psnr": 29.1} | lpips(0.2, 0.1)}
    assert one(judge(FILE, study(nearer)), *BIAS)["verdict"] == "not specific"


def test_a_control_is_excused_as_a_method_is():
    "Only where its distance to raw rises for certain; by its mean alone, neither is"
    slightly = SAID | {"control:noise4": {"psnr": 29.1} | lpips(0.2, 0.151)}
    row = one(judge(FILE, study(slightly, spread=0.05)), *BIAS)
    assert row["verdict"] == "not specific" and row["control"] == "noise4 passes"


def test_less_bias_at_a_greater_distance_to_raw_is_what_noise_does():
    noisy = SAID | {"realesrgan+both": {"psnr": 29.6} | lpips(0.25, 0.19)}
    row = one(judge(FILE, study(noisy)), *BIAS)
    assert row["value"] > 0 and row["verdict"] == "not specific" and "rises as well" in row["control"]


def test_not_measured_says_why():
    rows = judge(FILE, study({row: SAID[row] for row in ("compressed", "realesrgan")}))
    assert one(rows, *PSNR)["verdict"] == "not measured: no row realesrgan+both among the results"
    assert one(rows, *PSNR)["value"] is None
    fid = one(rows, "Fig. 3", "Real-ESRGAN leans towards compressed by fid")
    assert fid["verdict"] == "not measured: no quantity ce:fid among the results"


def test_a_hypothesis_holds():
    file = FILE.model_copy(update={"claims": [x for x in FILE.claims if x.grade == "hypothesis"]})
    table = study(
        SAID | {"realesrgan+div": {"psnr": 29.6}, "realesrgan+div.l2": {"psnr": 27.0}}, spread=0.003
    )
    rows = judge(file, table)
    assert one(rows, "Divergence", "Real-ESRGAN +div: PSNR rises against Real-ESRGAN")["verdict"] == "holds"
    other = [r for r in rows if r["rows"] == "realesrgan+div.l2 / realesrgan" and r["quantity"] == "psnr"]
    assert [r["verdict"] for r in other] == ["opposite"]


# What is counted


def test_a_distinct_number_counts_once():
    rows = judge(FILE, study(SAID))
    same = [
        row for row in rows if row["quantity"] == "psnr" and row["rows"] == "realesrgan+both / realesrgan"
    ]
    assert len(same) >= 3  # Tab. 3 twice and Tab. 5
    assert sum(row["counted"] for row in same) == 1
    assert tally(rows).to_numpy().sum() == sum(row["counted"] for row in rows)


def test_stand_ins_and_what_could_not_fail_are_graded():
    table = study({row: q | {f"{s}:fd_alex": 5 for s in ("ce", "re", "cr")} for row, q in SAID.items()})
    rows = judge(FILE, table)
    grades = {row["grade"] for row in rows if row["quantity"].endswith("fd_alex")}
    assert grades == {"stand-in", "could not fail", "hypothesis"}
    assert (
        one(rows, "Tab. 1", "Real-ESRGAN scores enhanced patches below raw ones")["grade"] == "could not fail"
    )


def test_a_lead_that_noise_on_the_baseline_brings_as_well_is_not_specific():
    said = "Tab. 3", "Real-ESRGAN +both: better LPIPS than Real-ESRGAN"
    assert one(judge(FILE, study(SAID)), *said)["verdict"] == "reproduced"
    for value, verdict in ((0.135, "not specific"), (0.151, "reproduced")):
        noisy = study(SAID | {"control:noise2:realesrgan": lpips(0.14, value)})
        row = one(judge(FILE, noisy), *said)
        assert row["verdict"] == verdict, row
        assert row["control"] == ("noise2 on Real-ESRGAN passes" if value < 0.15 else "none passes")


def test_fd_nss_only_beside_its_controls():
    sides = {f"{side}:fd_nss": 1.0 for side in ("ce", "re", "cr")}
    alone = study({"compressed": {"psnr": 30}, "realesrgan": {"psnr": 29} | sides})
    row = one(judge(FILE, alone), "Fig. 3", "Real-ESRGAN leans towards compressed by fd_nss")
    assert "says nothing without controls" in row["verdict"]
    beside = {"compressed": {"psnr": 30}, "control:noise4": sides, "realesrgan": {"psnr": 29} | sides}
    row = one(judge(FILE, study(beside)), "Fig. 3", "Real-ESRGAN leans towards compressed by fd_nss")
    assert row["low"] is not None


def test_holm_within_an_item():
    rows = judge(FILE, study(SAID, spread=0.05))
    alone = judge(FILE, study(SAID, spread=0.05), items=["Tab. 5"])
    assert one(alone, *PSNR)["p"] == pytest.approx(one(rows, *PSNR)["p"])
    many = [row for row in rows if row["item"] == "Tab. 1" and row["p"] is not None]
    assert len({row["p"] for row in many}) >= 1


def noise_table(generator, seeds):
    "Every row's numbers are noise of trainings and pictures around the same values"
    middle = {"psnr": 30, "niqe": 4, "bpp": 0.3, "residual:compressed": 3, "residual:raw": 3, "cosine": 0.2}
    middle |= {"psi:ce": 1, "psi:cr": 1, "ssim": 0.8} | lpips(1, 1, 1) | scores(0.5, 0.5, 0.5)
    middle |= {f"{side}:fd_nss": 1 for side in ("ce", "re", "cr")}
    lines = []
    of_pictures = {q: generator.normal(0, 0.05, 10) for q in middle}
    for row in ["compressed", *CONTROLS, *ROWS]:
        for k in range(seeds if row in ROWS else 1):
            values = {
                q: m * (1 + of_pictures[q] + generator.normal(0, 0.03) + generator.normal(0, 0.03, 10))
                for q, m in middle.items()
            }
            values["auc:raw-enhanced"] = generator.uniform(0.4, 1)
            lines += row_lines(row, k, values, [f"p{i}" for i in range(10)])
    return pd.DataFrame(lines, columns=COLUMNS)


@pytest.mark.parametrize("seeds, times", [(1, 2), (3, 4), (5, 3)])
def test_meaningless_numbers_reproduce_at_most_one_statement_in_twenty(seeds, times):
    counted, reproduced = 0, 0
    for k in range(times):
        rows = judge(FILE, noise_table(np.random.default_rng(k), seeds))
        judged = [row for row in rows if row["low"] is not None]
        counted += len(judged)
        reproduced += sum(row["verdict"] in ("reproduced", "holds") for row in judged)
    assert counted > 40 * times
    assert reproduced <= counted / 20, (reproduced, counted)
    assert seeds > 1 or reproduced == 0


# Where


def rates_table(gain):
    "Five levels: the method has more PSNR, and a curve to the left of the compressed one"
    parts = []
    for k, level in enumerate((47, 42, 37, 32, 27)):
        bpp, psnr = 0.07 * 1.9**k, 26 + 2.8 * k
        rows = {
            "compressed": {"bpp": bpp, "psnr": psnr, "lpips-alex": 0.3 - 0.05 * k},
            "realesrgan": {"psnr": psnr - 0.5, "lpips-alex": 0.28 - 0.05 * k},
            "realesrgan+both": {"psnr": psnr - 0.5 + gain, "lpips-alex": 0.26 - 0.05 * k},
        }
        parts.append(study(rows, spread=0.0005, own=0.01, place=("set", "bpg", level)))
    return pd.concat(parts)


def test_rates_and_the_lowest_curve():
    rows = judge(FILE, rates_table(1.2), level=37, items=["Tab. 4", "Fig. 7"])
    row = one(rows, "Tab. 4", "Real-ESRGAN +both: BD-rate in PSNR below that of Real-ESRGAN")
    assert row["verdict"] == "reproduced" and row["unit"] == "points" and row["high"] < 0
    row = one(rows, "Fig. 7", "Real-ESRGAN +both: the lowest curve of LPIPS at every level")
    assert row["verdict"] == "reproduced" and row["high"] < 0


def test_a_row_of_one_level_does_not_take_the_curves_from_the_others():
    table = rates_table(1.2)
    single = table[(table.row == "realesrgan") & (table.level == 37)].assign(row="esrgan")
    name = "Real-ESRGAN +both: the lowest curve of LPIPS at every level"
    alone, beside = (
        one(judge(FILE, found, level=37, items=["Fig. 7"]), "Fig. 7", name)
        for found in (table, pd.concat([table, single]))
    )
    assert beside == alone and beside["value"] is not None


def test_too_few_levels_have_no_bd_rate():
    row = one(
        judge(FILE, study(SAID)), "Tab. 4", "Real-ESRGAN +both: BD-rate in PSNR below that of Real-ESRGAN"
    )
    assert "cubic needs 4 levels" in row["verdict"]


def test_every_set_has_its_statement_of_table_1():
    two = pd.concat([study(SAID), study(SAID, place=("flickr2k", "bpg", 37), seed=1)])
    found = [r for r in judge(FILE, two, items=["Tab. 1"]) if r["statement"].startswith(SCORE[1])]
    assert [row["dataset"] for row in found] == ["set", "flickr2k"]
    assert [row["paper"] for row in found] == ["+0.08, DIV2K", "+0.10, Flickr2K"]
    here = judge(FILE, two, dataset="flickr2k", items=["Tab. 1"])
    assert here[0]["dataset"] == "flickr2k"
    assert next(r for r in here if r["dataset"] == "set")["statement"].endswith(", set")


def test_a_page_of_one_set_and_the_file_of_all_give_one_verdict():
    "Holm's correction is over the same numbers, whichever set is asked for"
    two = pd.concat([study(SAID, spread=0.1), study(SAID, spread=0.1, place=("flickr2k", "bpg", 37), seed=1)])
    whole = judge(FILE, two)
    alone = judge(FILE, two, dataset="set", items=["Tab. 1"])
    told = {(r["statement"], r["dataset"]): r["p"] for r in whole if r["item"] == "Tab. 1"}
    assert told == {(r["statement"], r["dataset"]): r["p"] for r in alone}


def test_rows_that_were_trained_elsewhere():
    here = study({"compressed": {"psnr": 30, "bpp": 0.3}, "rrdb": {"psnr": 31}, "rrdb@jpeg-10": {"psnr": 29}})
    here.loc[here["row"] == "rrdb@jpeg-10", "trained_on"] = "jpeg-10"
    rows = judge(FILE, here)
    found = [r for r in rows if r["item"] == "Codecs" and r["rows"] == "rrdb@jpeg-10 / rrdb"]
    assert [r["verdict"] for r in found] == ["holds"]
    levels = pd.concat(
        [
            study({"compressed": {"bpp": 0.3}, "rrdb": {"psnr": 31}}),
            study(
                {"compressed": {"bpp": 0.6}, "rrdb": {"psnr": 35}, "rrdb@bpg-37": {"psnr": 34}},
                place=("set", "bpg", 32),
                seed=2,
            ),
        ]
    )
    levels.loc[levels["row"] == "rrdb@bpg-37", "trained_on"] = "bpg-37"
    rows = [r for r in judge(FILE, levels) if r["item"] == "Levels" and r["rows"] == "rrdb@bpg-37 / rrdb"]
    assert [r["verdict"] for r in rows if r["quantity"] == "psnr"] == ["holds"]
    assert {r["statement"].split(":")[0] for r in rows if r["dataset"]} == {
        f"{c.label('rrdb@bpg-37')}, trained at another level",
        f"{c.label('rrdb@bpg-37')}, trained at stronger compression",
    }


def test_what_the_paper_prints_for_another_level_is_in_its_supplement():
    rows = judge(FILE, study(SAID, place=("set", "jpeg", 20)))
    assert one(rows, *SCORE)["paper"] == "in the supplement"


def test_places_that_are_not_there():
    with pytest.raises(QebiasError, match="nothing of set, jpeg None"):
        judge(FILE, study(SAID), codec="jpeg")
    with pytest.raises(QebiasError, match="run the study first"):
        judge(FILE, study(SAID).iloc[:0])


# As tables


def test_the_interval_is_always_printed_and_alike_reasons_are_one_line():
    rows = judge(FILE, study(SAID))
    text, markdown = claims_text(rows), claims_markdown(rows)
    assert "[" in c.claim_row(one(rows, *PSNR))["ours"] and "direction" not in text
    assert len(text.splitlines()) < 0.6 * len(rows)
    assert markdown.count("\n") == len(c.folded(rows)) + 1
    for row in rows:
        shown = c.claim_row(row)["ours"]
        assert shown == "-" or "[" in shown or "no interval" in shown
        decimals = {len(part.partition(".")[2]) for part in re.findall(r"[-+][\d.]+", shown)}
        assert len(decimals) <= 1 and "e-" not in shown, shown


def test_a_whole_judgement_takes_seconds():
    import time

    start = time.perf_counter()
    judge(FILE, Results(study(SAID)))
    assert time.perf_counter() - start < 20
