"""Duration of a leaderboard of many records: `python tests/speed/many_records.py COUNT [SEEDS [FOLDER]]`.

The records are copies of the committed ones with other seeds, options and run ids, and fitting checksums. The first
time verifies every record, the second takes what was verified from the cache. With a FOLDER, results and leaderboard
stay there, to see how the page reads: with 1 seed per row, 100 records make a board of 30 rows.
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


def copy_records(count: int, seeds: int, results: Path) -> None:
    """Copy the committed records until there are `count`; `seeds` copies of one share a row."""
    folders = records.find(ROOT / "results")
    for number, folder in enumerate(islice(cycle(folders), count)):
        content = json.loads((folder / "run.json").read_text())
        row, seed = divmod(number // len(folders), seeds)
        content["seed"] += 10 * seed
        content["run_id"] += f"-{number}"
        content["method"]["options"] |= {"copy": row}
        content["method"]["changed"] |= {"copy": row}
        content["checksum"] = records.checksum(content)
        copy = results / content["dataset"]["name"] / content["method"]["name"] / content["run_id"]
        shutil.copytree(folder, copy)
        (copy / "run.json").write_text(json.dumps(content))


def measure(count: int, seeds: int, folder: Path) -> None:
    """Write the leaderboard twice, and print how long each time takes."""
    os.environ["CHXBENCH_CACHE"] = f"{folder}/cache"
    results = folder / "results"
    copy_records(count, seeds, results)
    for what in ("verified", "from the cache"):
        start = time.perf_counter()
        write_leaderboard(Workspace(results))
        print(f"{count:,} records, {what}: {time.perf_counter() - start:.1f} s")  # noqa: T201


def main(count: str, seeds: str = "5", folder: str | None = None) -> None:
    if folder is not None:
        measure(int(count), int(seeds), Path(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(int(count), int(seeds), Path(temporary))


if __name__ == "__main__":
    main(*sys.argv[1:])
