"""Fresh noise on the device: a pure function of a sample's key and the pass, whatever its neighbours.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in operations on whole numbers,
which are the same bits on every device and by every engine; Box and Muller (1958) make normal numbers of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

_ROUNDS = 10
#: Multipliers of a round, and what is added to the key after each.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def normal(keys: tf.Tensor, number: tf.Tensor, size: int) -> tf.Tensor:
    """Numbers of a normal distribution, float32 of shape (batch, size).

    `keys` (batch, KEY_DIM) float32 are taken as bits; `number`, of the pass, is a scalar of whole numbers. At most
    5.77 in size: what 24 bits tell.
    """
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    bits = tf.bitcast(keys, tf.uint32)
    # Two numbers of each word of two are made: half of the words are radii, half are angles.
    block = tf.range(-(-size // 4), dtype=tf.int32)[None, :]
    counter = [tf.cast(block, tf.uint32), tf.cast(number, tf.uint32)[None, None], bits[:, 2:3], bits[:, 3:4]]
    words = philox(counter, [bits[:, 0:1], bits[:, 1:2]])
    shares = [tf.cast(tf.bitwise.right_shift(word, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24 for word in words]
    numbers = []
    for first, second in (shares[:2], shares[2:]):
        radius = tf.sqrt(-2.0 * tf.math.log(first + 2.0**-24))
        angle = second * (2 * math.pi)
        numbers += [radius * tf.cos(angle), radius * tf.sin(angle)]
    return tf.concat(numbers, axis=1)[:, :size]


def philox(counter: list[tf.Tensor], key: list[tf.Tensor]) -> list[tf.Tensor]:
    """Four words of random bits of a counter of four words and a key of two, uint32 of shapes that broadcast."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(_ROUNDS):
        if number:
            k0, k1 = k0 + tf.constant(_WEYL[0], tf.uint32), k1 + tf.constant(_WEYL[1], tf.uint32)
        (high0, low0), (high1, low1) = _product(c0, _MULTIPLIERS[0]), _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return [c0, c1, c2, c3]


def _product(word: tf.Tensor, factor: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Upper and lower word of a product."""
    import tensorflow as tf  # Takes seconds, and only after the device is pinned.

    product = tf.cast(word, tf.uint64) * tf.constant(factor, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.uint32), tf.cast(product, tf.uint32)
