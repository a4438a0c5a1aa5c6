"""`python -m benchmarks [--tiny] [NAME...]`: measures, prints tables, keeps JSON and a page in benchmarks/results/."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import FULL, TINY, Benchmark, plain
from benchmarks.page import read_results, update_page

#: Modules of this package, each with a function `run`, in the order in which they run.
BENCHMARKS = (
    "end_to_end",
    "data_plane",
    "forward",
    "samplers",
    "stream",
    "against_peers",
    "memory",
    "stores",
    "ledger",
    "fairness",
    "overhead",
)
#: Run only where they are named: they take minutes, and their figures go to a page of their own, docs/scale.md.
BY_NAME = ("scale", "elastic")
KNOWN = (*BENCHMARKS, *BY_NAME)
RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str]) -> int:
    """Runs benchmarks by name, all where there are none. Exit code 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(KNOWN)}; by default all but {' and '.join(BY_NAME)}"
    )
    parser.add_argument("--tiny", action="store_true", help="see that they run; the figures mean nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/performance.md and its plot")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(KNOWN)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}")
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.names or BENCHMARKS:
        start = time.perf_counter()
        run: Benchmark = importlib.import_module(f"benchmarks.{name}").run
        result = run(TINY if options.tiny else FULL)
        print(f"{plain(result)}\n({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
        record = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **asdict(result)}
        (options.results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if options.docs:
        update_page(read_results(options.results, BENCHMARKS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
