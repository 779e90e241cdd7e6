"""Makes instances and volumes of EC2 for a test, and looks at its snapshots, past the
tools under test.

Reads one request a line, `["command", argument, ...]` in JSON, and answers each with one
line, `{"ok": value}` or `{"error": text}`, until its input ends. Where the server is comes
from the environment (`AWS_*`), as for any tool.
"""

import json
import sys

import boto3

ec2 = boto3.client("ec2")
# Any of those that moto comes with.
IMAGE = "ami-12c6146b"


def named(kind, name):
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]


def instance(name):
    """Starts an instance; gives its id."""
    made = ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, TagSpecifications=named("instance", name))
    return made["Instances"][0]["InstanceId"]


def volume(instance, device, name, snapshot):
    """Makes a volume, of a snapshot if one is given, and attaches it; gives its id."""
    found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    source = {"SnapshotId": snapshot} if snapshot else {"Size": 1}
    made = ec2.create_volume(
        AvailabilityZone=found["Placement"]["AvailabilityZone"], TagSpecifications=named("volume", name), **source
    )["VolumeId"]
    ec2.attach_volume(InstanceId=instance, VolumeId=made, Device=device)
    return made


def snapshots(volume):
    """Names of the snapshots of a volume, by their ids."""
    found = ec2.describe_snapshots(Filters=[{"Name": "volume-id", "Values": [volume]}])["Snapshots"]
    return {one["SnapshotId"]: {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])} for one in found}


commands = {"instance": instance, "volume": volume, "snapshots": snapshots}
for line in sys.stdin:
    command, *arguments = json.loads(line)
    try:
        answer = {"ok": commands[command](*arguments)}
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
