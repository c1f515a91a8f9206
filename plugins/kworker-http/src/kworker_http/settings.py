"""What `[plugins.http]` of kworker.toml may say. No value of a secret or a header shows in a repr."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Endpoint(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How to sign and label what goes to one URL prefix.

    secrets: `whsec_<base64>` each, of 24 to 64 bytes; every one signs, so that a receiver can change over in peace.
    secret_files: files with one such secret a line. headers: sent with every delivery, a message cannot change them.
    """

    secrets: list[str] = []
    secret_files: list[str] = []
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(secrets: {len(self.secrets)}, secret_files: {len(self.secret_files)})"


class HttpSettings(Endpoint, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The settings of kworker-http; `secrets`, `secret_files` and `headers` hold where no endpoint says otherwise.

    allow: URL prefixes that may be delivered to. endpoints: by URL prefix (the most specific counts); its secrets
    replace the general ones, its headers are added to them.
    timeout: seconds for one whole attempt: name look-up, connecting, sending, waiting, reading.
    allow_internal: True, or the networks (`10.1.0.0/16`) whose addresses may be connected to though not public.
    ca_file: PEM file of authorities trusted beside the system's. max_response_bytes: read of an answer at most.
    max_retry_after: seconds to which a receiver's Retry-After is cut. keep_alive: idle connections kept for each host.
    """

    allow: Annotated[list[str], Meta(min_length=1)]
    endpoints: dict[str, Endpoint] = {}
    timeout: Seconds = 15.0
    allow_internal: bool | list[str] = False
    ca_file: str | None = None
    max_response_bytes: Annotated[int, Meta(ge=1024, le=1 << 26)] = 1 << 16
    max_retry_after: Seconds = 3600.0
    keep_alive: Annotated[int, Meta(ge=1, le=10_000)] = 64
