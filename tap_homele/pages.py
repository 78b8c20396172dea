"""Read the list of customers: a query becomes requests, an answer becomes a page."""

import typing as t
from collections.abc import Iterator

import requests
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import records
from tap_homele.client import CustomerStream
from tap_homele.config import filters_of
from tap_homele.http import http_date
from tap_homele.pagination import CursorPaginator
from tap_homele.sync.created import MAX_PAGE_SIZE
from tap_homele.sync.scan import Page, Query


class CustomerPages(CustomerStream):
    """A list of customers, page by page."""

    # The query that is being sent, and the page it is at.
    _query: Query
    _paginator: CursorPaginator

    def read(self, query: Query) -> Iterator[Page]:
        """Send a query and follow its cursor: the SDK's loop, page by page.

        Raises:
            PageError: If a page cannot be read; ``CursorError``, if the server fails on
                a cursor.
            TokenError: If the API does not accept the token.
        """
        self._query = query
        self._paginator = CursorPaginator(self.read_answer, query.cursor)
        yield from t.cast("Iterator[Page]", self.request_records(None))

    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Make the request for a page.

        Cursors hold neither the filters nor the page size (Laravel), so each request
        repeats them.
        """
        first, last = self._query.created_from, self._query.created_to
        days = {"filter[date_from]": first, "filter[date_to]": last}
        window = {name: str(day) for name, day in days.items() if day}
        return HTTPRequest(
            url=f"{self.url_base}{self.path}",
            headers=self.http_headers,
            params={
                # A window of created dates has to fit on one page.
                "per_page": MAX_PAGE_SIZE if window else self.config["page_size"],
                **filters_of(self.config),
                **window,
                "cursor": page.next_page_token,
            },
        )

    def get_new_paginator(self) -> CursorPaginator:
        """Return the paginator of the query that is being sent."""
        return self._paginator

    def parse_response(self, response: requests.Response) -> Iterator[t.Any]:
        """Yield the one page of an answer.

        Raises:
            PageError: If a row is not a customer, or the page does not say what
                follows it.
        """
        fitted: list[records.Record] = []
        try:
            fitted.extend(map(self.fitter.fit, super().parse_response(response)))
        except records.MisfitError as reason:
            raise self._paginator.error(
                f"cannot be stored: row {len(fitted) + 1} {reason}"
            ) from None
        at = http_date(response.headers.get("Date")) or records.utc_now()
        next_cursor = self._paginator.get_next(response)
        yield Page(fitted, at.isoformat(timespec="seconds"), next_cursor)
