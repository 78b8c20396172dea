"""The streams: their columns, and the flow of a sync.

Start here. ``CustomersStream.get_records`` is the whole flow: ``sync.pages`` decides which
pages of the list are read, the scan decides which customers have changed, the SDK writes
them, and after each page the state holds a checkpoint.
"""

from __future__ import annotations

import time
import typing as t
from http import HTTPStatus

from singer_sdk import typing as th
from singer_sdk.exceptions import FatalAPIError
from singer_sdk.mapper import RemoveRecordTransform
from singer_sdk.pagination import SinglePagePaginator
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import records, state, sync
from tap_homele.client import TokenError, quoted_message
from tap_homele.http import body_of
from tap_homele.pages import CustomerPages
from tap_homele.sdk import CustomerStream
from tap_homele.sync.crosscheck import CrossCheck
from tap_homele.sync.scan import PageError, Scan

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import requests
    from singer_sdk.helpers.types import Context

    from tap_homele.sync.scan import Page

# If so many customers are asked for, and none has details, they are not all deleted.
MOST_MISSING = 20

# How often the log says how many details have been read, in seconds.
REPORT_EVERY = 60


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


# The columns of the list. All but the key may be null, even where the vendor says
# otherwise: one odd customer must not keep all others out.
COLUMNS: t.Final[tuple[th.Property[t.Any], ...]] = (
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
)

# What only the details have, as far as their names are known. Each other one becomes a
# column by a line here.
DETAIL_COLUMNS: t.Final[tuple[th.Property[t.Any], ...]] = (
    related_object("occupation", "What the customer does."),
)

ADDITIONAL: t.Final = th.Property(
    records.ADDITIONAL,
    # The SDK would flatten an empty list of properties to nothing.
    th.CustomType({"type": ["object", "null"]}),
    description=("What Homele sent and no column can hold, by the name of the field."),
)


