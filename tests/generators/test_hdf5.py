"""Models in HDF5: what Keras 1, 2 and 3 saved is rebuilt, and makes what their own Keras makes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.common.errors import GeneratorError
from pipeline.generators import find_generator
from pipeline.generators.hdf5 import read_keras_archive
from pipeline.generators.layers import KINDS, OPERATIONS
from tests.generators.suite import CLOSE, Example, GeneratorSuite, predict
from workers.engine.generators.build import build_model
from workers.engine.generators.keras_files import load_hdf5, load_keras

keras = pytest.importorskip("keras")
layers = keras.layers

#: Made by Keras 2 itself: see make_models.py there.
KERAS_2 = Path(__file__).parent / "keras_2"


def expected(name: str) -> Any:
    return np.load(KERAS_2 / f"{name}.npz")


def example_of(name: str, folder: Path, kind: str) -> Example:
    """A model that Keras 2 saved, "image" or "nested", in a folder, and what Keras 2 made with it."""
    told = expected(name)
    interface: dict[str, Any] = {"latent_shape": (6,), "value_range": (-1.0, 1.0)}
    if name == "nested":
        # The classes are those of the embedding.
        interface = {"latent_input": "z", "label_input": "digit", "classes": ("0", "1", "2", "3")}
    return Example(
        folder=folder,
        kind=kind,
        latents=told["latents"],
        labels=told["labels"] if name == "nested" else None,
        samples=told["samples"],
        interface=interface,
        jumps=name == "image",
    )


def save(path: Path, model: Any) -> Path:
    """Saves a model; Keras warns of HDF5, and uses a NumPy interface that is going away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def randomised(model: Any, seed: int = 0) -> Any:
    """The model with weights that are all different; variances above 0."""
    rng = np.random.default_rng(seed)
    model.set_weights([np.abs(rng.standard_normal(each.shape)) * 0.4 + 0.1 for each in model.get_weights()])
    return model


