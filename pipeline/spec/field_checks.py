"""Whether the value of a field of a spec is valid; `pipeline.spec.job_spec` says which field takes what."""

from __future__ import annotations

import math
import re
from typing import Any

from pipeline.common.errors import UsageError
from pipeline.common.quantities import parse_numbers
from pipeline.common.text import is_one_line
from pipeline.spec.sampler import parse_sampler

#: The largest float32, which limits value ranges.
_LARGEST = 3.4028234663852886e38


def is_whole(value: Any, least: int, most: int) -> bool:
    """A whole number within these bounds."""
    return type(value) is int and least <= value <= most


def is_text(value: Any) -> bool:
    """One printable line."""
    return isinstance(value, str) and 0 < len(value) < 4096 and is_one_line(value)


def matches(pattern: str, value: Any) -> bool:
    """A text that is all of this pattern."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_noise(value: Any) -> bool:
    """Whether `pipeline.spec.latents` can parse it; that gives better messages, but imports numpy."""
    if value in ("normal", "uniform"):
        return True
    if not matches(r"(normal|truncated):[0-9.e+-]{1,30}", value):
        return False
    kind, _, number = value.partition(":")
    try:
        return (0.1 if kind == "truncated" else 1e-6) <= float(number) <= 100
    except ValueError:
        return False


def is_label_plan(value: Any) -> bool:
    """A label plan, or None."""
    number = "[0-9]{1,13}"
    plans = f"balanced|random|class:{number}|counts:{number}={number}(,{number}={number})*|file:[0-9a-f]{{64}}"
    return value is None or matches(plans, value)


def is_shape(value: Any) -> bool:
    """A shape of fewer than 2**31 values."""
    return isinstance(value, tuple) and all(is_whole(size, 1, 2**24) for size in value) and math.prod(value) < 2**31


def are_sizes(value: Any) -> bool:
    """Sizes whose sum is below 2**31."""
    return isinstance(value, tuple) and all(is_whole(size, 1, 2**24) for size in value) and sum(value) < 2**31


def are_attributes(plan: Any, dim: Any) -> bool:
    """A plan of attributes for this number of values per sample."""
    if plan is None or not is_whole(dim, 1, 2**24):
        return plan is None and dim == 0
    kind, _, rest = plan.partition(":") if isinstance(plan, str) else ("", "", "")
    if kind == "file":
        return matches(r"[0-9a-f]{64}", rest)
    try:
        numbers = parse_numbers(rest)
    except ValueError:
        return False
    return kind == "all" and len(numbers) == dim and all(map(is_float32, numbers))


def is_float32(number: Any) -> bool:
    """A number that float32 can hold."""
    return type(number) in (int, float) and -_LARGEST <= number <= _LARGEST


def are_settings(value: Any) -> bool:
    """Pairs of a name and its numbers."""
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and is_text(pair[0])
        and isinstance(pair[1], tuple)
        and len(pair[1]) > 0
        and all(map(is_float32, pair[1]))
        for pair in value
    )


def is_sampler(value: Any) -> bool:
    """A sampler in its canonical form."""
    try:
        return isinstance(value, str) and str(parse_sampler(value)) == value
    except UsageError:
        return False


def is_range(value: Any) -> bool:
    """Two numbers, the lower one first, whose distance float32 can hold."""
    numbers = isinstance(value, tuple) and len(value) == 2 and all(type(end) in (int, float) for end in value)
    return numbers and -_LARGEST <= value[0] < value[1] <= _LARGEST and value[1] - value[0] <= _LARGEST


def are_names(value: Any) -> bool:
    """At least one name of a class."""
    return isinstance(value, tuple) and 0 < len(value) <= 100_000 and all(is_text(name) for name in value)
