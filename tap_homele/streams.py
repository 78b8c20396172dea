"""The streams, as they are declared in the catalog."""

from __future__ import annotations

import typing as t

from singer_sdk import typing as th

from tap_homele import records
from tap_homele.details import DetailStream
from tap_homele.scanned import ScannedStream


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


# What the list says of a customer. All but the key may be null, also where the vendor
# says otherwise: one odd customer must not keep all others out.
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

# What only the details say, and is known by name. Another becomes a column by a line.
DETAIL_COLUMNS: t.Final[tuple[th.Property[t.Any], ...]] = (
    th.Property("occupation", th.StringType, description="What the customer does."),
)

ADDITIONAL: t.Final = th.Property(
    records.ADDITIONAL,
    # The SDK would flatten an empty list of properties to nothing.
    th.CustomType({"type": ["object", "null"]}),
    description=("What Homele sent and no column can hold, by the name of the field."),
)


class CustomersStream(ScannedStream):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    replication_key = "updated_at"
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, ADDITIONAL
    ).to_dict()

    @property
    def filters(self) -> dict[str, t.Any]:
        """The filters as the API knows them; None and empty lists are not sent."""
        config = self.config
        return {
            "filter[query]": config.get("filter_query") or None,
            "filter[lead_status.id][]": config.get("filter_lead_status_ids") or None,
            "filter[owner.id][]": config.get("filter_owner_ids") or None,
            "filter[lead_source.id][]": config.get("filter_lead_source_ids") or None,
            "filter[priority.id]": config.get("filter_priority_id"),
            "filter[date_from]": config.get("filter_created_from"),
            "filter[date_to]": config.get("filter_created_to"),
        }


class CustomerDetailsStream(DetailStream):
    """All that Homele knows of each customer that the list has sent on."""

    name = "customer_details"
    path = "/customers/{customer_id}"
    parent_stream_type = CustomersStream
    has_more_fields = True
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, *DETAIL_COLUMNS, ADDITIONAL
    ).to_dict()
