"""io.prometheus.client, as prometheus/client_model's metrics.proto has it, for Google's protobuf.

Its fields are listed here and nothing is generated: what decodes our messages shall not be ours.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {"double": 1, "uint64": 4, "string": 9, "uint32": 13, "sint32": 17, "sint64": 18}
_OPTIONAL, _REPEATED, _MESSAGE, _ENUM = 1, 3, 11, 14
_MESSAGES = {
    "LabelPair": "string name 1, string value 2",
    "Gauge": "double value 1",
    "Counter": "double value 1",
    "Bucket": "uint64 cumulative_count 1, double upper_bound 2",
    "BucketSpan": "sint32 offset 1, uint32 length 2",
    "Histogram": "uint64 sample_count 1, double sample_sum 2, *Bucket bucket 3, sint32 schema 5,"
    "double zero_threshold 6, uint64 zero_count 7, *BucketSpan negative_span 9,"
    "*sint64 negative_delta 10, *BucketSpan positive_span 12, *sint64 positive_delta 13",
    "Metric": "*LabelPair label 1, Gauge gauge 2, Counter counter 3, Histogram histogram 7",
    "MetricFamily": "string name 1, string help 2, MetricType type 3, *Metric metric 4,"
    "string unit 5",
}
_ENUM_VALUES = ("COUNTER", "GAUGE", "SUMMARY", "UNTYPED", "HISTOGRAM", "GAUGE_HISTOGRAM")


def _family():
    file = descriptor_pb2.FileDescriptorProto(
        name="metrics.proto", package="io.prometheus.client", syntax="proto2"
    )
    kinds = file.enum_type.add(name="MetricType")
    for number, name in enumerate(_ENUM_VALUES):
        kinds.value.add(name=name, number=number)
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for field in fields.split(","):
            kind, name, number = field.split()
            label = _REPEATED if kind.startswith("*") else _OPTIONAL
            kind = kind.lstrip("*")
            added = described.field.add(name=name, number=int(number), label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = _ENUM if kind == "MetricType" else _MESSAGE
                added.type_name = f".io.prometheus.client.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("io.prometheus.client.MetricFamily")
    return message_factory.GetMessageClass(found)


MetricFamily = _family()


def decode(body: bytes) -> list:
    """The MetricFamily messages of a delimited exposition; fails where a byte is left over."""
    found = []
    while body:
        length = shift = 0
        while True:
            byte, body = body[0], body[1:]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert length <= len(body)
        message = MetricFamily()
        message.ParseFromString(body[:length])
        assert not unknown(message)
        found.append(message)
        body = body[length:]
    return found


def unknown(message) -> bool:
    """Whether a field is there that metrics.proto does not have."""
    from google.protobuf import unknown_fields

    if len(unknown_fields.UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.type == _MESSAGE:
            many = value if field.is_repeated else [value]
            if any(unknown(one) for one in many):
                return True
    return False
