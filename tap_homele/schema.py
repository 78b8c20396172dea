"""How columns are declared."""

import typing as t

from singer_sdk import typing as th


def related(name: str, description: str) -> th.Property[t.Any]:
    """Declare a reference to another object of the CRM, ``{id, name}`` or null."""
    number = th.Property("id", th.IntegerType, description="Its number in Homele.")
    label = th.Property("name", th.StringType, description="Its name in Homele.")
    return th.Property(name, th.ObjectType(number, label), description=description)


def column(name: str, kind: t.Any, description: str) -> th.Property[t.Any]:
    """Declare a column.

    All but the key may be null, even where the vendor says otherwise: one odd customer
    must not keep all others out.
    """
    return th.Property(name, kind, description=description, required=name == "id")


def schema_of(*columns: th.Property[t.Any]) -> dict[str, t.Any]:
    """Make the schema of a stream, spelled so that more targets take it.

    Some refuse ``$schema``; and to some, a column is not nullable unless ``null`` comes
    first among its types (``docs/targets.md``).
    """
    schema = th.PropertiesList(*columns).to_dict()
    properties = {name: _null_first(of) for name, of in schema["properties"].items()}
    return {"type": "object", "properties": properties, "required": schema["required"]}


def _null_first(schema: dict[str, t.Any]) -> dict[str, t.Any]:
    """Spell the types of a column and its parts: one as text, null before another."""
    kinds = sorted(schema["type"], key=lambda kind: bool(kind != "null"))
    spelled = schema | {"type": kinds if len(kinds) > 1 else kinds[0]}
    if parts := schema.get("properties"):
        spelled["properties"] = {name: _null_first(of) for name, of in parts.items()}
    return spelled
