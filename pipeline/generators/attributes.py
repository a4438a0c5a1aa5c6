"""Parses attributes that are the same for all samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UsageError, shown
from pipeline.common.quantities import parse_numbers
from pipeline.generators.generator import Generator


def attribute_numbers(generator: Generator, text: str | None) -> NDArray[np.float32]:
    """Parses comma-separated numbers as the generator's attributes, float32 of shape (attributes_dim,).

    Raises UsageError if their number is wrong, or if the generator takes no attributes.
    """
    wanted = generator.interface.attributes_dim
    if text is None and not wanted:
        return np.empty(0, np.float32)
    if not wanted:
        raise UsageError(f"attributes {shown(text)}: this generator takes none")
    if text is None:
        example = ",".join(["0"] * min(wanted, 4)) + (",..." if wanted > 4 else "")
        raise UsageError(
            f"the generator takes attributes, {wanted} numbers a sample: give --attributes FILE.npy, "
            f"or the same numbers for all, as in --attributes {example}"
        )
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(parse_numbers(text), np.float32)
    except ValueError:
        raise UsageError(f"attributes {shown(text)} are neither an .npy file nor numbers with commas between") from None
    if len(numbers) != wanted or not np.isfinite(numbers).all():
        raise UsageError(f"attributes {shown(text)} are not the {wanted} numbers that the generator takes")
    return numbers
