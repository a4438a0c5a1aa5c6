"""`python -m pipeline.cli` is `noisemill`."""

from pipeline.cli import main

main()
