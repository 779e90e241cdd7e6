"""Looks into the containers of a test, and changes them, past the tools under test.

Reads one request a line, `["command", argument, ...]` in JSON, and answers each
with one line, `{"ok": value}` or `{"error": text}`, until its input ends. Where
the server is comes from AZURE_STORAGE_CONNECTION_STRING, as for any tool.
"""

import json
import os
import sys
from datetime import datetime, timedelta, timezone

from azure.storage.blob import BlobServiceClient, generate_container_sas

service = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])


def mb(container):
    """Makes a container."""
    service.create_container(container)


def ls(container, prefix):
    """Names and sizes, in the order of the listing."""
    found = service.get_container_client(container).list_blobs(name_starts_with=prefix)
    return [[blob.name, blob.size] for blob in found]


def get(container, name, path):
    """Writes an object to a file."""
    with open(path, "wb") as file:
        service.get_blob_client(container, name).download_blob().readinto(file)


def put(container, name, path):
    """Makes or replaces an object from a file."""
    with open(path, "rb") as file:
        service.get_blob_client(container, name).upload_blob(file, overwrite=True)


def rm(container, name):
    """Deletes an object."""
    service.get_blob_client(container, name).delete_blob()


def tags(container, name):
    """The index tags of an object."""
    return service.get_blob_client(container, name).get_blob_tags()


def blocks(container, name):
    """How many blocks an object consists of, and how many wait uncommitted under its name."""
    committed, uncommitted = service.get_blob_client(container, name).get_block_list("all")
    return [len(committed), len(uncommitted)]


def stage(container, name, block):
    """Leaves an uncommitted block behind, as an upload that was killed."""
    service.get_blob_client(container, name).stage_block(block, b"left behind")


def sas(container, letters):
    """A signature that is good for an hour, for this container and what the letters allow."""
    return generate_container_sas(
        service.account_name,
        container,
        account_key=service.credential.account_key,
        permission=letters,
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


COMMANDS = {function.__name__: function for function in (mb, ls, get, put, rm, tags, blocks, stage, sas)}

for line in sys.stdin:
    command, *arguments = json.loads(line)
    try:
        answer = {"ok": COMMANDS[command](*arguments)}
    except Exception as error:  # told to the test, which fails
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
