"""How long a leaderboard of many records takes: `python tests/speed/many_records.py 1000`.

The records are copies of the committed ones under other seeds, options and run ids, their checksums made to fit. The
first time computes every number from the evidence, the second takes what was computed from unchanged files.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from chxbench.benchmark.leaderboard.leaderboard import write_leaderboard
from chxbench.benchmark.records import record as records
from chxbench.benchmark.utils.workspace import Workspace

ROOT = Path(__file__).parents[2]
SEEDS = 5  # of a row


def copy_records(count: int, results: Path) -> None:
    """So many records, a row for every five copies of one."""
    folders = records.find(ROOT / "results")
    for number, folder in enumerate(islice(cycle(folders), count)):
        content = json.loads((folder / "run.json").read_text())
        copy, first_seed = divmod(number // len(folders), SEEDS)
        content["seed"] += 10 * first_seed
        content["run_id"] += f"-{number}"
        content["method"]["options"] |= {"copy": copy}
        content["method"]["changed"] |= {"copy": copy}
        content["checksum"] = records.checksum(content)
        place = results / content["dataset"]["name"] / content["method"]["name"] / content["run_id"]
        shutil.copytree(folder, place)
        (place / "run.json").write_text(json.dumps(content))


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHXBENCH_CACHE"] = f"{folder}/cache"
        results = Path(folder, "results")
        copy_records(count, results)
        for what in ("computed", "unchanged"):
            begun = time.perf_counter()
            write_leaderboard(Workspace(results))
            print(f"{count:,} records, {what}: {time.perf_counter() - begun:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
