"""Credentials in URLs and in commands: refused where somebody configures them, masked where texts of others are shown.

A URL of a configuration is written to results, logs, Prefect's records and the notes of locks. What is in it is no
secret any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MASK = "***"

_NAMES = r"key|token|secret|signature|passw|passphrase|credential|auth|\b(?:sig|sas|pwd)\b"
_USER = re.compile(
    r"(//|:/(?!/))(?:\S*:\S*|[^/\s]*)@"
)  # passwords have slashes, too: rather a bit too little shown than too much
_PARAMETER = re.compile(rf"([?&;][^\s=&;#?]*(?:{_NAMES})[^\s=&;#?]*)=[^\s&;#]+", re.IGNORECASE)
_OPTION = re.compile(rf"-*[^\s=]*(?:{_NAMES})[^\s=]*", re.IGNORECASE)
_TOKENS = ("http", "https")  # where a user without a password is often a token
_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_HOW = {
    "s3": _S3,
    "s3a": _S3,
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_KEY",
    "http": "FSSPEC_HTTP, in JSON,",
    "https": "FSSPEC_HTTPS, in JSON,",
}
_BY_FSSPEC = ("ftp", "sftp", "ssh", "smb")  # which it gives what the environment has of these names


def not_a_folder(path: str) -> str:
    """Why text cannot name a folder of this machine, without repeating it; empty where it can.

    ``s3://bucket/x`` would become the folder ``s3:`` below the working directory.
    """
    return "expected a folder of this machine, found a URL; name a bucket as remote" if "://" in path else ""


def refusal_of(url: str) -> str:
    """Why a URL cannot be used: a sentence that does not repeat what is secret in it; empty where nothing is.

    A user without a password is no secret in ``sftp://me@host/folder``, and a container in ``abfs://features@account``.
    """
    protocol, _, rest = url.rpartition("://") if "::" in url else url.partition("://")
    protocol = protocol.rpartition("::")[2].lower()
    if not (_PARAMETER.search(url) or _has_credentials(protocol, rest)):
        return ""
    of_fsspec = f"FSSPEC_{protocol.upper()}_USERNAME and FSSPEC_{protocol.upper()}_PASSWORD"
    how = _HOW.get(protocol, of_fsspec if protocol in _BY_FSSPEC else "them")
    return (
        "credentials do not belong in a URL, which is written to results, logs and Prefect's records; set"
        f" {how} in the environment, which a deployment can fill from a Secret block of Prefect"
    )


def _has_credentials(protocol: str, rest: str) -> bool:
    authority = rest.partition("/")[0]
    user, at, _ = authority.rpartition("@")
    if protocol in ("s3", "s3a"):  # a bucket has neither; its ARN has colons
        return re.search("[:@]", authority) is not None and not authority.startswith("arn:")
    if at:
        return ":" in user or protocol in _TOKENS
    cut = re.search(r":(?!\d*$)", authority) is not None and not authority.startswith(("arn:", "["))
    return cut and "@" in rest  # a password with a slash in it


def refused_in(tree: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every URL with credentials in nested mappings and lists: where it stands, and why it is refused."""
    if isinstance(tree, str) and "://" in tree:
        if refusal := refusal_of(tree):
            yield place, refusal
    elif isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from refused_in(value, (*place, key))


def without_secrets(text: str) -> str:
    """A text without what stands before an @ in URLs, and without the values of parameters with names of secrets."""
    return _PARAMETER.sub(rf"\1={MASK}", _USER.sub(r"\1", text))


def reason_of(error: BaseException) -> str:
    """What an error says, in one line and without secrets; its kind where it says nothing."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return without_secrets(text) or type(error).__name__


def command_without_secrets(words: Sequence[str]) -> str:
    """A command as others may see it: options that are named like secrets lose their values."""
    shown, hide = [], False
    for word in words:
        name, given, _ = word.partition("=")
        secret = _OPTION.fullmatch(name) is not None
        if hide or (secret and given):
            shown.append(f"{name}={MASK}" if given and not hide else MASK)
        else:
            shown.append(without_secrets(word))
        hide = secret and not given and word.startswith("-")
    return " ".join(shown)
