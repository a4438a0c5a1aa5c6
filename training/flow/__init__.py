"""The recipe that made the built-in generator `fashion-flow`. Nothing of noisemill needs it to run."""
