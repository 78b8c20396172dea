"""The stream of details: one request for each customer that the list has sent."""

import typing as t
from collections.abc import Iterator

import requests
from singer_sdk.helpers.types import Context

from tap_homele import records
from tap_homele.client import HomeleStream
from tap_homele.errors import ForbiddenError, OutageError, PageError, ServerError
from tap_homele.schema import related, schema_of
from tap_homele.streams import ADDITIONAL, COLUMNS, CustomersStream

# If so many details in a row cannot be had, it is not for one customer. So many times
# in a run the server itself may fail on one.
ENOUGH_MISSING = 5
MAX_SERVER_ERRORS = 3

# What only the details have, as far as their names are known. Each other one becomes a
# column by a line here.
DETAIL_COLUMNS: t.Final = (related("occupation", "What the customer does."),)


class CustomerDetailsStream(HomeleStream):
    """All that Homele knows of each customer that the list has sent.

    The list calls its ``sync`` once for each page. The SDK would call it once for each
    record, and write a SCHEMA and a STATE each time (``generate_child_contexts``).
    """

    name = "customer_details"
    path = "/customers/{customer_id}"
    parent_stream_type = CustomersStream
    ignore_parent_replication_key = False  # so that the list stays incremental
    state_partitioning_keys = ()  # no state for each customer
    refusals = HomeleStream.refusals | {
        403: "The token may read the list of customers, but not these details ({said}, "
        "{endpoint}). Give it the permission customer:read for them too, in Homele "
        "under Settings > API Integration, or set customer_details to false.",
        404: "Homele has no such customer ({said}, {endpoint}).",
    }
    schema = schema_of(*COLUMNS, *DETAIL_COLUMNS, ADDITIONAL)

    # How many details were had, how many are still to be asked for on this page, on how
    # many the server failed, and how many in a row could not be had.
    found = pending = server_errors = in_a_row = 0

    # How many details could not be had.
    missing = 0

    def progress(self) -> str:
        """Say how many details were read, and how many are pending."""
        missing = f", {self.missing:,} missing" if self.missing else ""
        pending = f", {self.pending:,} pending on this page" if self.pending else ""
        return f"{self.found:,} read{missing}{pending}"

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Read the details of the ``customer_ids`` of a page, one request each.

        One customer never holds up the others: whose details cannot be had is passed
        over, and comes when it changes again.

        Raises:
            PageError: If none of a few in a row can be had, or the server fails on more
                than a few, or is not there.
            TokenError: If it does not know the token.
        """
        customer_ids, missing = (context or {})["customer_ids"], dict[int, str]()
        for number, customer_id in enumerate(customer_ids):
            self.pending = len(customer_ids) - number
            try:
                yield from self.request_records({"customer_id": customer_id})
            except OutageError:
                raise
            except (PageError, ForbiddenError) as error:
                self.server_errors += isinstance(error, ServerError)
                if self.server_errors > MAX_SERVER_ERRORS:
                    raise
                missing[customer_id] = str(error)
                self.in_a_row += 1
        self.pending, self.missing = 0, self.missing + len(missing)
        if missing:
            self._warn(missing)
        if self.in_a_row >= ENOUGH_MISSING:
            raise PageError(
                f"Homele has given the details of none of {self.in_a_row} customers, "
                "one after the other, which are in its list. If it stays so, set "
                "customer_details to false, and tell Homele's support."
            )

    @property
    def can_resume(self) -> bool:
        """Whether a run can resume after the page whose details were asked for.

        Not after one that could not be had: it may turn out to be an error. And with
        batches, the SDK can write a STATE before the customers of the page are written.
        """
        return not self.in_a_row and not self.get_batch_config(self.config)

    def get_new_paginator(self) -> None:
        """Return None: there is one page."""

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Yield the details of a customer.

        Raises:
            PageError: If it is another customer, or none.
        """
        # The URL is the tap's own: redirects are not followed.
        customer_id = int(response.url.rpartition("/")[2])
        try:
            record = self.fitter.fit(self.read_answer(response)["data"])
            wrong = "" if record["id"] == customer_id else f"customer {record['id']}"
        except records.MisfitError as reason:
            wrong = f"one that {reason}"
        if wrong:
            raise PageError(
                f"Homele was asked for customer {customer_id}, and answered with "
                f"{wrong}. Tell Homele's support."
            )
        self.found, self.in_a_row = self.found + 1, 0
        yield record

    def finish_table(self) -> None:
        """Activate the version, unless details are missing.

        A 404 should mean that the customer was deleted, but a target cannot undo it.
        """
        # Begins a version even if there were no customers, so that old rows go.
        self.sync({"customer_ids": []})
        if self.missing:
            reason = f"Homele has none of {self.missing} customers"
            self.logger.warning("No details are marked as deleted: %s.", reason)
        else:
            self.activate_version()

    def _warn(self, missing: dict[int, str]) -> None:
        """Log whose details on a page cannot be had, and why not."""
        ids = ", ".join(map(str, missing))
        self.logger.warning(
            "The details of these customers cannot be had, and come when they change "
            "again: %s. The first answer: %s",
            *(ids, next(iter(missing.values()))),
        )

    def log(self, *_: t.Any, **__: t.Any) -> None:
        """Log nothing, in place of the SDK: it tells of each page's details."""
