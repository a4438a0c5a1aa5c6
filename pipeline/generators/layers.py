"""The table of layers: output shapes, weights and work of each kind of layer.

It is used for inspection without TensorFlow, for the check of a TensorFlow.js model's weights, and for its translation
to Keras 3. Only settings that affect the output are listed, not initializers, regularizers and constraints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.generators.architecture import Layer, NotUnderstoodError
from pipeline.generators.structure import Shape

Settings = dict[str, Any]
Weights = dict[str, tuple[int, ...]]

#: Settings of any layer that do not affect its output.
_WITHOUT_EFFECT = {
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype", "sparse", "ragged",
    "optional", "seed", "stateful", "updatable", "mask_zero", "input_length", "synchronized", "quantization_config",
    "momentum", "renorm_clipping", "renorm_momentum", "noise_shape", "supports_masking", "autocast",
}  # fmt: skip
_WITHOUT_EFFECT_ENDINGS = ("_initializer", "_regularizer", "_constraint")

#: Settings that some versions of Keras write for layers which support only this value.
_DEFAULTS: dict[str, Any] = {
    "groups": 1, "dilation_rate": 1, "depth_multiplier": 1, "data_format": "channels_last", "implementation": 1,
    "interpolation": "nearest", "approximate": False, "axis": -1, "virtual_batch_size": None,
}  # fmt: skip

#: Kind of layer -> names of settings before Keras 3.
_OLD_NAMES = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "Embedding": {"inputDim": "input_dim", "outputDim": "output_dim"},
}

#: Layers with a single axis.
_AXIS = ("BatchNormalization", "Concatenate", "Softmax")

#: Activations known by name.
ACTIVATIONS = (
    "elu", "exponential", "gelu", "hard_sigmoid", "leaky_relu", "linear", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softmax", "softplus", "softsign", "swish", "tanh",
)  # fmt: skip

#: Functions of `keras.ops` that a functional model may hold between its layers, as embeddings of time do; and their
#: kinds in its description.
OPERATIONS = {"Cos": "cos", "Sin": "sin"}

#: Activation -> range of its values.
ACTIVATION_RANGES = {
    "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0), "relu6": (0.0, 6.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """One kind of layer."""

    #: Settings that matter, with Keras's defaults.
    settings: Settings
    #: Shape of the output; all shapes without the batch.
    shape: Callable[[Settings, list[Shape]], Shape]
    #: Names and shapes of the weights.
    weights: Callable[[Settings, list[Shape]], Weights] = lambda settings, shapes: {}
    #: Multiply-adds per sample.
    multiplications: Callable[[Settings, list[Shape], Shape], int] = lambda settings, shapes, out: 0
    #: Whether its inputs are a list of tensors.
    merges: bool = False
    #: Whether it does nothing in inference mode.
    identity: bool = False


def known_kind(layer: Layer) -> LayerKind:
    """The kind of a layer. Raises NotUnderstoodError that names the layer if it is unknown."""
    if layer.kind not in KINDS:
        raise NotUnderstoodError(
            f"layer {layer.name[:80]!r} is of the kind {layer.kind[:80]!r}, which is not supported"
        )
    return KINDS[layer.kind]


def settings_of(layer: Layer) -> Settings:
    """A layer's settings under Keras 3's names, completed by defaults.

    Raises NotUnderstoodError for an unknown setting, since ignoring it could change samples.
    """
    kind = known_kind(layer)
    if kind.identity:
        return {}
    names = _OLD_NAMES.get(layer.kind, {})
    settings = dict(kind.settings)
    for key, value in layer.config.items():
        name = names.get(key, key)
        if name in settings:
            settings[name] = value
        elif key in _WITHOUT_EFFECT or key.endswith(_WITHOUT_EFFECT_ENDINGS) or _is_default(key, value):
            continue
        else:
            raise NotUnderstoodError(f"layer {layer.name!r}: setting {key}={str(value)[:40]!r} is not supported")
    if layer.kind in _AXIS and isinstance(settings["axis"], list | tuple) and len(settings["axis"]) == 1:
        settings["axis"] = settings["axis"][0]  # Keras 2 writes a list.
    if "activation" in settings:
        settings["activation"] = _activation(layer, settings["activation"])
    if settings.get("renorm"):
        raise NotUnderstoodError(f"layer {layer.name!r}: batch renormalisation is not supported")
    settings.pop("renorm", None)
    return settings


def _is_default(key: str, value: Any) -> bool:
    """Whether a setting that this kind of layer does not have in the table has its default value."""
    if value in (None, False, [], {}):
        return True
    numbers = value if isinstance(value, list | tuple) else [value]
    return key in _DEFAULTS and all(number == _DEFAULTS[key] for number in numbers)


def output_of(layer: Layer, shapes: list[Shape]) -> Shape:
    """Output shape of a layer for inputs of these shapes. Raises NotUnderstoodError if they do not fit."""
    try:
        shape = known_kind(layer).shape(settings_of(layer), shapes)
    except NotUnderstoodError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise NotUnderstoodError(f"layer {layer.name!r} does not fit inputs of {_listing(shapes)}: {error}") from None
    if any(size is not None and size < 1 for size in shape):
        raise NotUnderstoodError(f"layer {layer.name!r} leaves nothing of inputs of {_listing(shapes)}")
    return shape


def weights_of(layer: Layer, shapes: list[Shape]) -> Weights:
    """Names and shapes of a layer's weights. Raises NotUnderstoodError if the inputs do not determine them."""
    try:
        return known_kind(layer).weights(settings_of(layer), shapes)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise NotUnderstoodError(f"layer {layer.name!r} does not fit inputs of {_listing(shapes)}: {error}") from None


