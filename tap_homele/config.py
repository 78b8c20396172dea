"""The settings: their JSON schema, and the checks that a schema cannot make."""

import contextlib
import re
import typing as t
import unicodedata
from collections.abc import Callable, Iterator
from datetime import date
from urllib.parse import urlsplit

import requests
from singer_sdk import typing as th

from tap_homele import records

API_PATH = "/api/v2/crm"
DEFAULT_API_URL = f"https://crm.homele.com{API_PATH}"

_MAKE_ONE = "Make one in Homele under Settings > API Integration."

# The values of scan_by.
AUTO, CURSOR, CREATED_DATE = "auto", "cursor", "created_date"

# The filters of the list: the setting, its type, the API's name, what it lets through.
_IDS = th.ArrayType(th.IntegerType)
FILTERS: t.Final[dict[str, tuple[t.Any, str, str]]] = {
    "filter_query": (th.StringType, "query", "whose name matches this search"),
    "filter_lead_status_ids": (_IDS, "lead_status.id", "with one of these statuses"),
    "filter_owner_ids": (_IDS, "owner.id", "of one of these owners"),
    "filter_lead_source_ids": (_IDS, "lead_source.id", "from one of these sources"),
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
        description="API token, with the permission customer:read.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default=DEFAULT_API_URL,
        description="Address of the API, or a company's own domain, such as "
        "https://crm.acme.example.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        description="A first run, or a full refresh, takes customers changed since "
        "then.",
    ),
    th.Property(
        "user_agent",
        th.StringType,
        description="User-Agent header.",
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
        description="Read the list by cursor, by created_date, or auto: by cursor, "
        "unless that skips customers.",
    ),
    th.Property(
        "full_scan_every_hours",
        th.IntegerType(minimum=0, maximum=8760),
        default=0,
        description="Hours after a full scan in which runs are quick; 0: none.",
    ),
    th.Property(
        "customer_details",
        th.BooleanType,
        default=False,
        description="Add the stream customer_details, for one more request for each "
        "changed customer.",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=False,
        description="With FULL_TABLE, have the target remove customers that are gone.",
    ),
    additional_properties=False,
).to_dict()


def filters_set(config: t.Mapping[str, t.Any]) -> list[str]:
    """Return the names of the filters that are set, and not their values."""
    return [name for name in FILTERS if config.get(name) not in (None, "", [])]


def filters_of(config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the filters as the API names them; None is not sent."""
    are_set = filters_set(config)
    return {
        f"filter[{api_name}]{'[]' * (kind is _IDS)}": (
            config[name] if name in are_set else None
        )
        for name, (kind, api_name, _) in FILTERS.items()
    }


def setting_errors(config: t.Mapping[str, t.Any]) -> Iterator[str]:
    """Check what a JSON schema cannot.

    Yields:
        A sentence for each setting that is wrong. It never holds the value, which can
        be a secret.
    """
    if not config["auth_token"]:
        yield f"auth_token: it is empty. {_MAKE_ONE}"
    for name in ("api_url", "page_size"):
        if config[name] in {None, ""}:
            yield f"{name}: it must not be empty; leave it out for the default."
    for name, (check, sentence) in _CHECKS.items():
        if (value := config.get(name)) and not check(value):
            yield f"{name}: it must be {sentence}."
    first, last = config.get("filter_created_from"), config.get("filter_created_to")
    if first and last and first > last:
        yield "filter_created_from: it is later than filter_created_to."
    if config.get("batch_config") and config["emit_activate_version_messages"]:
        yield "emit_activate_version_messages: batches carry no version to activate."


def setting_warnings(config: t.Mapping[str, t.Any]) -> Iterator[str]:
    """Yield a sentence for each setting that Homele may understand in another way.

    The usual package for filters on Laravel (Spatie's query builder) splits a value at
    commas, and makes booleans of two words; neither can be escaped.
    """
    query = str(config.get("filter_query") or "")
    if "," in query or query.strip().casefold() in {"true", "false"}:
        yield (
            "filter_query: Homele may not search for it as it is, but for each part of "
            "it between commas, and for nothing if it is true or false. Compare the "
            "number of customers with what Homele shows you."
        )


def environment_errors(
    schema: dict[str, t.Any], environment: t.Mapping[str, str]
) -> Iterator[str]:
    """Find the environment variables that the SDK cannot read (``--config=ENV``).

    Args:
        schema: The JSON schema of the settings.
        environment: The variables.
    """
    for name, setting in schema["properties"].items():
        variable, value = f"TAP_HOMELE_{name.upper()}", None
        for kind in _IN_JSON.keys() & setting.get("type", ()):
            with contextlib.suppress(ValueError):
                value = records.decode(environment.get(variable, "").encode())
            if variable in environment and type(value) is not _IN_JSON[kind]:
                yield f"{variable}: it must be JSON, of type {kind}, or left out."


def to_date(value: str | None) -> date | None:
    """Read a day such as 2026-01-31; None if there is none."""
    return date.fromisoformat(value) if value else None


def base_url(api_url: str) -> str:
    """Complete the address of the API.

    Args:
        api_url: What the user set: the address of the API, or a tenant's bare domain.

    Returns:
        The address without a slash at its end. A bare domain is completed with
        ``/api/v2/crm`` (the vendor's documents: every tenant can have its own). Empty,
        if it is not an address that a token may be sent to.
    """
    try:
        url = requests.Request("GET", api_url.strip()).prepare().url or ""
        parts = urlsplit(url)
        is_local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_local)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:
        return ""
    if not is_safe or "@" in api_url or parts.query or parts.fragment:
        return ""
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or API_PATH}"


# The types of settings that stand as JSON in an environment variable.
_IN_JSON = {"integer": int, "array": list, "object": dict}

_DAY = "a date such as 2026-01-31"


def _is_visible(text: str) -> bool:
    """Tell whether a character can be seen.

    Laravel cuts spaces and some invisible characters off (which, depends on its
    version), and takes a value of which nothing is left for none: everybody would come.
    """
    return any(unicodedata.category(char)[0] not in "ZC" for char in text)


# What a setting must be, and whether it is.
_CHECKS: dict[str, tuple[Callable[[str], object], str]] = {
    "auth_token": (
        re.compile("[!-~]+").fullmatch,
        "the token alone, such as 1|abc123, without 'Bearer' and without spaces",
    ),
    "api_url": (
        base_url,
        f"an https address without user, password, ? and #, such as {DEFAULT_API_URL}",
    ),
    "user_agent": (re.compile("[ -~]+").fullmatch, "plain ASCII on one line"),
    "filter_query": (_is_visible, "a name or a part of one, and not only spaces"),
    "start_date": (records.utc, f"{_DAY} or a time such as 2026-01-31T08:00:00Z"),
    "filter_created_from": (records.is_day, _DAY),
    "filter_created_to": (records.is_day, _DAY),
}


def without_value(sentence: str) -> str:
    """Say what the SDK says of a setting without its value, which can be a secret."""
    if unknown := re.search(r"\((.+) (?:was|were) unexpected\)$", sentence):
        return f"{unknown[1]}: there is no such setting."
    if sentence == "'auth_token' is a required property":
        return f"auth_token: it is missing. {_MAKE_ONE}"
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
