"""The recipe that made the built-in generator `fashion`. Nothing of noisemill needs it to run."""