def range_after(layer: Layer, before: tuple[float, float] | None) -> tuple[float, float] | None:
    """The range of values after this layer, given the range before it."""
    settings = settings_of(layer)
    if layer.kind == "Softmax":
        return (0.0, 1.0)
    if layer.kind == "ReLU":
        return (0.0, float(settings["max_value"])) if settings["max_value"] and not settings["negative_slope"] else None
    if layer.kind == "Rescaling":
        if before is None or isinstance(settings["scale"], list) or isinstance(settings["offset"], list):
            return None
        ends = sorted(end * settings["scale"] + settings["offset"] for end in before)
        return (float(ends[0]), float(ends[1]))
    if settings.get("activation", "linear") != "linear":
        return ACTIVATION_RANGES.get(settings["activation"])
    moves = ("Activation", "Reshape", "Flatten", "Permute", "UpSampling1D", "UpSampling2D", "Cropping1D", "Cropping2D")
    return before if layer.kind in moves or known_kind(layer).identity else None


def _activation(layer: Layer, value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    if value is None:
        return "linear"
    if value not in ACTIVATIONS:
        raise NotUnderstoodError(f"layer {layer.name!r}: activation {str(value)[:40]!r} is not supported")
    return str(value)


def _listing(shapes: list[Shape]) -> str:
    return " and ".join(str(shape) for shape in shapes)


def _whole(size: int | None) -> int:
    if size is None:
        raise ValueError("a size is open")
    return size


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    """A setting that is one number for all dimensions, or one for each."""
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,) * count
    if len(numbers) != count or any(type(number) is not int for number in numbers):
        raise ValueError(f"{value!r} is not {count} whole numbers")
    return numbers


def _pairs(value: Any, count: int) -> tuple[tuple[int, int], ...]:
    """Padding or cropping: a number, one for each dimension, or a pair for each."""
    if count == 1:
        return (_numbers(value, 2) if isinstance(value, list | tuple) else (value, value),)  # type: ignore[return-value]
    sides = tuple(value) if isinstance(value, list | tuple) else (value,) * count
    return tuple(_numbers(side, 2) for side in sides)  # type: ignore[misc]


def _first(settings: Settings) -> bool:
    return bool(settings.get("data_format") == "channels_first")


def _split(settings: Settings, shape: Shape) -> tuple[Shape, int | None]:
    """Spatial sizes and channels."""
    return (shape[1:], shape[0]) if _first(settings) else (shape[:-1], shape[-1])


def _joined(settings: Settings, spatial: Shape, channels: int | None) -> Shape:
    return (channels, *spatial) if _first(settings) else (*spatial, channels)


# -- shapes ------------------------------------------------------------------------------------------


def _same(settings: Settings, shapes: list[Shape]) -> Shape:
    return shapes[0]


def _dense(settings: Settings, shapes: list[Shape]) -> Shape:
    return (*shapes[0][:-1], settings["units"])


def _flatten(settings: Settings, shapes: list[Shape]) -> Shape:
    return (None,) if None in shapes[0] else (math.prod(_whole(size) for size in shapes[0]),)


