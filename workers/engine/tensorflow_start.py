"""Starts TensorFlow without its chatter."""

from __future__ import annotations

import os
import sys
import tempfile

from pipeline.common.settings import load_settings


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it find its devices; the device must be pinned before.

    Its libraries write to stderr before their own log level counts, so stderr itself is held back
    meanwhile: shown if the start fails, dropped if it does not. Does nothing the second time.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Another project's Keras settings must not change samples: the variables count when Keras is imported, what
    # keras.json says is set back below.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Where Keras looks for keras.json, and makes one; without a home it would make a folder `~` in the working folder.
    os.environ["KERAS_HOME"] = str(load_settings().cache_dir / "keras")
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import keras
            import tensorflow as tf  # Heavy: seconds, and it takes hold of the device.

            keras.config.set_floatx("float32")
            keras.config.set_epsilon(1e-7)
            keras.config.set_image_data_format("channels_last")

            tf.config.list_physical_devices()
            # Each batch size has a function of its own, which TensorFlow takes for one that is traced again and again.
            tf.get_logger().setLevel("ERROR")
            # By default, GPUs would round what they multiply to 10 bits, and samples would differ by 1e-3.
            tf.config.experimental.enable_tensor_float_32_execution(False)
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
