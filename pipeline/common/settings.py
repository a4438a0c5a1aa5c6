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

#: Among what is trusted: the code that a model's own generator.toml names, and Python code that is inside the model.
TRUST_OWN = "generator.toml"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings from the environment. A variable's name is NOISEMILL_ and the field's name in capitals."""

    #: The Redis of the ledger and the queues: redis://, rediss://, unix:// (a socket's path), or redis+sentinel://.
    redis_url: str = DEFAULT_REDIS_URL
    #: Prefix of every key in Redis.
    key_prefix: str = "noisemill"
    #: Time that a worker spends on a job per wake-up, seconds.
    slice_s: float = 20.0
    #: Time until a claim expires without renewal, seconds; renewed three times as often.
    lease_s: float = 30.0
    #: Interval of the reconciler, seconds.
    reconcile_s: float = 5.0
    #: Longest time that a job is held while its store does not respond, seconds; then it fails.
    store_patience_s: float = 600.0
    #: Folder for calibrations and facts about generators.
    cache_dir: Path = Path("~/.cache/noisemill")
    #: Folder for the locks of GPUs; containers on one host must share it.
    lock_dir: Path = Path("/tmp/noisemill-locks")  # noqa: S108 - the one place that all users of a machine share
    #: Address of the metrics endpoint; 0.0.0.0 for all addresses, as needed in containers.
    metrics_host: str = "127.0.0.1"
    #: Encryption at rest to request from S3: AES256, aws:kms or aws:kms:dsse; empty: the bucket's default.
    sse: str = ""
    #: The KMS key for it; empty: the account's default key.
    sse_kms_key: str = ""
    #: Largest generator to download from S3, millions of bytes.
    generator_limit_mb: float = 4000.0
    #: Code that models may run when they are loaded, see `pipeline.generators.trusted_code`.
    trust: str = ""


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` that are not None take precedence.

    Raises UsageError for an invalid number.
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
    """The path with `~` replaced by the home or, without one, by the user's own temporary folder."""
    try:
        return path.expanduser()
    except RuntimeError:  # For example in a container with a uid that has neither a passwd entry nor HOME.
        own = Path(tempfile.gettempdir()) / f"noisemill-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UsageError(f"this user has no home, and {own} belongs to another user: set HOME or NOISEMILL_CACHE_DIR")
    return own / Path(*path.parts[1:])


def names_redis(redis_url: str | None) -> bool:
    """Whether the user has set a Redis, by this option or in the environment."""
    return redis_url is not None or any(os.environ.get(f"NOISEMILL_REDIS_URL{end}") for end in ("", "_FILE"))


def _redis_url() -> str | None:
    """From NOISEMILL_REDIS_URL, or from the file NOISEMILL_REDIS_URL_FILE, which containers mount as a secret."""
    text, path = os.environ.get("NOISEMILL_REDIS_URL"), os.environ.get("NOISEMILL_REDIS_URL_FILE")
    if text or not path:
        return text
    try:
        return read_regular(Path(path)).decode().strip()
    except OSError as error:
        raise UsageError(f"NOISEMILL_REDIS_URL_FILE={path!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"NOISEMILL_REDIS_URL_FILE={path!r} is not text: write the URL in one line") from None


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
