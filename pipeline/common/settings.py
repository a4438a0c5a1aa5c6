"""Environment and defaults, in one place."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import UsageError
from pipeline.common.files import read_regular

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be tuned by environment; the same names with NOISEMILL_ before them, in capitals."""

    #: Where the ledger and the queues live: redis://, rediss:// or unix:// (a socket's path).
    redis_url: str = DEFAULT_REDIS_URL
    #: What every key in Redis starts with.
    key_prefix: str = "noisemill"
    #: How long one wake-up spends on a job, seconds.
    slice_s: float = 20.0
    #: How long a claim holds without renewal, seconds; renewed three times as often.
    lease_s: float = 30.0
    #: How often the reconciler looks for lost wake-ups, seconds.
    reconcile_s: float = 5.0
    #: How long a job is held while its store does not answer, seconds; then it fails.
    store_patience_s: float = 600.0
    #: Where calibrations and what was learnt about generators are kept.
    cache_dir: Path = Path("~/.cache/noisemill")
    #: Where workers lock the GPUs that they have; containers on one host must share it.
    lock_dir: Path = Path("/tmp/noisemill-locks")  # noqa: S108 - the one place that all users of a machine share
    #: Address that workers serve their metrics at; 0.0.0.0 is every one, as containers need it.
    metrics_host: str = "127.0.0.1"
    #: Encryption at rest that S3 is asked for: AES256, aws:kms or aws:kms:dsse; empty leaves it to the bucket.
    sse: str = ""
    #: The KMS key for it; empty is the account's own.
    sse_kms_key: str = ""
    #: Largest generator that is fetched from S3, millions of bytes.
    generator_limit_mb: float = 4000.0
    #: Code that models may run when they are loaded, see `pipeline.generators.trusted_code`.
    trust: str = ""


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` that are not None come first.

    Raises UsageError for a number that is none.
    """
    values: dict[str, object] = {}
    for name, default in Settings().__dict__.items():
        text = _redis_url() if name == "redis_url" else os.environ.get(f"NOISEMILL_{name.upper()}")
        value: object = overrides.get(name)
        if value is None:
            value = default if text is None or text == "" else _parse(name, text, type(default))
        values[name] = value
    for name in ("cache_dir", "lock_dir"):
        values[name] = _expanded(Path(str(values[name])))
    return Settings(**values)  # type: ignore[arg-type]


def _expanded(path: Path) -> Path:
    """The path with `~` replaced; by a folder of the user's own among the temporary ones where there is no home."""
    try:
        return path.expanduser()
    except RuntimeError:  # As in a container that runs as a uid without an entry in passwd and without HOME.
        own = Path(tempfile.gettempdir()) / f"noisemill-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UsageError(f"this user has no home, and {own} is not its own: set HOME or NOISEMILL_CACHE_DIR")
    return own / Path(*path.parts[1:])


def names_redis(redis_url: str | None) -> bool:
    """Whether the user says which Redis to use: by this option, or in the environment."""
    return redis_url is not None or any(os.environ.get(f"NOISEMILL_REDIS_URL{end}") for end in ("", "_FILE"))


def _redis_url() -> str | None:
    """From NOISEMILL_REDIS_URL, or from the file that NOISEMILL_REDIS_URL_FILE names, as containers mount secrets."""
    text, path = os.environ.get("NOISEMILL_REDIS_URL"), os.environ.get("NOISEMILL_REDIS_URL_FILE")
    if text or not path:
        return text
    try:
        return read_regular(Path(path)).decode().strip()
    except OSError as error:
        raise UsageError(f"NOISEMILL_REDIS_URL_FILE={path!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"NOISEMILL_REDIS_URL_FILE={path!r} is no text: write the URL in one line") from None


def _parse(name: str, text: str, kind: type) -> object:
    if kind is not float:
        return text
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    what = "seconds" if name.endswith("_s") else "megabytes"
    if not 0 < number < 1e6:
        raise UsageError(f"NOISEMILL_{name.upper()}={text!r} is not a number of {what} above 0")
    return number
