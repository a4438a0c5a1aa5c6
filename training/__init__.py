"""The recipe that made the built-in generator `fashion`. Nothing of noisemill needs it to run."""

import os

# TensorFlow greets with a dozen lines about processors and absent GPUs; what fails raises an exception all the same.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
