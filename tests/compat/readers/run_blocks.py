"""Runs pieces of code in one fresh process and prints what each says: `python run_blocks.py < blocks.json`.

Takes a JSON list of [code, expression], run in order, each by itself; prints the expressions' values as a JSON list.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    answers = []
    for code, expression in json.load(sys.stdin):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(code, names)
        answers.append(eval(expression, names))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
