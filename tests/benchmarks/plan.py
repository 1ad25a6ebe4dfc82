"""What a plan costs: processor seconds of a dry run of many jobs, from a fresh process

    python tests/benchmarks/plan.py [--jobs 10000] [--against CHECKOUT] [--profile]

A profile with the seeds, levels and rows that give so many jobs is planned in folders of its own, once where
nothing has been made, and once where every result is there (made up, without parts).
With another checkout both take turns.
"""

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
from pathlib import Path

PLAN = '''
import json, resource, sys, time
from pathlib import Path
from qebias.study.keys import Keys, Study, todo
from qebias.study.profile import check_profile

seeds, folder, filled = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "filled"
profile = check_profile({
    "name": "many", "methods": ["rrdb", "realesrgan", "realesrgan+cond", "realesrgan+div", "realesrgan+both"],
    "codecs": {"bpg": [27, 32, 37, 42, 47], "jpeg": [10, 20, 30, 40, 50]}, "seeds": list(range(seeds)),
    "networks": {"RRDBNet": {"width": 8, "blocks": 1, "growth": 4}, "UNetSN": {"width": 4}},
    "psi": "random-w8-s0",
})
started = time.process_time()
study = Study(profile, folder)
keys = Keys(study)
if filled:
    from qebias.study.store import finish
    parts = ("generator.safetensors", "discriminator.safetensors")
    for name, job in keys.jobs.items():
        folder = study.store.folder(job.kind, keys.key(name))
        folder.mkdir(parents=True)
        for part in parts if job.kind == "train" else ():
            (folder / part).write_text(name)
        more = {"raw": "raw", "columns": {}} if job.kind in ("compress", "measure") else {}
        parts_of = parts if job.kind == "train" else ()
        finish(folder, keys.key(name), parts_of, content=name.replace("/", "-"), **more)
        keys.results.pop(name, None)
    started = time.process_time()
    keys = Keys(Study(profile, study.folder))
waiting = todo(keys)
print(len(keys.jobs), len(waiting), round(time.process_time() - started, 2), "torch" in sys.modules)
'''


def planned(
    seeds: int, folder, checkout, state: str
) -> list:  # jobs, to do, seconds, whether torch was imported
    "Plan in a process of a checkout's"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    said = subprocess.run(
        [sys.executable, "-c", PLAN, str(seeds), str(folder), state],
        capture_output=True,
        text=True,
        env=environment,
        cwd=checkout,
    )
    if said.returncode:
        sys.exit(said.stderr)
    return said.stdout.split()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="about how many")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    args = parser.parse_args()
    seeds = max(1, args.jobs // 150)  # ten places of the grid, five rows, three jobs each
    here = Path(__file__).resolve().parents[2]
    if args.profile:
        with tempfile.TemporaryDirectory() as folder, cProfile.Profile() as profile:
            sys.argv = ["plan", str(seeds), folder, "empty"]
            exec(PLAN, {"__name__": "plan"})
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
        return
    for state in ("empty", "filled"):
        for checkout in filter(None, (here, args.against)):
            with tempfile.TemporaryDirectory() as folder:
                jobs, waiting, seconds, torch = planned(seeds, Path(folder) / "run", checkout, state)
            print(f"{checkout}: {jobs} jobs, {waiting} to do, {seconds} s of processor time; torch: {torch}")


if __name__ == "__main__":
    main()
