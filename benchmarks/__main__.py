"""`python -m benchmarks [NAME...]`: runs the measurements, prints a table each, keeps JSON in benchmarks/results/."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks import end_to_end, overhead, stores

BENCHMARKS = {"overhead": overhead.run, "end_to_end": end_to_end.run, "stores": stores.run}
RESULTS = Path(__file__).with_name("results")


def main(names: list[str]) -> int:
    """Runs the benchmarks of these names, all where there are none. Exit code 2 for an unknown name."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        figures = BENCHMARKS[name]()
        text = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **figures}, indent=1)
        (RESULTS / f"{name}.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
