"""Builds a Keras 3 model from an architecture of TensorFlow.js or any version of Keras."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError
from pipeline.generators.architecture import Architecture, Layer, evaluate
from pipeline.generators.layers import OPERATIONS, known_kind, settings_of
from pipeline.generators.structure import Structure

#: (layer, weight) -> values.
WeightValues = dict[tuple[str, str], NDArray[Any]]


#: Origin of a description; some layers compute differently in each.
Dialect = Literal["keras 3", "keras 2", "tfjs"]


def build_model(architecture: Architecture, structure: Structure, dialect: Dialect) -> Any:
    """An untrained Keras model of this architecture."""
    import keras  # Takes seconds, and only after the device is pinned.

    inputs = [keras.Input(port.shape, dtype=port.dtype, name=port.name) for port in structure.inputs]
    outputs = _connect(architecture, inputs, {}, dialect)
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs)
    model.output_names = [port.name for port in structure.outputs]
    return model


def set_weights(model: Any, values: WeightValues, what: str) -> None:
    """Sets every weight of the model. Raises GeneratorError if a value is missing or has another shape."""
    for layer in model.layers:
        for weight in layer.weights:
            value = values.get((layer.name, weight.name))
            if value is None or value.shape != tuple(weight.shape):
                shape = None if value is None else value.shape
                raise GeneratorError(
                    f"generator {what}: layer {layer.name!r} takes {weight.name} of {tuple(weight.shape)}, not {shape}"
                )
            weight.assign(value)


def _connect(architecture: Architecture, inputs: list[Any], made: dict[str, Any], dialect: Dialect) -> list[Any]:
    """Follows the connections with Keras tensors; a layer that is used twice is created once."""

    def apply(layer: Layer, tensors: list[Any]) -> list[Any]:
        if layer.inner is not None:
            return _connect(layer.inner, tensors, made, dialect)
        kind = known_kind(layer)
        if kind.identity:
            return [tensors[0]]
        if layer.name not in made:
            made[layer.name] = _layer(layer, dialect)
        return [made[layer.name](tensors if kind.merges else tensors[0])]

    return evaluate(architecture, inputs, apply)


def _layer(layer: Layer, dialect: Dialect) -> Any:
    import keras  # Takes seconds, and only after the device is pinned.

    settings = settings_of(layer)
    if settings.get("activation") == "hard_sigmoid" and dialect != "keras 3":
        settings["activation"] = _old_hard_sigmoid
    if settings.get("interpolation") == "bilinear" and dialect == "tfjs":
        settings.pop("interpolation")
        return _old_bilinear(layer.name, **settings)
    if layer.kind == "Reshape":
        settings["target_shape"] = [-1 if size is None else size for size in settings["target_shape"]]
    if layer.kind in OPERATIONS:
        return getattr(keras.ops, OPERATIONS[layer.kind])
    kind = getattr(keras.layers, layer.kind)
    if "kernel_size" in settings and settings["data_format"] == "channels_first":
        return _channels_first(kind, layer.name, settings)
    return kind(name=layer.name, **settings)


def _channels_first(kind: Any, name: str, settings: dict[str, Any]) -> Any:
    """A convolution over channels first, computed with channels last.

    Keras 3.15 adds the bias along the width instead of the channels if there are as many filters as columns.
    """
    import keras  # Takes seconds, and only after the device is pinned.

    class ChannelsFirst(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name=name)
            self.convolution = kind(name=name, **{**settings, "data_format": "channels_last"})

        def build(self, shape: Any) -> None:
            self.convolution.build((shape[0], *shape[2:], shape[1]))
            self.built = True

        def call(self, x: Any) -> Any:
            return keras.ops.moveaxis(self.convolution(keras.ops.moveaxis(x, 1, -1)), -1, 1)

    return ChannelsFirst()


def _old_hard_sigmoid(x: Any) -> Any:
    """The definition before Keras 3, which has another slope: max(0, min(1, 0.2 x + 0.5))."""
    import keras  # Takes seconds, and only after the device is pinned.

    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _old_bilinear(name: str, size: Any, data_format: str) -> Any:
    """Bilinear upsampling of TensorFlow.js, which aligns the corners of pixels; Keras aligns their centers."""
    import keras  # Takes seconds, and only after the device is pinned.
    import tensorflow as tf

    if data_format != "channels_last":
        raise GeneratorError(f"layer {name!r}: bilinear upsampling with channels first is not supported")
    rows, columns = size if isinstance(size, list | tuple) else (size, size)

    class OldBilinear(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            wanted = (x.shape[1] * rows, x.shape[2] * columns)
            return tf.raw_ops.ResizeBilinear(images=x, size=wanted, align_corners=False, half_pixel_centers=False)

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], shape[1] * rows, shape[2] * columns, shape[3])

    return OldBilinear(name=name)
