"""What an offline run of wandb holds: records in LevelDB's format, for which wandb's Python has no reader."""

import json
import struct
from collections import defaultdict


def read_wandb(folder):
    """Return {kind: [record, ...]} of the one offline run under a run's folder."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = defaultdict(list)
    for data in _read_log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found[record.WhichOneof("record_type")].append(record)
    return found


def read_items(items):
    """Return {key: value} of a record's items."""
    return {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in items}


def read_summary(found):
    """Return the summary that the records lead to."""
    return {key: value for one in found["summary"] for key, value in read_items(one.summary.update).items()}


def _read_log_records(content, block_size=32768):
    """Yield the records after wandb's seven bytes of header."""
    at, record = 7, b""
    while at + 7 <= len(content):
        left = block_size - at % block_size
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""
