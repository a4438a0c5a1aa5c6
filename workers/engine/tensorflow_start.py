"""Starts TensorFlow without its start-up messages."""

from __future__ import annotations

import gc
import os
import sys
import tempfile

from pipeline.common.settings import load_settings


def start_tensorflow() -> None:
    """Imports TensorFlow and initializes its devices. The device must be pinned before.

    Its libraries write to stderr before their log level applies, so stderr is captured meanwhile: it is printed if the
    start fails and dropped otherwise. Does nothing the second time.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Keras settings of another project must not change samples. Keras reads these variables when it is imported; the
    # settings of keras.json are reset below.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # The folder of keras.json, which Keras creates; without a home it would create `~` in the working folder.
    os.environ["KERAS_HOME"] = str(load_settings().cache_dir / "keras")
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    # Otherwise Python would search what it has imported for garbage again and again, for 0.4 s in all.
    gc.disable()
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import keras
            import tensorflow as tf  # Heavy: takes seconds and initializes the device.

            keras.config.set_floatx("float32")
            keras.config.set_epsilon(1e-7)
            keras.config.set_image_data_format("channels_last")

            tf.config.list_physical_devices()
            # Each batch size has a function of its own, which TensorFlow mistakes for repeated tracing.
            tf.get_logger().setLevel("ERROR")
            # By default, GPUs round factors to 10 bits (TF32), and samples would differ by 1e-3.
            tf.config.experimental.enable_tensor_float_32_execution(False)
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            gc.freeze()
            gc.enable()
