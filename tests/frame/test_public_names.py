"""`import noisemill` is the public API: one sorted list of names, each of which can be imported."""

import pytest

import noisemill
import pipeline


def test_the_list_is_sorted_and_whole():
    assert noisemill.__all__ == sorted(noisemill.__all__)
    assert noisemill.__all__ == pipeline.__all__


@pytest.mark.parametrize("name", noisemill.__all__)
def test_a_name_can_be_imported(name):
    assert getattr(noisemill, name) is getattr(pipeline, name)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'noisemill' has no attribute 'nothing'"):
        _ = noisemill.nothing
