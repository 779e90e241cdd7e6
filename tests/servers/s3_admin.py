"""Looks into the buckets of a test, and changes them, past the tools under test.

Reads one request a line, `["command", argument, ...]` in JSON, and answers each
with one line, `{"ok": value}` or `{"error": text}`, until its input ends. Then it
empties the buckets that it made: servers keep all they have in memory. Where the
server is comes from the environment (`AWS_*`), as for any tool:

    echo '["ls", "bucket", ""]' | AWS_ENDPOINT_URL=... python s3_admin.py
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

s3 = boto3.client(
    "s3",
    # Path style, because 127.0.0.1 has no subdomains, and no checksums that old
    # servers do not know.
    config=Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    ),
)


def pages(operation, field, **arguments):
    """The entries under `field` of all pages."""
    for page in s3.get_paginator(operation).paginate(**arguments):
        yield from page.get(field, [])


made = []


def mb(bucket, lock=False):
    """Makes a bucket, with object lock if asked for."""
    made.append(bucket)
    s3.create_bucket(Bucket=bucket, **({"ObjectLockEnabledForBucket": True} if lock else {}))


def ls(bucket, prefix):
    """Keys and sizes, in the order of the listing."""
    return [[entry["Key"], entry["Size"]] for entry in pages("list_objects_v2", "Contents", Bucket=bucket, Prefix=prefix)]


def etags(bucket, prefix):
    """Keys, and what the server says of their content."""
    found = pages("list_objects_v2", "Contents", Bucket=bucket, Prefix=prefix)
    return {entry["Key"]: entry["ETag"] for entry in found}


def uploads(bucket):
    """Keys of the multipart uploads that are neither completed nor aborted."""
    return [entry["Key"] for entry in pages("list_multipart_uploads", "Uploads", Bucket=bucket)]


def get(bucket, key, path):
    """Writes an object to a file."""
    s3.download_file(bucket, key, path)


def put(bucket, key, path):
    """Makes an object of a file, in one request."""
    with open(path, "rb") as body:
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def fill(bucket, objects):
    """Makes an object of each text, by key."""
    def one(key):
        s3.put_object(Bucket=bucket, Key=key, Body=objects[key].encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, objects))


def retain(bucket, key, until):
    """Locks an object until a time, in ISO 8601."""
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    s3.put_object_retention(Bucket=bucket, Key=key, Retention=retention)


def hold(bucket, key, status):
    """Sets the legal hold of an object, ON or OFF."""
    s3.put_object_legal_hold(Bucket=bucket, Key=key, LegalHold={"Status": status})


def begin(bucket, key):
    """Begins an upload in parts and sends one of them."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"part")


def policy(bucket, text):
    """Sets who else may do what in a bucket; nobody anything if the text is empty."""
    if text:
        s3.put_bucket_policy(Bucket=bucket, Policy=text)
    else:
        s3.delete_bucket_policy(Bucket=bucket)


def rm(bucket, key):
    """Deletes an object."""
    s3.delete_object(Bucket=bucket, Key=key)


def tags(bucket, key):
    """The tags of an object, by key."""
    found = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def head(bucket, key):
    """What the answer to HEAD says, as header fields in lower case."""
    return s3.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]


functions = (mb, ls, etags, uploads, get, put, fill, retain, hold, begin, policy, rm, tags, head)
commands = {function.__name__: function for function in functions}
for line in sys.stdin:
    try:
        name, *arguments = json.loads(line)
        answer = {"ok": commands[name](*arguments)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)

for bucket in made:
    # What is locked stays.
    try:
        keys = [{"Key": key} for key, _ in ls(bucket, "")]
        for start in range(0, len(keys), 1000):
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys[start : start + 1000], "Quiet": True})
    except Exception as error:
        print(f"s3_admin: {bucket} was not emptied: {error}", file=sys.stderr)
