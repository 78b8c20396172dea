"""Follow ``meta.next_cursor`` while ``meta.has_more`` says so."""

from __future__ import annotations

import typing as t

from singer_sdk.exceptions import FatalAPIError
from singer_sdk.pagination import BaseAPIPaginator

if t.TYPE_CHECKING:
    from collections.abc import Callable

    import requests


class CursorPaginator(BaseAPIPaginator[str | None]):
    """Gives the cursor of each page, and None for the first.

    Only ``has_more: false`` ends the list (the vendor's document). Whatever else could
    end it quietly is an error, since customers would be missing.
    """

    def __init__(
        self,
        read_answer: Callable[[requests.Response], dict[str, t.Any]],
    ) -> None:
        """Begin at the first page.

        Args:
            read_answer: Gives the parsed body of a response.
        """
        super().__init__(None)
        self._read_answer = read_answer
        self._seen: set[str] = set()

    def continue_if_empty(self, response: requests.Response) -> bool:  # noqa: ARG002
        """Go on: a page can be empty when its rows vanished meanwhile (Laravel)."""
        return True

    def has_more(self, response: requests.Response) -> bool:
        """Tell whether another page follows.

        Raises:
            FatalAPIError: If the page does not say so with true or false.
        """
        has_more = self._meta(response).get("has_more")
        if not isinstance(has_more, bool):
            raise self._error("does not say true or false in 'meta.has_more'")
        return has_more

    def get_next(self, response: requests.Response) -> str:
        """Give the cursor of the next page.

        Raises:
            FatalAPIError: If there is none, or it was given before: Laravel answers a
                cursor that it cannot read with the first page again, without an error.
        """
        cursor = self._meta(response).get("next_cursor")
        if not isinstance(cursor, str) or not cursor:
            raise self._error("says that more follow, but has no 'meta.next_cursor'")
        if cursor in self._seen:
            raise self._error("leads back to a page that was read already")
        self._seen.add(cursor)
        return cursor

    def _meta(self, response: requests.Response) -> dict[str, t.Any]:
        meta = self._read_answer(response).get("meta")
        if not isinstance(meta, dict):
            raise self._error("has no 'meta'")
        return meta

    def _error(self, what: str) -> FatalAPIError:
        # The base class counts a page before it asks about the next.
        return FatalAPIError(
            f"Page {self.count} of the list {what}. Stopped, because customers could "
            "be missing. Run the tap again; if it stays so, tell Homele's support.",
        )