class TestKeras2Image(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("keras-2")
        shutil.copy(KERAS_2 / "image.h5", folder / "generator.h5")
        return example_of("image", folder, "hdf5")


class TestKeras2Nested(GeneratorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory: pytest.TempPathFactory) -> Example:
        folder = tmp_path_factory.mktemp("keras-2")
        shutil.copy(KERAS_2 / "nested.h5", folder / "nested.hdf5")
        return example_of("nested", folder, "hdf5")


@pytest.mark.parametrize("name", ["image", "nested"])
def test_a_keras_file_of_keras_2(tmp_path: Path, name: str) -> None:
    shutil.copy(KERAS_2 / f"{name}.keras", tmp_path)
    told = expected(name)
    labels = told["labels"] if name == "nested" else None
    samples = predict(tmp_path / f"{name}.keras", told["latents"], labels)
    assert np.abs(samples - told["samples"]).max() <= CLOSE


@pytest.mark.parametrize("name", ["image", "nested"])
def test_weights_with_the_architecture_beside_them(tmp_path: Path, name: str) -> None:
    shutil.copy(KERAS_2 / f"{name}.weights.h5", tmp_path)
    with pytest.raises(GeneratorError, match=rf"holds weights alone: put .* beside it as {name}.json"):
        find_generator(str(tmp_path / f"{name}.weights.h5"))
    shutil.copy(KERAS_2 / f"{name}.json", tmp_path)
    told = expected(name)
    labels = told["labels"] if name == "nested" else None
    samples = predict(tmp_path / f"{name}.weights.h5", told["latents"], labels)
    assert np.abs(samples - told["samples"]).max() <= CLOSE


#: Layers of every kind of the table, with settings off their defaults, and the shape that they are tried on.
TRIED: list[tuple[Any, tuple[int, ...]]] = [
    (layers.Dense(5, activation="gelu"), (4,)),
    (layers.BatchNormalization(epsilon=0.01, center=False), (3, 4)),
    (layers.BatchNormalization(axis=1), (3, 4)),
    (layers.LayerNormalization(epsilon=0.01), (3, 4)),
    (layers.GroupNormalization(2, epsilon=0.01), (3, 4)),
    (layers.GroupNormalization(3, axis=1, scale=False), (3, 4)),
    (layers.Activation("softsign"), (4,)),
    (layers.Activation("hard_sigmoid"), (4,)),
    (layers.LeakyReLU(negative_slope=0.15), (4,)),
    (layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.3), (4,)),
    (layers.ELU(alpha=0.7), (4,)),
    (layers.Softmax(), (4,)),
    (layers.PReLU(shared_axes=[1]), (3, 4)),
    (layers.Rescaling(0.5, offset=1.0), (4,)),
    (layers.Flatten(), (3, 4)),
    (layers.Reshape((2, -1)), (3, 4)),
    (layers.Permute((2, 1)), (3, 4)),
    (layers.RepeatVector(3), (4,)),
    (layers.UpSampling1D(3), (3, 4)),
    (layers.UpSampling2D((2, 3)), (3, 4, 2)),
    (layers.UpSampling2D(2, interpolation="bilinear"), (3, 4, 2)),
    (layers.ZeroPadding1D((1, 2)), (3, 4)),
    (layers.ZeroPadding2D(((1, 0), (2, 1))), (3, 4, 2)),
    (layers.Cropping1D((1, 0)), (3, 4)),
    (layers.Cropping2D(((1, 0), (0, 1))), (3, 4, 2)),
    (layers.Conv1D(3, 2, strides=2, padding="causal"), (6, 4)),
    (layers.Conv2D(4, (3, 2), strides=2, padding="same", groups=2), (6, 5, 4)),
    (layers.Conv2D(4, 3, dilation_rate=2, use_bias=False), (7, 7, 2)),
    (layers.Conv3D(2, 2, padding="same"), (3, 3, 3, 2)),
    (layers.Conv1DTranspose(3, 4, strides=2), (5, 2)),
    (layers.Conv2DTranspose(3, 4, strides=2, padding="same"), (4, 3, 2)),
    (layers.Conv2DTranspose(3, (2, 5), strides=(3, 1), padding="valid"), (4, 3, 2)),
    (layers.Conv3DTranspose(2, 3, strides=2, padding="same"), (2, 2, 2, 2)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (5, 5, 2)),
    (layers.SeparableConv2D(3, 3, depth_multiplier=2), (5, 5, 2)),
    (layers.Conv2D(4, 2, strides=2, data_format="channels_first"), (2, 5, 6)),
    (layers.Conv1DTranspose(3, 4, strides=2, data_format="channels_first", activation="relu"), (2, 5)),
    (layers.Conv2DTranspose(3, (2, 3), strides=2, data_format="channels_first"), (2, 4, 5)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, data_format="channels_first"), (2, 5, 5)),
    (layers.SeparableConv2D(4, 3, data_format="channels_first"), (2, 5, 5)),
    (layers.AveragePooling1D(2), (6, 3)),
    (layers.AveragePooling2D(2, padding="same"), (5, 5, 2)),
    (layers.MaxPooling1D(2, strides=1), (6, 3)),
    (layers.MaxPooling2D((2, 3)), (6, 6, 2)),
    (layers.GlobalAveragePooling2D(keepdims=True), (4, 4, 3)),
    (layers.GlobalMaxPooling2D(), (4, 4, 3)),
    (layers.Dropout(0.3), (4,)),
    (layers.AlphaDropout(0.3), (4,)),
    (layers.GaussianDropout(0.3), (4,)),
    (layers.GaussianNoise(0.3), (4,)),
    (layers.SpatialDropout1D(0.3), (3, 4)),
    (layers.SpatialDropout2D(0.3), (3, 4, 2)),
    (layers.SpatialDropout3D(0.3), (2, 3, 4, 2)),
    (layers.ActivityRegularization(l2=0.1), (4,)),
]

#: Convolutions with a bias, and a shape of channels, rows and columns that makes as many filters as columns.
SQUARE: list[tuple[Any, dict[str, Any], tuple[int, ...]]] = [
    (layers.Conv1D, {"filters": 6, "kernel_size": 3, "padding": "same"}, (2, 6)),
    (layers.Conv2D, {"filters": 6, "kernel_size": 3, "padding": "same"}, (2, 5, 6)),
    (layers.Conv1DTranspose, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 3)),
    (layers.Conv2DTranspose, {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 4, 3)),
    (layers.Conv3DTranspose, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 1, 2, 2)),
    (layers.DepthwiseConv2D, {"kernel_size": 3, "padding": "same", "depth_multiplier": 3}, (2, 5, 6)),
    (layers.SeparableConv2D, {"filters": 6, "kernel_size": 3, "padding": "same"}, (2, 5, 6)),
]
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")


def test_every_kind_of_layer_is_tried() -> None:
    assert {type(layer).__name__ for layer, _ in TRIED} | {*MERGES, *OPERATIONS, "Embedding"} == set(KINDS)


