"""Clear messages for errors of S3. They never contain credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline.common.errors import StoreError, StoreUnavailableError

_DENIED = (
    "access denied: the credentials need s3:PutObject, s3:GetObject, s3:DeleteObject and "
    "s3:AbortMultipartUpload below this prefix, and s3:ListBucket for it; "
    "if a policy of the bucket requires encryption, set NOISEMILL_SSE"
)
_REGION = "the bucket is in another region: set AWS_DEFAULT_REGION to its region"
_BUSY = "the server is overloaded or failing: try again later"
_EXPIRED = "the session token is invalid or has expired: renew the AWS credentials"
_FULL = "the server has no space left"
_CUT = "the connection was interrupted repeatedly: check the server and the network"

#: By S3's error code; the response to a HEAD has no body, so its code is the HTTP status.
_CODES = {
    "301": _REGION,
    "403": _DENIED,
    "408": _BUSY,
    "429": _BUSY,
    "500": _BUSY,
    "502": _BUSY,
    "503": _BUSY,
    "504": _BUSY,
    "507": _FULL,
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AuthorizationHeaderMalformed": _REGION,
    "BadDigest": _CUT,
    "ExpiredToken": _EXPIRED,
    "IncompleteBody": _CUT,
    "InternalError": _BUSY,
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID",
    "InvalidBucketName": "the bucket's name is not valid: check the destination",
    "InvalidToken": _EXPIRED,
    "NoSuchBucket": "the bucket does not exist: create it, or check its name and AWS_ENDPOINT_URL",
    "NoSuchUpload": "the server has dropped the upload: it is started again",
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _FULL,
    "RequestTimeout": _BUSY,
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "ServiceUnavailable": _BUSY,
    "SignatureDoesNotMatch": "the secret key does not match the access key: check AWS_SECRET_ACCESS_KEY",
    "SlowDown": _BUSY,
    "Throttling": _BUSY,
    "TooManyRequests": _BUSY,
    "XAmzContentSHA256Mismatch": _CUT,
    "XMinioStorageFull": _FULL,
}

_NO_CREDENTIALS = "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
_SILENT = "the server takes too long to respond: try again later"
_UNREACHABLE = "cannot be reached: check that the server runs, and AWS_ENDPOINT_URL"

#: By the exception's class; the first match counts.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (boto.NoCredentialsError, _NO_CREDENTIALS),
    (boto.PartialCredentialsError, _NO_CREDENTIALS),
    (boto.CredentialRetrievalError, "the S3 credentials could not be fetched: check the AWS profile"),
    (boto.ProfileNotFound, "the AWS profile does not exist: check AWS_PROFILE"),
    (boto.SSLError, "the server's certificate is not trusted: check AWS_ENDPOINT_URL and AWS_CA_BUNDLE"),
    (boto.ProxyConnectionError, "the proxy cannot be reached: check HTTP_PROXY and HTTPS_PROXY"),
    (boto.ReadTimeoutError, _SILENT),
    (boto.ConnectionClosedError, _CUT),
    (boto.IncompleteReadError, _CUT),
    (boto.ResponseStreamingError, _CUT),
    (boto.ConnectionError, _UNREACHABLE),
    (boto.HTTPClientError, _CUT),
    (ResponseParserError, "the response cannot be read: check AWS_ENDPOINT_URL"),
)

#: Messages of temporary errors.
_PASSING = {_BUSY, _CUT, _SILENT, _UNREACHABLE, _CODES["NoSuchUpload"]}


def store_error(error: Exception, place: str, endpoint: str = "") -> StoreError:
    """The StoreError for an error of boto3 at `place`, "s3://bucket/key"."""
    # The endpoint may contain a user and a password, which are left out.
    host = urlsplit(endpoint).netloc.rpartition("@")[2]
    at = f"{place} at {host}" if host else place
    if isinstance(error, boto.ClientError):
        code = error_code(error)
        return _error(at, _CODES.get(code, f"the server responded with {code}"))
    for kind, words in _CLASSES:
        if isinstance(error, kind):
            return _error(at, words)
    return StoreError(f"{at}: S3 failed with {type(error).__name__}: check AWS_ENDPOINT_URL and the AWS settings")


def _error(place: str, words: str) -> StoreError:
    kind = StoreUnavailableError if words in _PASSING else StoreError
    return kind(f"{place}: {words}")


def error_code(error: boto.ClientError) -> str:
    """S3's error code, such as "NoSuchBucket"; the HTTP status if the response has no body."""
    return str(error.response.get("Error", {}).get("Code", "an unreadable error"))
