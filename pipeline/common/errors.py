"""Every error that a user can see, in one tree.

    NoisemillError                      exit code 1
    |-- UsageError (ValueError)         exit code 2: a value that the user gave
    |   |-- UnknownGeneratorError
    |   `-- UnknownJobError
    |-- GeneratorError                  the generator cannot be loaded, understood or trusted
    |-- DestinationError                the destination cannot hold this job
    |   `-- DestinationOccupiedError    it holds another job or other files
    |-- StoreError (OSError)            reading or writing a store failed
    |   `-- StoreUnavailableError       it may be temporary
    |       `-- DestinationBusyError    another maker works there
    |-- DatasetError (ValueError)       files at the destination are malformed or missing
    |   `-- NewerVersionError           a newer noisemill wrote it
    |-- LedgerError                     Redis is absent, refuses a command or is not Redis
    |-- SampleError                     the generator made a sample that must not be written
    |-- WorkerError                     a worker could not start or died
    `-- JobFailedError                  a job ended and its dataset is incomplete

A message is one or two lines: what is wrong, with which value, and what to do.
"""


class NoisemillError(Exception):
    """Base of all errors that noisemill raises on purpose."""

    exit_code = 1


class UsageError(NoisemillError, ValueError):
    """A value that the user gave cannot be used."""

    exit_code = 2


class UnknownGeneratorError(UsageError):
    """There is no generator with this reference."""


class UnknownJobError(UsageError):
    """There is no job with this id in the ledger."""


class GeneratorError(NoisemillError):
    """A generator cannot be loaded, understood or trusted."""


class DestinationError(NoisemillError):
    """A destination cannot hold this job."""


class DestinationOccupiedError(DestinationError):
    """A destination holds another job, or files that no job put there."""


class StoreError(NoisemillError, OSError):
    """Reading from or writing to a store failed. Unless it is a subclass, the user has to fix the cause."""


class StoreUnavailableError(StoreError):
    """A store does not respond, is overloaded, or fails in a way that may be temporary."""


class DestinationBusyError(StoreUnavailableError):
    """Another maker works at a destination."""


class DatasetError(NoisemillError, ValueError):
    """Files at a destination are malformed or missing."""


class NewerVersionError(DatasetError):
    """A newer noisemill wrote it, and this one cannot read it."""


class LedgerError(NoisemillError):
    """Redis is absent, refuses a command, or is not Redis."""


class SampleError(NoisemillError):
    """A generator made a sample that must not be written: NaN, infinity or another shape."""


class WorkerError(NoisemillError):
    """A worker could not start, or died."""


class JobFailedError(NoisemillError):
    """A job ended and its dataset is incomplete."""


def one_line(error: Exception | str) -> str:
    """The text of an error without line breaks, for logs and the ledger."""
    return " ".join(str(error).split())


#: Most characters of a bad value in a message.
_SHOWN = 60


def shown(value: object) -> str:
    """A bad value for a message: quoted, and shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
