"""Every error that a user can see, in one tree.

    NoisemillError                      exit code 1
    |-- UsageError (ValueError)         exit code 2: a value that the user gave
    |   |-- UnknownGeneratorError
    |   `-- UnknownJobError
    |-- GeneratorError                  the generator cannot be loaded, understood or trusted
    |-- DestinationError                the destination cannot hold this job
    |   `-- DestinationOccupiedError    it holds another job or other files
    |-- StoreError (OSError)            reading or writing a store failed
    |   `-- StoreUnavailableError       for now: it may pass without anybody's doing
    |       `-- DestinationBusyError    another maker is at work there
    |-- DatasetError (ValueError)       what lies at the destination is malformed or missing
    |   `-- NewerVersionError           a newer noisemill wrote it
    |-- LedgerError                     Redis is absent, refuses us or is not Redis
    |-- SampleError                     the generator made a sample that must not be written
    |-- WorkerError                     a worker could not start or died
    `-- JobFailedError                  a job ended without being whole

A message is one or two lines: what is wrong, with which value, and what to do.
"""


class NoisemillError(Exception):
    """Base of all errors that noisemill raises on purpose."""

    exit_code = 1


class UsageError(NoisemillError, ValueError):
    """A value that the user gave cannot be used."""

    exit_code = 2


class UnknownGeneratorError(UsageError):
    """No generator answers to this reference."""


class UnknownJobError(UsageError):
    """The ledger holds no job of this id."""


class GeneratorError(NoisemillError):
    """A generator cannot be loaded, understood or trusted."""


class DestinationError(NoisemillError):
    """A destination cannot hold this job."""


class DestinationOccupiedError(DestinationError):
    """A destination holds another job, or files that no job put there."""


class StoreError(NoisemillError, OSError):
    """Reading from or writing to a store failed. Where no subclass says otherwise, somebody has to mend it."""


class StoreUnavailableError(StoreError):
    """A store does not answer, is overloaded or fails in a way that may pass by itself."""


class DestinationBusyError(StoreUnavailableError):
    """Another maker is at work at a destination."""


class DatasetError(NoisemillError, ValueError):
    """What lies at a destination is malformed or missing."""


class NewerVersionError(DatasetError):
    """A newer noisemill wrote it: not for this one to judge."""


class LedgerError(NoisemillError):
    """Redis is absent, refuses us, or is not Redis."""


class SampleError(NoisemillError):
    """A generator made a sample that must not be written: NaN, infinity or another shape."""


class WorkerError(NoisemillError):
    """A worker could not start, or died."""


class JobFailedError(NoisemillError):
    """A job ended without being whole."""


def one_line(error: Exception | str) -> str:
    """What an error says, without its line breaks: for logs and the ledger."""
    return " ".join(str(error).split())


#: Most characters of a bad value in a message.
_SHOWN = 60


def shown(value: object) -> str:
    """A bad value as messages show it: quoted, and cut short where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