def _reshape(settings: Settings, shapes: list[Shape]) -> Shape:
    target: list[int] = [-1 if size is None else int(size) for size in settings["target_shape"]]
    if None in shapes[0]:
        return tuple(None if size == -1 else size for size in target)
    count = math.prod(_whole(size) for size in shapes[0])
    if -1 in target:
        target[target.index(-1)] = count // -math.prod(target)
    if math.prod(target) != count:
        raise ValueError(f"{count} values do not make {tuple(target)}")
    return tuple(target)


def _permute(settings: Settings, shapes: list[Shape]) -> Shape:
    return tuple(shapes[0][dim - 1] for dim in settings["dims"])


def _window(size: int | None, window: int, stride: int, padding: str, dilation: int = 1) -> int | None:
    if size is None:
        return None
    reach = dilation * (window - 1) + 1
    return -(-size // stride) if padding in ("same", "causal") else -(-(size - reach + 1) // stride)


def _convolved(settings: Settings, shape: Shape, window: str, strides: Any, channels: int | None) -> Shape:
    spatial, _ = _split(settings, shape)
    count = len(spatial)
    sizes = zip(
        spatial,
        _numbers(settings[window], count),
        _numbers(strides, count),
        _numbers(settings.get("dilation_rate", 1), count),
        strict=True,
    )
    moved = tuple(
        _window(size, reach, stride, settings["padding"], dilation) for size, reach, stride, dilation in sizes
    )
    return _joined(settings, moved, channels)


def _conv(settings: Settings, shapes: list[Shape]) -> Shape:
    return _convolved(settings, shapes[0], "kernel_size", settings["strides"], settings["filters"])


def _depthwise(settings: Settings, shapes: list[Shape]) -> Shape:
    channels = _whole(_split(settings, shapes[0])[1]) * settings["depth_multiplier"]
    return _convolved(settings, shapes[0], "kernel_size", settings["strides"], channels)


def _pool(settings: Settings, shapes: list[Shape]) -> Shape:
    strides = settings["strides"] if settings["strides"] is not None else settings["pool_size"]
    return _convolved(settings, shapes[0], "pool_size", strides, _split(settings, shapes[0])[1])


def _global_pool(settings: Settings, shapes: list[Shape]) -> Shape:
    spatial, channels = _split(settings, shapes[0])
    return _joined(settings, (1,) * len(spatial), channels) if settings["keepdims"] else (channels,)


def _transposed(settings: Settings, shapes: list[Shape]) -> Shape:
    spatial, _ = _split(settings, shapes[0])
    count = len(spatial)
    if settings["output_padding"] is not None or set(_numbers(settings["dilation_rate"], count)) != {1}:
        raise NotUnderstoodError("transposed convolutions with output_padding or dilation are not supported")
    kernel, strides = _numbers(settings["kernel_size"], count), _numbers(settings["strides"], count)
    grow = [0 if settings["padding"] == "same" else max(k - s, 0) for k, s in zip(kernel, strides, strict=True)]
    sizes = (
        None if size is None else size * stride + more
        for size, stride, more in zip(spatial, strides, grow, strict=True)
    )
    return _joined(settings, tuple(sizes), settings["filters"])


def _upsampled(settings: Settings, shapes: list[Shape]) -> Shape:
    spatial, channels = _split(settings, shapes[0])
    factors = _numbers(settings["size"], len(spatial))
    sizes = tuple(None if s is None else s * f for s, f in zip(spatial, factors, strict=True))
    return _joined(settings, sizes, channels)


def _padded(settings: Settings, shapes: list[Shape]) -> Shape:
    spatial, channels = _split(settings, shapes[0])
    pairs, sign = _pairs(settings["padding"], len(spatial)), 1
    return _joined(settings, _grown(spatial, pairs, sign), channels)


def _cropped(settings: Settings, shapes: list[Shape]) -> Shape:
    spatial, channels = _split(settings, shapes[0])
    return _joined(settings, _grown(spatial, _pairs(settings["cropping"], len(spatial)), -1), channels)


def _grown(spatial: Shape, pairs: tuple[tuple[int, int], ...], sign: int) -> Shape:
    return tuple(None if s is None else s + sign * sum(pair) for s, pair in zip(spatial, pairs, strict=True))


def _concatenated(settings: Settings, shapes: list[Shape]) -> Shape:
    axis = _axis(settings["axis"], shapes[0])
    sizes = [shape[axis] for shape in shapes]
    rest = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    if len(rest) != 1:
        raise ValueError("they differ beside the axis")
    whole = None if None in sizes else sum(_whole(size) for size in sizes)
    return (*shapes[0][:axis], whole, *shapes[0][axis + 1 :])


def _broadcast(settings: Settings, shapes: list[Shape]) -> Shape:
    if len({len(shape) for shape in shapes}) != 1:
        raise ValueError("they have different numbers of dimensions")
    sizes = []
    for dims in zip(*shapes, strict=True):
        wide = {size for size in dims if size != 1}
        if len(wide) > 1:
            raise ValueError("they differ")
        sizes.append(wide.pop() if wide else 1)
    return tuple(sizes)


def _axis(axis: Any, shape: Shape) -> int:
    """Index in a shape without the batch, of an axis that counts the batch as 0."""
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if type(axis) is not int or axis == 0 or not -len(shape) <= axis <= len(shape):
        raise ValueError(f"axis {axis!r} does not exist")
    return axis + len(shape) if axis < 0 else axis - 1


# -- weights -----------------------------------------------------------------------------------------


def _biased(settings: Settings, kernel: Weights, size: int) -> Weights:
    return {**kernel, "bias": (size,)} if settings["use_bias"] else kernel


def _dense_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    return _biased(settings, {"kernel": (_whole(shapes[0][-1]), settings["units"])}, settings["units"])


def _conv_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    spatial, channels = _split(settings, shapes[0])
    window = _numbers(settings["kernel_size"], len(spatial))
    kernel = (*window, _whole(channels) // settings["groups"], settings["filters"])
    return _biased(settings, {"kernel": kernel}, settings["filters"])


def _transposed_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    spatial, channels = _split(settings, shapes[0])
    kernel = (*_numbers(settings["kernel_size"], len(spatial)), settings["filters"], _whole(channels))
    return _biased(settings, {"kernel": kernel}, settings["filters"])


def _depthwise_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    spatial, channels = _split(settings, shapes[0])
    multiplier = settings["depth_multiplier"]
    name = "depthwise_kernel" if "filters" in settings else "kernel"
    kernel: Weights = {name: (*_numbers(settings["kernel_size"], len(spatial)), _whole(channels), multiplier)}
    size = _whole(channels) * multiplier
    if "filters" in settings:
        kernel["pointwise_kernel"] = (*(1,) * len(spatial), size, settings["filters"])
        size = settings["filters"]
    return _biased(settings, kernel, size)


def _norm_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    size = (_whole(shapes[0][_axis(settings["axis"], shapes[0])]),)
    weights: Weights = {"gamma": size} if settings["scale"] else {}
    return {**weights, "beta": size} if settings["center"] else weights


def _batch_norm_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    size = (_whole(shapes[0][_axis(settings["axis"], shapes[0])]),)
    return {**_norm_weights(settings, shapes), "moving_mean": size, "moving_variance": size}


def _prelu_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    shared = settings["shared_axes"] or ()
    return {"alpha": tuple(1 if axis + 1 in shared else _whole(size) for axis, size in enumerate(shapes[0]))}


def _embedding_weights(settings: Settings, shapes: list[Shape]) -> Weights:
    return {"embeddings": (settings["input_dim"], settings["output_dim"])}


# -- how much is computed ----------------------------------------------------------------------------


def _dense_work(settings: Settings, shapes: list[Shape], out: Shape) -> int:
    return math.prod(_whole(size) for size in shapes[0]) * int(settings["units"])


def _conv_work(settings: Settings, shapes: list[Shape], out: Shape) -> int:
    """A window for each position of the output."""
    spatial = _split(settings, out)[0]
    kernel = _conv_weights(settings, shapes)["kernel"]
    return math.prod(_whole(size) for size in spatial) * math.prod(kernel)


def _transposed_work(settings: Settings, shapes: list[Shape], out: Shape) -> int:
    """A window for each position of the input."""
    spatial = _split(settings, shapes[0])[0]
    return math.prod(_whole(size) for size in spatial) * math.prod(_transposed_weights(settings, shapes)["kernel"])


def _depthwise_work(settings: Settings, shapes: list[Shape], out: Shape) -> int:
    kernels = [shape for name, shape in _depthwise_weights(settings, shapes).items() if name != "bias"]
    return math.prod(_whole(size) for size in _split(settings, out)[0]) * sum(math.prod(shape) for shape in kernels)


# -- the table ---------------------------------------------------------------------------------------

_FORMAT: Settings = {"data_format": "channels_last"}
_BIASED: Settings = {"activation": "linear", "use_bias": True}
_WINDOW: Settings = {"kernel_size": None, "strides": 1, "padding": "valid", "dilation_rate": 1, **_FORMAT}

_IDENTITY = LayerKind(settings={}, shape=_same, identity=True)
_CONV = LayerKind(
    settings={"filters": None, "groups": 1, **_WINDOW, **_BIASED},
    shape=_conv,
    weights=_conv_weights,
    multiplications=_conv_work,
)
_TRANSPOSED = LayerKind(
    settings={"filters": None, "output_padding": None, **_WINDOW, **_BIASED},
    shape=_transposed,
    weights=_transposed_weights,
    multiplications=_transposed_work,
)
_POOL = LayerKind(settings={"pool_size": 2, "strides": None, "padding": "valid", **_FORMAT}, shape=_pool)
_GLOBAL_POOL = LayerKind(settings={"keepdims": False, **_FORMAT}, shape=_global_pool)
_MERGE = LayerKind(settings={}, shape=_broadcast, merges=True)

KINDS: dict[str, LayerKind] = {
    "Dense": LayerKind(
        settings={"units": None, **_BIASED}, shape=_dense, weights=_dense_weights, multiplications=_dense_work
    ),
    "Embedding": LayerKind(
        settings={"input_dim": None, "output_dim": None},
        shape=lambda settings, shapes: (*shapes[0], settings["output_dim"]),
        weights=_embedding_weights,
    ),
    "BatchNormalization": LayerKind(
        settings={"axis": -1, "epsilon": 1e-3, "center": True, "scale": True, "renorm": False},
        shape=_same,
        weights=_batch_norm_weights,
    ),
    "LayerNormalization": LayerKind(
        settings={"axis": -1, "epsilon": 1e-3, "center": True, "scale": True}, shape=_same, weights=_norm_weights
    ),
    "GroupNormalization": LayerKind(
        settings={"groups": 32, "axis": -1, "epsilon": 1e-3, "center": True, "scale": True},
        shape=_same,
        weights=_norm_weights,
    ),
    "Activation": LayerKind(settings={"activation": "linear"}, shape=_same),
    "LeakyReLU": LayerKind(settings={"negative_slope": 0.3}, shape=_same),
    "ReLU": LayerKind(settings={"max_value": None, "negative_slope": 0.0, "threshold": 0.0}, shape=_same),
    "ELU": LayerKind(settings={"alpha": 1.0}, shape=_same),
    "Softmax": LayerKind(settings={"axis": -1}, shape=_same),
    "PReLU": LayerKind(settings={"shared_axes": None}, shape=_same, weights=_prelu_weights),
    "Rescaling": LayerKind(settings={"scale": 1.0, "offset": 0.0}, shape=_same),
    "Flatten": LayerKind(settings={**_FORMAT}, shape=_flatten),
    "Reshape": LayerKind(settings={"target_shape": ()}, shape=_reshape),
    "Permute": LayerKind(settings={"dims": ()}, shape=_permute),
    "RepeatVector": LayerKind(settings={"n": 1}, shape=lambda settings, shapes: (settings["n"], *shapes[0])),
    "UpSampling1D": LayerKind(settings={"size": 2}, shape=_upsampled),
    "UpSampling2D": LayerKind(settings={"size": 2, "interpolation": "nearest", **_FORMAT}, shape=_upsampled),
    "ZeroPadding1D": LayerKind(settings={"padding": 1}, shape=_padded),
    "ZeroPadding2D": LayerKind(settings={"padding": 1, **_FORMAT}, shape=_padded),
    "Cropping1D": LayerKind(settings={"cropping": 1}, shape=_cropped),
    "Cropping2D": LayerKind(settings={"cropping": 0, **_FORMAT}, shape=_cropped),
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "Conv3D": _CONV,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "DepthwiseConv2D": LayerKind(
        settings={"depth_multiplier": 1, **_WINDOW, **_BIASED},
        shape=_depthwise,
        weights=_depthwise_weights,
        multiplications=_depthwise_work,
    ),
    "SeparableConv2D": LayerKind(
        settings={"filters": None, "depth_multiplier": 1, **_WINDOW, **_BIASED},
        shape=_conv,
        weights=_depthwise_weights,
        multiplications=_depthwise_work,
    ),
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"), _POOL),
    **dict.fromkeys(("GlobalAveragePooling2D", "GlobalMaxPooling2D"), _GLOBAL_POOL),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _MERGE),
    **dict.fromkeys(OPERATIONS, LayerKind(settings={}, shape=_same)),
    "Concatenate": LayerKind(settings={"axis": -1}, shape=_concatenated, merges=True),
    **dict.fromkeys(
        (
            "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
            "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
        ),
        _IDENTITY,
    ),
}  # fmt: skip
