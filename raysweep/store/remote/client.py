"""botocore's client for an object store: made from an address and the environment, and what its errors mean."""

from __future__ import annotations

import contextlib
import functools
import os
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

_CONNECT_S, _REQUEST_S = 5.0, 30.0

_NO_ACCESS = ("InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException")


@functools.lru_cache(8)
def make(options: tuple[tuple[str, str], ...], environment: tuple[tuple[str, str], ...], attempts: int) -> Any:
    """A client for a store. Making one takes a quarter of a second, so roots in the same store share it."""
    import botocore.session
    from botocore.config import Config

    given = dict(options)
    endpoint, scheme = given.get("endpoint_override"), given.get("scheme", "https")
    session = botocore.session.get_session()
    session.register_component("response_parser_factory", _parsers())
    # Else botocore looks through the folders of all 400 services, twice.
    session.get_component("data_loader").list_available_services = lambda type_name: ["s3"]
    return session.create_client(
        "s3",
        api_version="2006-03-01",
        region_name=given.get("region") or session.get_config_variable("region") or "us-east-1",
        endpoint_url=f"{scheme}://{endpoint}" if endpoint else None,
        use_ssl=scheme == "https",
        config=Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_REQUEST_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            s3={"addressing_style": "path"} if endpoint else {},
            request_checksum_calculation="when_required",  # else many stores but Amazon's refuse an upload
            response_checksum_validation="when_required",
        ),
    )


def _parsers() -> Any:
    """What reads the store's answers, as botocore does, but quickly: a list may have a million rows."""
    from botocore import parsers

    class Parser(parsers.RestXMLParser):  # type: ignore[misc]
        def _parse_shape(self, shape: Any, node: Any) -> Any:
            if shape.name != "Object":  # the row of a list
                return super()._parse_shape(shape, node)
            row = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
            return row | {"Size": int(row["Size"]), "LastModified": _time(row["LastModified"])}

    class Factory(parsers.ResponseParserFactory):  # type: ignore[misc]
        def create_parser(self, protocol_name: str) -> Any:
            return Parser(timestamp_parser=_time)

    return Factory()


def _time(text: str) -> datetime:
    """The time in an answer; botocore's own parser takes a hundred times as long."""
    from botocore.utils import parse_timestamp

    for parser in (datetime.fromisoformat, parsedate_to_datetime):
        with contextlib.suppress(ValueError, TypeError):
            if (found := parser(text)).tzinfo is not None:
                return found
    return cast(datetime, parse_timestamp(text))


def endpoint(text: str) -> dict[str, str]:
    """The options of an endpoint: ``host:9000``, or ``http://host:9000`` as in AWS's own tools."""
    scheme, _, host = text.rpartition("://")
    return {"endpoint_override": host.rstrip("/")} | ({"scheme": scheme} if scheme else {})


def of_environment() -> dict[str, str]:
    """Options from the variables that AWS's own tools read, which are part of what an address means."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return ({"region": region} if region else {}) | (endpoint(given) if given else {})


def status_of(error: Any) -> int | None:
    """The HTTP status in an error of botocore."""
    found: int | None = (getattr(error, "response", None) or {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found


def code_of(error: Any) -> str:
    """The store's own code in an error of botocore, such as ``NoSuchBucket``; empty if the store said nothing."""
    return str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))


def why(error: Exception, bucket: str) -> str:
    """The reason in an error of botocore, and what to do about it."""
    from botocore import exceptions as known

    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}. Create it, or correct the address (or its region or endpoint_override)."
    if code.startswith("ExpiredToken") or isinstance(error, (known.TokenRetrievalError, known.SSOTokenLoadError)):
        return "the credentials have expired. Get new ones; what was committed before is intact."
    nobody = (known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError)
    if code in _NO_ACCESS or status in (401, 403) or isinstance(error, nobody):
        return (
            f"access is denied ({status or 'no credentials'}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE "
            f"or the machine's role to ones that may list, read, write and delete in {bucket}."
        )
    said = " ".join(str(error).split())[:300].rstrip(".")
    if isinstance(error, (known.HTTPClientError, known.ConnectionError)):
        return (
            f"nothing answers ({said}). Check the network and endpoint_override; what was committed before is intact."
        )
    return f"{said}. What was committed before is intact; check the object store."