def assert_rebuilt(model: Any, folder: Path, fed: list[Any]) -> None:
    """A model saved as `.h5` and as `.keras` is rebuilt by the table, and makes the same."""
    wanted = np.asarray(model(fed[0] if len(fed) == 1 else fed, training=False))
    h5 = save(folder / "model.h5", model)
    network = load_hdf5(h5)
    names = [port.name for port in network.structure.inputs]
    [made] = network.call(dict(zip(names, fed, strict=True))).values()
    np.testing.assert_allclose(np.asarray(made), wanted, rtol=1e-6, atol=1e-6)
    stored = read_keras_archive(save(folder / "other.keras", model))
    again = build_model(stored.architecture, stored.structure, "keras 3")
    assert sorted(stored.places) == sorted(
        (layer.name, weight.name) for layer in again.layers for weight in layer.weights
    )


@pytest.mark.parametrize(("layer", "shape"), TRIED, ids=lambda each: getattr(each, "name", str(each)))
def test_a_layer_is_rebuilt(tmp_path: Path, layer: Any, shape: tuple[int, ...]) -> None:
    model = randomised(keras.Sequential([keras.Input(shape), layer]))
    assert_rebuilt(model, tmp_path, [np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)])


@pytest.mark.parametrize(("kind", "settings", "shape"), SQUARE, ids=lambda each: getattr(each, "__name__", ""))
def test_a_bias_belongs_to_the_channels(tmp_path: Path, kind: Any, settings: Any, shape: tuple[int, ...]) -> None:
    """Keras 3 adds it to the columns where these are as many as the filters, and channels come first."""
    last = randomised(keras.Sequential([keras.Input((*shape[1:], shape[0])), kind(**settings, name="square")]))
    first = keras.Sequential([keras.Input(shape), kind(**settings, name="square", data_format="channels_first")])
    first.set_weights(last.get_weights())
    fed = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
    wanted = np.moveaxis(np.asarray(last(np.moveaxis(fed, 1, -1))), -1, 1)
    network = load_hdf5(save(tmp_path / "model.h5", first))
    [made] = network.call({network.structure.inputs[0].name: fed}).values()
    np.testing.assert_allclose(np.asarray(made), wanted, rtol=1e-6, atol=1e-5)
    # A file that Keras itself loads is as Keras has it, and the user is told.
    assert np.abs(np.asarray(first(fed)) - wanted).max() > 0.01, "Keras is mended: the warning can go"
    notes = load_keras(save(tmp_path / "model.keras", first)).structure.notes
    assert notes == find_generator(str(tmp_path / "model.keras")).structure.notes
    assert [note.partition(" has channels first and as many filters as columns")[0] for note in notes] == [
        "layer 'square'"
    ]


def test_a_bias_that_keras_gets_right_is_no_news(tmp_path: Path) -> None:
    for name, convolution in {
        "last": layers.Conv2D(6, 3, padding="same"),
        "no_bias": layers.Conv2D(6, 3, padding="same", use_bias=False, data_format="channels_first"),
        "wide": layers.Conv2D(5, 3, padding="same", data_format="channels_first"),
    }.items():
        model = keras.Sequential([keras.Input((6, 6, 6)), convolution])
        assert find_generator(str(save(tmp_path / f"{name}.keras", model))).structure.notes == ()


def test_layers_of_several_inputs_are_rebuilt(tmp_path: Path) -> None:
    first, second = keras.Input((4,)), keras.Input((4,))
    merged = [getattr(layers, name)()([first, second]) for name in MERGES]
    model = randomised(keras.Model([first, second], layers.Dense(2)(layers.Concatenate()(merged))))
    rng = np.random.default_rng(1)
    assert_rebuilt(model, tmp_path, [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2)])


def test_operations_between_layers_are_rebuilt(tmp_path: Path) -> None:
    time = keras.Input((1,))
    angles = layers.Dense(4)(time)
    waves = layers.Concatenate()([getattr(keras.ops, name)(angles) for name in OPERATIONS.values()])
    model = randomised(keras.Model(time, layers.Dense(2)(waves)))
    assert_rebuilt(model, tmp_path, [np.random.default_rng(1).standard_normal((3, 1)).astype(np.float32)])


def test_models_in_models_are_rebuilt(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(4)])
    outer = keras.Input((4,))
    model = randomised(keras.Model(outer, layers.Dense(2)(inner(layers.Dense(4)(inner(outer))))))
    assert_rebuilt(model, tmp_path, [np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)])


