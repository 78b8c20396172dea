"""Follow ``meta.next_cursor`` while ``meta.has_more`` says so."""

import typing as t
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import requests
from singer_sdk.pagination import BaseAPIPaginator

from tap_homele.errors import PageError

# A page can come again where pages are small and a customer moves down. So often it is
# a server that leads round in a circle under ever new cursors.
MAX_TIMES = 10

# Parses the body of a response.
ReadAnswer: t.TypeAlias = Callable[[requests.Response], dict[str, t.Any]]


class CursorPaginator(BaseAPIPaginator[str | None]):
    """Follows the cursor of a list, from whatever page its first request asks for.

    Only ``has_more: false`` ends the list (the vendor's document). Whatever else could
    end it quietly is an error, because rows would be missing.
    """

    def __init__(self, read_answer: ReadAnswer) -> None:
        """Start with the first request.

        Args:
            read_answer: Parses the body of a response.
        """
        super().__init__(None)
        self._read_answer = read_answer
        self._asked: set[str | None] = set()
        # How often the same rows have come.
        self._times: Counter[int] = Counter()

    def continue_if_empty(self, response: requests.Response) -> bool:  # noqa: ARG002
        """Leave it to ``has_more``: by default the SDK ends the list quietly."""
        return True

    def get_next(self, response: requests.Response) -> str | None:
        """Return the cursor of the next page; None after the last.

        Raises:
            PageError: If the page does not say what follows it; or if it leads back,
                because Laravel answers a cursor that it cannot read with the first
                page, without an error.
        """
        query = parse_qs(urlsplit(response.request.url or "").query)
        self._asked.add(query.get("cursor", [None])[0])
        answer = self._read_answer(response)
        page = hash(tuple(row["id"] for row in answer["data"]))
        if self._times[page] == MAX_TIMES:
            raise page_error(f"has come {MAX_TIMES} times before")
        self._times[page] += 1
        cursor = next_cursor(answer)
        if cursor in self._asked and cursor is not None:
            raise page_error("leads back to a page that was read already")
        return cursor


def next_cursor(answer: dict[str, t.Any]) -> str | None:
    """Read what a page says about the next one.

    Args:
        answer: The body of a response, with ``data``.

    Returns:
        The cursor of the next page; None after the last.

    Raises:
        PageError: If the page does not say whether more follow. Or if they do and the
            page is empty (on Laravel only the last page can be, when its rows vanished
            meanwhile), or there is no cursor.
    """
    meta = answer.get("meta")
    if not isinstance(meta, dict):
        raise page_error("has no 'meta'")
    has_more, cursor = meta.get("has_more"), meta.get("next_cursor")
    if not isinstance(has_more, bool):
        raise page_error("does not say true or false in 'meta.has_more'")
    if not has_more:
        return None
    if not answer["data"]:
        raise page_error("is empty, but says that more follow")
    if not isinstance(cursor, str) or not cursor:
        raise page_error("says that more follow, but has no 'meta.next_cursor'")
    return cursor


def page_error(what: str) -> PageError:
    """Make the error of a page that cannot be right."""
    return PageError(
        f"A page of the list {what}. Stopped, because rows could be missing. Run the "
        "tap again; if it stays so, tell Homele's support."
    )
