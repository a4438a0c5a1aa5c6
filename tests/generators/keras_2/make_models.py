"""Makes the models of this folder by Keras 2: `pip install tensorflow tf_keras`, then `python make_models.py`."""

import numpy as np
import tensorflow as tf
import tf_keras as keras  # type: ignore[import-not-found]
from tf_keras import layers


def image() -> keras.Model:
    """All that Keras 3 computes otherwise: hard_sigmoid; and what its files write otherwise."""
    return keras.Sequential(
        [
            layers.InputLayer(input_shape=(6,)),
            layers.Dense(3 * 3 * 4, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(alpha=0.2),
            layers.Reshape((3, 3, 4)),
            layers.UpSampling2D(2, interpolation="bilinear"),
            layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="hard_sigmoid"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.PReLU(shared_axes=[1, 2]),
            layers.SeparableConv2D(3, 3, padding="valid", dilation_rate=2),
            layers.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.2),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ]
    )


def nested() -> keras.Model:
    """A model in a model, a label that goes into an embedding, a layer used twice."""
    inner_in = keras.Input((8,))
    x = layers.Dense(8, name="inner_dense")(inner_in)
    inner = keras.Model(inner_in, layers.BatchNormalization(name="inner_norm")(x), name="inner")
    latent, label = keras.Input((5,), name="z"), keras.Input((1,), name="digit")
    embedded = layers.Flatten()(layers.Embedding(4, 3)(label))
    shared = layers.Dense(8, activation="selu")
    x = layers.Concatenate()([latent, embedded])
    x = inner(inner(shared(x)))
    return keras.Model([latent, label], layers.Dense(2, activation="sigmoid", name="out")(x))


def discriminator() -> keras.Model:
    """What else lies in the checkpoint of a training."""
    return keras.Sequential([layers.InputLayer(input_shape=(4,)), layers.Dense(1)])


def main() -> None:
    rng = np.random.default_rng(1)
    for name, model in (("image", image()), ("nested", nested())):
        for weight in model.weights:
            value = rng.standard_normal(weight.shape) * 0.3
            weight.assign(np.abs(value) + 1.0 if "variance" in weight.name else value)
        latents = rng.standard_normal((5, model.inputs[0].shape[1])).astype("float32")
        labels = (np.arange(5) % 4).astype("int32")
        fed = [latents, labels.reshape(-1, 1)] if len(model.inputs) == 2 else latents
        model.save(f"{name}.h5")
        model.save(f"{name}.keras")
        model.save_weights(f"{name}.weights.h5")
        model.save_weights(f"checkpoints/{name}")
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        whole = tf.train.Checkpoint(generator_optimizer=optimizer, generator=model, discriminator=discriminator())
        tf.train.CheckpointManager(whole, f"checkpoints/training_{name}", max_to_keep=1).save()
        with open(f"{name}.json", "w") as file:
            file.write(model.to_json())
        np.savez(f"{name}.npz", latents=latents, labels=labels, samples=model.predict(fed, verbose=0))


if __name__ == "__main__":
    main()
