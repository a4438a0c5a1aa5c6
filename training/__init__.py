"""The recipes that made the built-in generators. Nothing of noisemill needs them to run."""
