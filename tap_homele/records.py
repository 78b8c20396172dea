"""One row of the API becomes one record that fits the schema."""

from __future__ import annotations

import typing as t
from datetime import datetime, timezone

Record = dict[str, t.Any]

TIMES = ("created_at", "updated_at", "last_activity_at")


def utc(value: object) -> str | None:
    """Bring a time to UTC in one spelling.

    The API's times can have another offset, a ``Z``, microseconds or no zone at all
    (Laravel; then UTC). Times in this one spelling compare as strings, as the SDK does:
    ``+`` sorts before the ``.`` of a fraction.

    Args:
        value: A time in ISO 8601, or anything else.

    Returns:
        Like ``2026-02-15T09:45:00+00:00``, with a fraction where there is one. None
        for what is not a time.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc).isoformat()
    except (ValueError, OverflowError):
        return None


def fit(row: Record) -> Record:
    """Make a record of a row.

    Args:
        row: A customer as the API sent it. It is changed.

    Returns:
        The same, its times in UTC, null where they are missing or unreadable.
    """
    for name in TIMES:
        row[name] = utc(row.get(name))
    return row