class CustomersStream(CustomerPages):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    replication_key = "updated_at"
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, ADDITIONAL
    ).to_dict()

    # When the log said last how many details have been read.
    _reported = 0.0

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Read the list; yield each customer that has changed."""
        del context  # the stream has no partitions
        began = self._reported = time.monotonic()
        scan, check = self._start_scan()
        read = sent = 0
        try:
            for page in sync.pages(self.read, scan, check):
                changed = scan.changed(page)
                # Now, because the SDK removes the columns that are not selected.
                customer_ids = [r["id"] for r in changed if self._is_sent(r)]
                yield from changed
                self._read_details(customer_ids)
                self._write_progress(scan, check, page)
                read, sent = read + len(page.records), sent + len(changed)
        except PageError as error:
            raise FatalAPIError(str(error)) from None
        self._finish(scan, check)
        self._summarize(read, sent, time.monotonic() - began, scan, check)

    @property
    def details(self) -> CustomerDetailsStream | None:
        """The stream of details; None if it is not selected."""
        streams = [stream for stream in self.child_streams if stream.selected]
        return t.cast("CustomerDetailsStream", streams[0]) if streams else None

    def _start_scan(self) -> tuple[Scan, CrossCheck | None]:
        config = self.config
        first = Scan(
            fingerprint=state.fingerprint(self.url_base, self.filters, self._tables),
            first_bookmark=records.utc(
                self.is_incremental and config.get("start_date")
            ),
            created_from=state.to_date(config.get("filter_created_from")),
            created_to=state.to_date(config.get("filter_created_to")),
        )
        scan, last = state.start_scan(
            self.get_context_state(None),
            first,
            config["scan_by"],
            is_incremental=self.is_incremental,
        )
        if config["scan_by"] != state.AUTO:
            return scan, None
        return scan, CrossCheck(
            since=last.full_scan_started,
            requests_left=lambda: self.requests_session.requests_left,
            must_finish=self.announces_deletes,
            round=last.cross_check[0] if last.cross_check else None,
        )

    @property
    def _tables(self) -> dict[str, bool]:
        """What else tells one list from another: a new table needs all customers."""
        tables = {} if self.selected else {self.name: False}
        return tables | ({self.details.name: True} if self.details else {})

    def _is_sent(self, record: records.Record) -> bool:
        """Tell whether no stream map filters a customer out.

        One that takes the whole list away is no filter: all details are wanted then.
        """
        stream_map = self.stream_maps[0]
        return isinstance(
            stream_map, RemoveRecordTransform
        ) or stream_map.get_filter_result(record)

    def _read_details(self, customer_ids: Sequence[int]) -> None:
        if customer_ids and self.details:
            self.details.sync({"customer_ids": customer_ids})
            if time.monotonic() - self._reported > REPORT_EVERY:
                self._reported = time.monotonic()
                self.logger.info(
                    "customer_details: %d read so far.", self.details.found
                )

    def _write_progress(self, scan: Scan, check: CrossCheck | None, page: Page) -> None:
        """Write the state after a page."""
        if not self.is_incremental:
            return
        own_state = self.get_context_state(None)
        batches = self.get_batch_config(self.config)
        # With batches of details, a state comes before the customers in an open batch.
        has_checkpoint = not (batches and self.details)
        state.note_page(own_state, scan, check, page if has_checkpoint else None)
        if not batches:  # or else the SDK writes the state after each batch
            self._tap.state_writer.write_state(self.tap_state)

    def _finish(self, scan: Scan, check: CrossCheck | None) -> None:
        """Write the end of the scan into the state, and activate the version."""
        state.note_end(
            self.get_context_state(None),
            scan,
            check,
            is_incremental=self.is_incremental,
        )
        if self.announces_deletes and not scan.complete:
            self.logger.warning(
                "No customer is marked as deleted in this run: the list may not be "
                "complete."
            )
        elif self.announces_deletes:
            self.activate_version()
            if self.details:
                self.details.finish_table()

    def _summarize(
        self, read: int, sent: int, seconds: float, scan: Scan, check: CrossCheck | None
    ) -> None:
        """Log in one line what this run has done."""
        session, details = self.requests_session, self.details
        sentences = [
            f"customers: {sent:,} changed of {read:,} read, in {session.requests:,} "
            f"requests and {seconds:.0f} s"
        ]
        if session.seconds_waited:
            sentences[0] += f", {session.seconds_waited:.0f} s of them waiting"
        if details:
            sentences.append(f"customer_details: {details.found:,} read")
        if details and details.missing:
            sentences[-1] += (
                f", {details.missing:,} customers have none: they were deleted meanwhile"
            )
        if self.is_incremental and scan.newest:
            bookmark = min(scan.newest, scan.signpost).replace("+00:00", "Z")
            sentences.append(f"The next run starts from {bookmark}")
        if check and check.progress:
            sentences.append(check.progress)
        self.logger.info("%s.", ". ".join(sentences))


class CustomerDetailsStream(CustomerStream):
    """All that Homele knows of each customer that the list has sent."""

    name = "customer_details"
    path = "/customers/{customer_id}"
    parent_stream_type = CustomersStream
    # Otherwise the SDK makes a full table of the list.
    ignore_parent_replication_key = False
    # No state for each customer.
    state_partitioning_keys = ()
    has_unknown_fields = True
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, *DETAIL_COLUMNS, ADDITIONAL
    ).to_dict()

    # How many customers have details, and how many have none.
    found = missing = 0

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Read the details of the ``customer_ids`` of a page, one request each."""
        for customer_id in (context or {})["customer_ids"]:
            yield from self.request_records({"customer_id": customer_id})

    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Make the request for a customer."""
        return HTTPRequest(
            url=self.get_url(page.stream_context), headers=self.http_headers
        )

    def get_new_paginator(self) -> SinglePagePaginator:
        """Return the paginator of a single page."""
        return SinglePagePaginator()

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer; that a customer is gone is one.

        Raises:
            RetriableAPIError: If the same request may succeed later.
            FatalAPIError: If it will not, with what to do about it.
        """
        if response.status_code == HTTPStatus.FORBIDDEN:
            raise TokenError(
                "The token may read the list of customers, but not their details "
                f"(403{quoted_message(response)}). Give it the permission customer:read for them too, in "
                "Homele under Settings > API Integration, or set customer_details to "
                "false."
            )
        if not is_gone(response):
            super().validate_response(response)

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Yield the details of a customer; nothing, if it is gone.

        Raises:
            FatalAPIError: If it is another customer, or none; or if none of the first
                customers has details.
        """
        customer_id = int(response.url.rpartition("/")[2])
        if is_gone(response):
            self.missing += 1
            if self.missing == MOST_MISSING and not self.found:
                raise FatalAPIError(
                    f"Homele has no details of any of the first {MOST_MISSING} "
                    "customers, who are in its list. Run the tap again; if it stays so, "
                    "set customer_details to false, and tell Homele's support."
                )
            return
        try:
            record = self.fitter.fit(self.read_answer(response)["data"])
        except records.MisfitError as reason:
            raise FatalAPIError(
                f"What Homele answered for customer {customer_id} {reason}, so it "
                "cannot be stored. Tell Homele's support."
            ) from None
        if record["id"] != customer_id:
            raise FatalAPIError(
                f"Homele was asked for customer {customer_id}, and answered with "
                f"customer {record['id']}. Tell Homele's support."
            )
        self.found += 1
        yield record

    def finish_table(self) -> None:
        """Activate the version, unless details of living customers may be missing."""
        self.sync({"customer_ids": []})  # an empty list empties the table, too
        if self.missing:
            self.logger.warning("So no details are marked as deleted in this run.")
        else:
            self.activate_version()

    def log(self, *_: t.Any, **__: t.Any) -> None:
        """Log nothing: the SDK tells of the beginning of each page's details."""


def is_gone(response: requests.Response) -> bool:
    """Tell whether the API says that there is no such customer (any more).

    A 404 of a proxy is a page in HTML, and that of a wrong address has another message.
    """
    body = body_of(response) if response.status_code == HTTPStatus.NOT_FOUND else {}
    return body.get("success") is False or str(body.get("message")).startswith(
        "No query results for model"  # stock Laravel
    )
