"""The streams, as they are declared in the catalog."""

from __future__ import annotations

import typing as t

from singer_sdk import typing as th
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import records
from tap_homele.client import HomeleStream, server_time
from tap_homele.pagination import CursorPaginator
from tap_homele.scan import Scan

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    from singer_sdk.helpers.types import Context


def related_object(name: str, description: str) -> th.Property[t.Any]:
    """Declare a reference to another object of the CRM, ``{id, name}`` or null."""
    return th.Property(
        name,
        th.ObjectType(
            th.Property("id", th.IntegerType, description="Its number in Homele."),
            th.Property("name", th.StringType, description="Its name in Homele."),
        ),
        description=description,
    )


class CustomersStream(HomeleStream):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    primary_keys: t.ClassVar[list[str]] = ["id"]
    replication_key = "updated_at"

    # All but the key may be null, also where the vendor says otherwise: one odd
    # customer must not keep all others out.
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        th.Property(
            "id",
            th.IntegerType,
            required=True,
            description="The customer's number in Homele, unique in a company.",
        ),
        th.Property(
            "sequential_number",
            th.IntegerType,
            description="The running number that people see in Homele.",
        ),
        th.Property("name", th.StringType, description="The full name."),
        th.Property("first_name", th.StringType, description="The first name."),
        th.Property("last_name", th.StringType, description="The last name."),
        th.Property("phone1", th.StringType, description="The main phone number."),
        th.Property("phone2", th.StringType, description="A second phone number."),
        th.Property("phone3", th.StringType, description="A third phone number."),
        th.Property("email1", th.StringType, description="The e-mail address."),
        th.Property("address", th.StringType, description="The postal address."),
        th.Property(
            "budget",
            th.SingerDecimalType,
            description="What the customer can spend, a decimal written as text.",
        ),
        th.Property(
            "budget_currency",
            th.StringType,
            description="The currency of the budget, such as USD.",
        ),
        th.Property(
            "expected_sale_date",
            th.DateType,
            description="The day on which a sale is expected.",
        ),
        related_object("lead_status", "How far the sale has come."),
        related_object("lead_source", "Where the customer came from."),
        related_object("owner", "The user of Homele who looks after the customer."),
        related_object("priority", "How urgent the customer is."),
        related_object("country", "The customer's country."),
        related_object("city", "The customer's city."),
        th.Property(
            "created_at",
            th.DateTimeType,
            description="When the customer was entered, in UTC.",
        ),
        th.Property(
            "updated_at",
            th.DateTimeType,
            description="When the customer was last edited, in UTC.",
        ),
        th.Property(
            "last_activity_at",
            th.DateTimeType,
            description="When something last happened with the customer, in UTC.",
        ),
    ).to_dict()

    _scan: Scan

    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Ask for a page of the list.

        Cursors hold neither the filters nor the size of a page (Laravel), so each
        request repeats them.

        Args:
            page: The cursor of the page, None for the first.
        """
        config = self.config
        return HTTPRequest(
            url=f"{self.url_base}{self.path}",
            headers=self.http_headers,
            params={
                "per_page": config["page_size"],
                "filter[query]": config.get("filter_query") or None,
                "filter[lead_status.id][]": config.get("filter_lead_status_ids"),
                "filter[owner.id][]": config.get("filter_owner_ids"),
                "filter[lead_source.id][]": config.get("filter_lead_source_ids"),
                "filter[priority.id]": config.get("filter_priority_id"),
                "filter[date_from]": config.get("filter_created_from"),
                "filter[date_to]": config.get("filter_created_to"),
                "cursor": page.next_page_token,
            },
        )

    def get_new_paginator(self) -> CursorPaginator:
        """Begin at the first page of the list."""
        return CursorPaginator(self.read_answer)

    def get_replication_key_signpost(
        self,
        context: Context | None = None,  # noqa: ARG002
    ) -> None:
        """Set none yet: the SDK's is the local clock, the scan's is the server's."""
        return

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Scan the list once.

        Args:
            context: Not used: the stream has no partitions.

        Yields:
            Every customer of every page, as the API sent it.
        """
        bookmark = self.get_starting_replication_key_value(context)
        self._scan = Scan(bookmark=records.utc(bookmark))
        yield from super().get_records(context)

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Give the customers of a page, and move the state with it.

        Args:
            response: An answer that was validated.

        Yields:
            Each customer as the API sent it.
        """
        self._scan.begin(server_time(response))
        if self.replication_method == REPLICATION_INCREMENTAL:
            self._hold_bookmark()
        yield from super().parse_response(response)

    def _hold_bookmark(self) -> None:
        """Keep the bookmark between the one before and the signpost of the scan.

        The shape of the state is the SDK's. When a sync ends, the newest value that
        ``progress_markers`` saw, cut to the signpost, becomes the bookmark.
        """
        state = self.get_context_state(None)
        state["replication_key_signpost"] = self._scan.signpost
        markers = state.setdefault("progress_markers", {})
        if self._scan.bookmark:
            # A customer that is wanted for its activity alone may have been updated
            # long ago, and must not take the bookmark back.
            markers.setdefault("replication_key", self.replication_key)
            markers.setdefault("replication_key_value", self._scan.bookmark)

    def post_process(
        self,
        row: records.Record,
        context: Context | None = None,  # noqa: ARG002
    ) -> records.Record | None:
        """Make a record of a customer.

        Args:
            row: The customer as the API sent it.
            context: Not used.

        Returns:
            The record, or None where the customer did not change since the bookmark.
        """
        record = records.fit(row)
        return record if self._scan.wants(record) else None
