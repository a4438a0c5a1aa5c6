"""The forward pass against what the processor does in products of matrices: is there more to be had?"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.bare import described, fastest
from benchmarks.figures import Effort, Figure, Result
from benchmarks.rig import folder
from pipeline.generators import find_generator
from workers.engine.devices import pin_device

GENERATOR = "fashion"
_SAMPLES = 2_048
_ROUNDS = 4
#: Size of the square matrices that are multiplied.
_SIZE = 2048


def run(effort: Effort) -> Result:
    """Operations per second of both, interleaved; the ratio."""
    generator, device = find_generator(GENERATOR), pin_device("auto")
    from workers.engine.calibration import CalibratedEngines  # After the device is pinned.

    with folder() as place:
        engines = CalibratedEngines(generator, device, place)
        bare, tried = fastest(engines, effort)
    flop = generator.structure.flop or 0
    rates, products = [], [_product_rate(effort)]
    for _ in range(_ROUNDS * effort.rounds):
        rates.append(bare.rate(effort.samples(_SAMPLES)))
        products.append(_product_rate(effort))
    ratios = [
        rate * flop / ((before + after) / 2)
        for rate, before, after in zip(rates, products[:-1], products[1:], strict=True)
    ]
    figures = [
        Figure(
            case="forward pass, operations per second", against="matrix product", values=ratios, rates=rates, reach=0.85
        ),
        Figure(case="matrix product", unit="GFLOP/s", values=[product / 1e9 for product in products]),
    ]
    note = (
        f"`{GENERATOR}`: {flop / 1e6:.0f} MFLOP a sample by {bare.engine.engine} in batches of {bare.engine.batch}; "
        f"float32 matrices of {_SIZE} x {_SIZE} by the same TensorFlow on the same cores."
    )
    details = {**described(engines, bare), "bare_rates": tried}
    return Result(title="The forward pass against the matrix product", figures=figures, notes=[note], details=details)


def _product_rate(effort: Effort) -> float:
    """Floating-point operations per second."""
    import tensorflow as tf

    size = _SIZE if effort.share else 256
    left: Any = tf.random.stateless_normal((size, size), (0, 1))
    right: Any = tf.random.stateless_normal((size, size), (0, 2))
    tf.linalg.matmul(left, right).numpy()
    repeats = 10
    start = time.perf_counter()
    for _ in range(repeats):
        tf.linalg.matmul(left, right).numpy()
    return repeats * 2 * size**3 / (time.perf_counter() - start)
