"""Finds generators and reads their interfaces, without TensorFlow.

A generator is given by a reference: the name of a built-in one (`fashion`), a path or an s3:// URL.
A `generator.toml` beside the model adds what the model does not contain. A judge, which chooses among candidates, is
found in the same way.

kinds           the files of each kind of model: .keras, TensorFlow.js, SavedModel, untrained
catalogue       from a reference to a Generator
interface       from a model's structure and the sidecar to an Interface
structure       a model's inputs, outputs and size
judge           networks that choose among candidates
trust           which generators and judges may be loaded if only data names them
architecture    a model's layers and how they are connected, from either generation of Keras's JSON
layers          what each kind of layer does to shapes, which weights it has
"""

from pipeline.generators.catalogue import builtin_names, find_generator
from pipeline.generators.generator import Generator
from pipeline.generators.interface import Interface
from pipeline.generators.judge import Choice, Judge, find_judge, judge_names
from pipeline.generators.trust import find_judge_named_by_data, find_named_by_data, remember, same_judge

__all__ = [
    "Choice",
    "Generator",
    "Interface",
    "Judge",
    "builtin_names",
    "find_generator",
    "find_judge",
    "find_judge_named_by_data",
    "find_named_by_data",
    "judge_names",
    "remember",
    "same_judge",
]
