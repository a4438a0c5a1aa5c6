"""The version of noisemill, held equal to pyproject.toml by a test."""

VERSION = "0.1.0"
