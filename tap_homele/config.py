"""The settings: their JSON schema, and the checks that a schema cannot make."""

from __future__ import annotations

import re
import typing as t
from datetime import date
from urllib.parse import urlsplit

import requests
from singer_sdk import typing as th

from tap_homele import records

if t.TYPE_CHECKING:
    from collections.abc import Iterator

API_PATH = "/api/v2/crm"
DEFAULT_API_URL = f"https://crm.homele.com{API_PATH}"

_MAKE_ONE = "Make one in Homele under Settings > API Integration."

# The values of scan_by.
AUTO, CURSOR, CREATED_DATE = "auto", "cursor", "created_date"

# The filters of the list: the setting, its type, the API's name, what it lets through.
_IDS = th.ArrayType(th.IntegerType)
FILTERS: t.Final[dict[str, tuple[t.Any, str, str]]] = {
    "filter_query": (th.StringType, "query", "whose name matches this search"),
    "filter_lead_status_ids": (
        _IDS,
        "lead_status.id",
        "with one of these lead statuses",
    ),
    "filter_owner_ids": (_IDS, "owner.id", "of one of these owners"),
    "filter_lead_source_ids": (
        _IDS,
        "lead_source.id",
        "from one of these lead sources",
    ),
    "filter_priority_id": (th.IntegerType, "priority.id", "with this priority"),
    "filter_created_from": (th.DateType, "date_from", "created after this date"),
    "filter_created_to": (th.DateType, "date_to", "created before this date"),
}

# A misspelt setting must not pass silently, so none is accepted that is not here.
# The SDK adds those of its own (stream maps, flattening, batches).
SCHEMA: t.Final[dict[str, t.Any]] = th.PropertiesList(
    th.Property(
        "auth_token",
        th.StringType,
        required=True,
        secret=True,
        description="API token, made in Homele under Settings > API Integration with "
        "the permission customer:read.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default=DEFAULT_API_URL,
        description="Address of the API. For a company with a domain of its own the "
        "domain is enough, such as https://crm.acme.example.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        description="The first run takes only customers that changed since then: a "
        "date or a time in ISO 8601. Without it, all.",
    ),
    th.Property(
        "user_agent",
        th.StringType,
        description="User-Agent header, instead of tap-homele and its version.",
    ),
    th.Property(
        "page_size",
        th.IntegerType(minimum=1, maximum=100),
        default=100,
        description="Customers per request, 1 to 100.",
    ),
    *(
        th.Property(name, kind, description=f"Only customers {which}.")
        for name, (kind, _, which) in FILTERS.items()
    ),
    th.Property(
        "scan_by",
        th.StringType(allowed_values=[AUTO, CURSOR, CREATED_DATE]),
        default=AUTO,
        description="How the list is read: by the API's cursor, by created date, or "
        "auto: by the cursor, unless it turns out to skip customers.",
    ),
    th.Property(
        "customer_details",
        th.BooleanType,
        default=False,
        description="Adds the stream customer_details: all that Homele knows of each "
        "customer that changed, for one more request each.",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=False,
        description="With FULL_TABLE replication, tell the target to remove customers "
        "that are gone from Homele.",
    ),
    additional_properties=False,
).to_dict()


