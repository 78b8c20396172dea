"""Follow ``meta.next_cursor`` while ``meta.has_more`` says so."""

import typing as t
from collections import Counter
from collections.abc import Callable

import requests
from singer_sdk.pagination import BaseAPIPaginator

from tap_homele.errors import PageError

# A page can come again where pages are small and a customer moves down. So often it is
# a server that leads round in a circle under ever new cursors.
MAX_TIMES = 10


# Parses the body of a response.
ReadAnswer = Callable[[requests.Response], dict[str, t.Any]]


class CursorPaginator(BaseAPIPaginator[str | None]):
    """Follows the cursor of a list; None is its first page.

    Only ``has_more: false`` ends the list (the vendor's document). Whatever else could
    end it quietly is an error, because customers would be missing.
    """

    def __init__(self, read_answer: ReadAnswer, start: str | None = None) -> None:
        """Start at a page.

        Args:
            read_answer: Parses the body of a response.
            start: The cursor of the page; None: the first.
        """
        super().__init__(start)
        self._read_answer = read_answer
        self._seen = {start}
        # How often the same customers have come.
        self._times: Counter[int] = Counter()

    def continue_if_empty(self, response: requests.Response) -> bool:  # noqa: ARG002
        """Leave it to ``has_more``: by default the SDK ends the list quietly."""
        return True

    def advance(self, response: requests.Response) -> None:
        """Go to the next page.

        Raises:
            PageError: If this page has come too often.
        """
        page = hash(tuple(row["id"] for row in self._read_answer(response)["data"]))
        if self._times[page] == MAX_TIMES:
            raise self.error(f"has come {MAX_TIMES} times before")
        self._times[page] += 1
        super().advance(response)
        self._seen.add(self.current_value)

    def get_next(self, response: requests.Response) -> str | None:
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
            raise self.error("has no 'meta'")
        has_more, cursor = meta.get("has_more"), meta.get("next_cursor")
        if not isinstance(has_more, bool):
            raise self.error("does not say true or false in 'meta.has_more'")
        if not has_more:
            return None
        if not answer["data"]:
            raise self.error("is empty, but says that more follow")
        if not isinstance(cursor, str) or not cursor:
            raise self.error("says that more follow, but has no 'meta.next_cursor'")
        if cursor in self._seen:
            raise self.error("leads back to a page that was read already")
        return cursor

    def error(self, what: str) -> PageError:
        """Make the error of a page that cannot be right."""
        return PageError(
            f"Page {self.count + 1} of the list {what}. Stopped, because customers "
            "could be missing. Run the tap again; if it stays so, tell Homele's "
            "support."
        )
