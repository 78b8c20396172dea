"""Follow ``meta.next_cursor`` while ``meta.has_more`` says so."""

from __future__ import annotations

import typing as t
from collections import Counter

from singer_sdk.pagination import BaseAPIPaginator

from tap_homele.errors import PageError

if t.TYPE_CHECKING:
    from collections.abc import Callable

    import requests


# A page can come again where pages are small and a customer moves down. So often it is
# a server that leads round in a circle under ever new cursors.
MAX_TIMES = 10


class CursorPaginator(BaseAPIPaginator[str | None]):
    """Follows the cursor of a list; None is its first page.

    Only ``has_more: false`` ends the list (the vendor's document). Whatever else could
    end it quietly is an error, because customers would be missing.
    """

    def __init__(
        self,
        read_answer: Callable[[requests.Response], dict[str, t.Any]],
        start: str | None = None,
    ) -> None:
        """Start at a page.

        Args:
            read_answer: Parses the body of a response.
            start: The cursor of the page; None: the first.
        """
        super().__init__(start)
        self._read_answer = read_answer
        self._seen = {start}
        self._pages: Counter[int] = Counter()

    def continue_if_empty(self, response: requests.Response) -> bool:  # noqa: ARG002
        """Leave it to ``has_more``: by default the SDK ends the list quietly."""
        return True

    def has_more(self, response: requests.Response) -> bool:
        """Tell whether another page is to be read."""
        return self.next_cursor(response) is not None

    def get_next(self, response: requests.Response) -> str | None:
        """Return the cursor of the next page."""
        return self.next_cursor(response)

    def advance(self, response: requests.Response) -> None:
        """Go to the next page.

        Raises:
            PageError: If this page has come too often.
        """
        rows = self._read_answer(response)["data"]
        page = hash(tuple(row["id"] for row in rows))
        if self._pages[page] == MAX_TIMES:
            raise self._error(f"has come {MAX_TIMES} times before")
        self._pages[page] += 1
        super().advance(response)
        self._seen.add(self.current_value)

    def next_cursor(self, response: requests.Response) -> str | None:
        """Read what a page says about the next one.

        Returns:
            The cursor of the next page; None after the last.

        Raises:
            PageError: If the page does not say whether more follow. Or if they do
                and the page is empty (on Laravel only the last page can be, when its
                rows vanished meanwhile), or there is no cursor, or an earlier one:
                Laravel answers a cursor that it cannot read with the first page,
                without an error.
        """
        answer = self._read_answer(response)
        meta = answer.get("meta")
        if not isinstance(meta, dict):
            raise self._error("has no 'meta'")
        has_more, cursor = meta.get("has_more"), meta.get("next_cursor")
        if not isinstance(has_more, bool):
            raise self._error("does not say true or false in 'meta.has_more'")
        if not has_more:
            return None
        if not answer["data"]:
            raise self._error("is empty, but says that more follow")
        if not isinstance(cursor, str) or not cursor:
            raise self._error("says that more follow, but has no 'meta.next_cursor'")
        if cursor in self._seen:
            raise self._error("leads back to a page that was read already")
        return cursor

    def _error(self, what: str) -> PageError:
        return PageError(
            f"Page {self.count + 1} of the list {what}. Stopped, because customers "
            "could be missing. Run the tap again; if it stays so, tell Homele's "
            "support."
        )
