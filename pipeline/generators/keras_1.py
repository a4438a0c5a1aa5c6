"""Translates layers and settings of Keras 1 to Keras 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.generators.architecture import NotUnderstoodError

_KINDS = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D",
    "AtrousConvolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D", "Deconvolution2D": "Conv2DTranspose",
}  # fmt: skip
_SETTINGS = {
    "border_mode": "padding", "subsample": "strides", "bias": "use_bias", "nb_filter": "filters", "p": "rate",
    "pool_length": "pool_size", "stride": "strides", "length": "size", "atrous_rate": "dilation_rate",
    "dim_ordering": "data_format",
}  # fmt: skip
_FORMATS = {"tf": "channels_last", "th": "channels_first", "default": "channels_last"}
#: Settings for training only, or redundant ones.
_LEFT_OUT = (
    "init", "W_regularizer", "b_regularizer", "activity_regularizer", "W_constraint", "b_constraint", "weights",
    "beta_init", "gamma_init", "gamma_regularizer", "beta_regularizer", "output_shape", "create_input_layer",
    "input_dim", "input_length", "dropout",
)  # fmt: skip
_MERGES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate"}


def modernised(description: Any) -> Any:
    """A serialized model of Keras 1 as Keras 2 would have written it. Raises NotUnderstoodError."""
    if isinstance(description, list):
        return [modernised(each) for each in description]
    if not isinstance(description, Mapping):
        return description
    if isinstance(description.get("class_name"), str) and isinstance(description.get("config"), Mapping):
        kind, config = description["class_name"], description["config"]
        if kind in ("Model", "Sequential"):
            return {**description, "config": {name: modernised(value) for name, value in config.items()}}
        return {**description, **_layer(kind, dict(config))}
    if isinstance(description.get("class_name"), str):  # A Sequential is a list of layers.
        return {**description, "config": modernised(description["config"])}
    return dict(description)


def _layer(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    if kind == "Merge":
        if config.get("mode") not in _MERGES:
            raise NotUnderstoodError(f"layer {config.get('name')!r} merges by {str(config.get('mode'))[:40]!r}")
        kind = _MERGES[config["mode"]]
        config = {"name": config.get("name")} | ({"axis": config["concat_axis"]} if kind == "Concatenate" else {})
    if kind == "BatchNormalization" and config.pop("mode", 0) not in (0, 2):
        raise NotUnderstoodError(f"layer {config.get('name')!r}: batch normalization of mode 1 is not supported")
    if "nb_row" in config:
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
    elif "filter_length" in config:
        config["kernel_size"] = config.pop("filter_length")
    if kind == "Dense" and "output_dim" in config:
        config["units"] = config.pop("output_dim")
    if kind == "Embedding":
        kept = {"input_dim": config["input_dim"], "output_dim": config["output_dim"]}
        config = {**{name: value for name, value in config.items() if name not in _LEFT_OUT}, **kept}
    else:
        if "input_dim" in config and config["input_dim"] is not None and "batch_input_shape" not in config:
            config["batch_input_shape"] = [None, config["input_dim"]]
        config = {name: value for name, value in config.items() if name not in _LEFT_OUT}
    config = {_SETTINGS.get(name, name): value for name, value in config.items()}
    if "data_format" in config:
        config["data_format"] = _FORMATS.get(str(config["data_format"]), config["data_format"])
    if config.get("data_format") == "channels_first" and "kernel_size" in config:
        raise NotUnderstoodError(f"layer {config.get('name')!r}: convolutions of Theano's order are not supported")
    return {"class_name": _KINDS.get(kind, kind), "config": config}
