"""What people write today to make a dataset with a generator: scripts of ours, each as short as such scripts are.

Each is run as `python -m benchmarks.peers.NAME MODEL OUT COUNT` and prints, as JSON, the seconds that it took from its
first sample to its last: `{"samples": 8192, "seconds": 4.2}`. The model is a `.keras` file that takes latents of 100
and labels of ten classes.
"""
