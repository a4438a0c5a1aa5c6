"""What generators there are and what each one is, without TensorFlow.

A generator is asked for by reference: the name of a built-in one (`fashion`), a path or an s3:// URL.
Beside the model may lie `generator.toml`, which says what the model cannot.

kinds           what a model's files look like: .keras, TensorFlow.js, SavedModel, untrained
catalogue       from a reference to a Generator
interface       from what the model shows and what the sidecar says to an Interface
structure       what a model shows of itself
trust           which generators may be loaded where data names them
architecture    a model's layers and how they are connected, from either generation of Keras's JSON
layers          what each kind of layer does to shapes, which weights it has
"""

from pipeline.generators.catalogue import builtin_names, find_generator
from pipeline.generators.generator import Generator
from pipeline.generators.interface import Interface
from pipeline.generators.trust import find_named_by_data, remember

__all__ = ["Generator", "Interface", "builtin_names", "find_generator", "find_named_by_data", "remember"]
