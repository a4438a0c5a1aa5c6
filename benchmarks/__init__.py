"""Benchmarks: `python -m benchmarks` runs them, docs/performance.md shows what they found."""

import os

from pipeline.fleet.launch import NUMPY_ENVIRONMENT

# What runs in this process runs as in a worker's.
for _variable, _value in NUMPY_ENVIRONMENT.items():
    os.environ.setdefault(_variable, _value)
