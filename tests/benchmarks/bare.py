"""The least that can be done: ask for each page, write each customer."""

import json
import sys

import msgspec
import requests

config = json.load(open(sys.argv[2]))  # noqa: PTH123, SIM115
session, write = requests.Session(), sys.stdout.buffer.write
session.headers["Authorization"] = f"Bearer {config['auth_token']}"
cursor, encode = None, msgspec.json.encode
while True:
    parameters = {"per_page": 100, "cursor": cursor}
    response = session.get(f"{config['api_url']}/customers", params=parameters)
    page = msgspec.json.decode(response.content)
    for row in page["data"]:
        message = {"type": "RECORD", "stream": "customers", "record": row}
        write(encode(message) + b"\n")
    if not page["meta"]["has_more"]:
        break
    cursor = page["meta"]["next_cursor"]