def filters_of(config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the filters as the API names them; None is not sent."""
    return {
        f"filter[{api_name}]{'[]' * (kind is _IDS)}": (
            None if config.get(name) in ("", []) else config.get(name)
        )
        for name, (kind, api_name, _) in FILTERS.items()
    }


def setting_errors(  # noqa: C901
    config: t.Mapping[str, t.Any],
) -> Iterator[str]:
    """Check what a JSON schema cannot.

    Yields:
        A sentence for each setting that is wrong. It never holds the token.
    """
    token = config["auth_token"]
    if not token:
        yield f"auth_token: it is empty. {_MAKE_ONE}"
    elif " " in token or not _fits_a_header(token):
        yield (
            "auth_token: it must be the token alone, such as 1|abc123, without "
            "'Bearer' and without spaces."
        )
    for name in ("api_url", "page_size"):
        if config[name] in {None, ""}:
            yield f"{name}: it must not be empty; leave it out for the default."
    try:
        base_url(config["api_url"] or DEFAULT_API_URL)
    except ValueError as error:
        yield f"api_url: {error}."
    if not _fits_a_header(config.get("user_agent") or ""):
        yield "user_agent: it must be plain ASCII on one line."
    start_date = config.get("start_date")
    if start_date and records.utc(start_date) is None:
        yield (
            f"start_date: '{start_date}' is not a date or time in ISO 8601, such "
            "as 2026-01-31 or 2026-01-31T08:00:00Z."
        )
    days = {name: config.get(f"filter_created_{name}") or "" for name in ("from", "to")}
    for name, day in days.items():
        if day and not _is_day(day):
            yield f"filter_created_{name}: '{day}' is not a date such as 2026-01-31."
    if days["from"] > days["to"] > "":
        yield "filter_created_from: it is later than filter_created_to."


def _is_day(value: str) -> bool:
    try:
        return str(to_date(value)) == value
    except ValueError:
        return False


def to_date(value: str | None) -> date | None:
    """Read a day such as 2026-01-31; None if there is none."""
    return date.fromisoformat(value) if value else None


def base_url(api_url: str) -> str:
    """Complete the address of the API.

    Args:
        api_url: What the user set: the address of the API, or a tenant's bare domain.

    Returns:
        The address without a slash at its end. A bare domain is completed with
        ``/api/v2/crm`` (the vendor's documents: every tenant can have its own).

    Raises:
        ValueError: If it is not an address that a token may be sent to.
    """
    # None of these sentences holds a part of it: a password can be anywhere.
    if "@" in api_url:
        raise ValueError("it must not hold a user name or a password")
    try:
        parts = urlsplit(api_url.strip())
        _ = parts.port, (parts.hostname or "").encode("idna")
        if parts.hostname and parts.scheme in {"http", "https"}:
            requests.Request("GET", api_url.strip()).prepare()
    except ValueError:
        raise ValueError("it cannot be an address") from None
    if parts.query or parts.fragment or len(api_url.split()) != 1:
        raise ValueError("it must end with its path, without '?', '#' or spaces")
    loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and loopback)
    ):
        raise ValueError(
            f"it must begin with https://, as in https://crm.homele.com{API_PATH}"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or API_PATH}"


def without_value(sentence: str) -> str:
    """Say what the SDK says of a setting without its value, which can be a secret."""
    if unknown := re.search(r"\((.+) (?:was|were) unexpected\)$", sentence):
        return " ".join(map(_unknown, re.findall(r"'([^']+)'", unknown[1])))
    if missing := re.fullmatch(r"'(\w+)' is a required property", sentence):
        return f"{missing[1]}: it is missing. {_MAKE_ONE}"
    found = re.search(r"config\['(\w+)'\](\[\d+\])?$", sentence)
    if found is None:
        return sentence
    setting = SCHEMA["properties"][found[1]]
    schema, subject = (setting["items"], "each") if found[2] else (setting, "it")
    kinds = ", ".join(kind for kind in schema["type"] if kind != "null")
    if "enum" in schema:
        kinds = f"one of {', '.join(filter(None, schema['enum']))}"
    elif "maximum" in schema:
        kinds += f" from {schema['minimum']} to {schema['maximum']}"
    return f"{found[1]}: {subject} must be {kinds}. {setting['description']}"


def _unknown(name: str) -> str:
    """Say that there is no such setting, and which one may be meant."""
    import difflib  # noqa: PLC0415 - a good start-up has no use for it

    similar = difflib.get_close_matches(name, SCHEMA["properties"], n=1)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return f"{name}: there is no such setting.{hint}"


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable()