def test_two_layers_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    """Each model has a layer called "same": by name alone one would get the other's weights."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name="inner")
    outer = keras.Input((4,))
    model = randomised(keras.Model(outer, layers.Dense(4, name="same")(inner(outer))))
    path = save(tmp_path / "model.h5", model)
    with pytest.raises(GeneratorError, match="two layers are called 'same'"):
        find_generator(str(path))


def write_keras_1(path: Path) -> tuple[Any, Any]:
    """A file as Keras 1 wrote it, by hand; with what its layers make by Keras 3."""
    config = [
        {"class_name": "Dense", "config": {
            "name": "dense_1", "output_dim": 8, "init": "glorot_uniform", "activation": "linear", "bias": True,
            "input_dim": 3, "batch_input_shape": [None, 3], "W_regularizer": None, "trainable": True}},
        {"class_name": "BatchNormalization", "config": {
            "name": "norm", "mode": 0, "axis": -1, "epsilon": 1e-5, "momentum": 0.99, "beta_regularizer": None}},
        {"class_name": "Reshape", "config": {"name": "reshape", "target_shape": [2, 2, 2]}},
        {"class_name": "UpSampling2D", "config": {"name": "up", "size": [2, 2], "dim_ordering": "tf"}},
        {"class_name": "Convolution2D", "config": {
            "name": "conv", "nb_filter": 1, "nb_row": 3, "nb_col": 3, "border_mode": "same", "subsample": [1, 1],
            "dim_ordering": "tf", "activation": "hard_sigmoid", "bias": True, "init": "glorot_uniform"}},
        {"class_name": "Dropout", "config": {"name": "drop", "p": 0.5}},
    ]  # fmt: skip
    model = randomised(
        keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(8),
                layers.BatchNormalization(epsilon=1e-5),
                layers.Reshape((2, 2, 2)),
                layers.UpSampling2D(2),
                layers.Conv2D(1, 3, padding="same"),
            ]
        )
    )
    names = {"dense_1": ["W", "b"], "norm": ["gamma", "beta", "running_mean", "running_std"], "conv": ["W", "b"]}
    values = iter(model.get_weights())
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config}).encode()
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in names]
        for layer, weights in names.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_{weight}".encode() for weight in weights]
            for weight in weights:
                group[f"{layer}_{weight}"] = next(values)
    fed = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    return fed, np.clip(0.2 * np.asarray(model(fed)) + 0.5, 0, 1)


def test_keras_1(tmp_path: Path) -> None:
    fed, wanted = write_keras_1(tmp_path / "old.h5")
    assert find_generator(str(tmp_path)).interface.sample_shape == (4, 4, 1)
    assert np.abs(predict(tmp_path, fed) - wanted).max() <= CLOSE


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{'4665' * 16}", "size 12345")
    (tmp_path / "model.h5").write_text("\n".join(lines))
    with pytest.raises(GeneratorError, match="a pointer of Git LFS, not the file itself: fetch that with"):
        find_generator(str(tmp_path))


def test_a_layer_of_the_authors_own_has_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(KERAS_2 / "image.h5", path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("LeakyReLU", "PixelNorm")
    with pytest.raises(
        GeneratorError, match=r"'PixelNorm', which is not supported; .*--trust FILE.py, or where it was made.*xport"
    ):
        find_generator(str(path))


def external_link(file: Any, elsewhere: Path) -> None:
    del file["model_weights/dense"]
    file["model_weights/dense"] = h5py.ExternalLink(str(elsewhere), "/")


def external_values(file: Any, elsewhere: Path) -> None:
    name = next(iter(file["model_weights/dense"]))
    del file[f"model_weights/dense/{name}"]
    elsewhere.write_bytes(bytes(1000))
    file["model_weights/dense"].create_dataset(name, (6, 36), "f4", external=[(str(elsewhere), 0, 864)])


def soft_link(file: Any, elsewhere: Path) -> None:
    file["model_weights/other"] = h5py.SoftLink("/model_weights/dense")


@pytest.mark.parametrize("change", [external_link, external_values, soft_link])
def test_values_that_lie_elsewhere_are_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(KERAS_2 / "image.h5", path)
    with h5py.File(path, "r+") as file:
        first = next(name for name in file["model_weights"] if name.startswith("dense"))
        if first != "dense":
            file.move(f"model_weights/{first}", "model_weights/dense")
        change(file, tmp_path / "elsewhere")
    with pytest.raises(GeneratorError, match="is refused"):
        find_generator(str(path))


@pytest.mark.parametrize("size", [0, 7, 100, 3000])
def test_a_file_that_was_cut_off(tmp_path: Path, size: int) -> None:
    (tmp_path / "model.h5").write_bytes((KERAS_2 / "image.h5").read_bytes()[:size])
    with pytest.raises(GeneratorError, match="is no whole HDF5 file") as caught:
        find_generator(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_load_keras_falls_back_on_the_table_for_keras_2() -> None:
    assert load_keras(KERAS_2 / "image.keras").structure.inputs[0].shape == (6,)
