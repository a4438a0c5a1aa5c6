"""The tfrecord format, read back by protobuf; TensorFlow itself reads it in tests/compat/readers."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.common.errors import DatasetError
from pipeline.formats import FORMATS, Labels, SampleType
from pipeline.formats.image import encode_pngs
from pipeline.formats.tf_example import (
    Kind,
    decoded_integer,
    decoded_values,
    encoded_integer,
    encoded_values,
    examples,
    framed_example,
)
from pipeline.spec.plan import Shard
from pipeline.stores import Store
from tests.formats.suite import ANY_SHAPE, CLASSES, SHARD, FormatSuite, Samples, make_samples, write_shard

LABELLED = ANY_SHAPE[0]
NAME = "shards/00000003.tfrecord"
INDEX = "shards/00000003.tfrecord.idx"


#: The messages of example.proto and feature.proto, under a name of their own, since TensorFlow has theirs.
_PROTO = """
    name: "ours.proto" package: "ours" syntax: "proto3"
    message_type { name: "Bytes" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
    message_type { name: "Floats" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
    message_type { name: "Int64s" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
    message_type {
        name: "Feature" oneof_decl { name: "kind" }
        field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: "Bytes" oneof_index: 0 }
        field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: "Floats" oneof_index: 0 }
        field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: "Int64s" oneof_index: 0 }
    }
    message_type {
        name: "Features"
        field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "FeatureEntry" }
        nested_type {
            name: "FeatureEntry" options { map_entry: true }
            field { name: "key" number: 1 type: TYPE_STRING }
            field { name: "value" number: 2 type: TYPE_MESSAGE type_name: "Feature" }
        }
    }
    message_type { name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: "Features" } }
"""
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_EXAMPLE = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("ours.Example"))


def _checksum(data: bytes) -> int:
    """The masked CRC-32C, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size, checked = struct.unpack_from("<QI", data, at)
        message = data[at + 12 : at + 12 + size]
        assert checked == _checksum(data[at : at + 8])
        assert struct.unpack_from("<I", data, at + 12 + size)[0] == _checksum(message)
        yield message
        at += 16 + size


class TestTfrecord(FormatSuite):
    name = "tfrecord"
    samples = ANY_SHAPE
    refused = (
        (SampleType(shape=(4,), dtype="float64", class_names=None), "tfrecord stores float32 or float16 or uint8"),
        (SampleType(shape=(6, 5, 1), dtype="uint8", class_names=CLASSES, layout="class"), "no layout 'class'"),
    )

    def read_otherwise(self, root: Path, sample: SampleType) -> tuple[Samples, Labels | None]:
        samples: list[Samples] = []
        labels: list[int] = []
        for row, data in enumerate(_messages((root / NAME).read_bytes())):
            example = _EXAMPLE.FromString(data)
            assert example.SerializeToString(deterministic=True) == data
            feature = example.features.feature
            assert feature["index"].int64_list.value == [SHARD.first + row]
            labels += feature["label"].int64_list.value if "label" in feature else []
            if "image" in feature:
                with Image.open(io.BytesIO(feature["image"].bytes_list.value[0])) as image:
                    samples.append(np.asarray(image).reshape(sample.shape))
            else:
                stored = feature["sample"]
                values = stored.int64_list.value if sample.dtype == "uint8" else stored.float_list.value
                samples.append(np.array(values, sample.dtype).reshape(sample.shape))
        return np.stack(samples), np.array(labels) if labels else None

    def damage(self, root: Path, sample: SampleType) -> Iterator[tuple[Path, bytes]]:
        path, index = root / NAME, root / INDEX
        whole, lines = path.read_bytes(), index.read_bytes().splitlines(keepends=True)
        yield from ((path, data) for data in (b"", whole[:5], whole[:-1], b"x" + whole[1:]))
        for at in (0, 8, 12, 40, len(whole) // 2, len(whole) - 1):
            yield path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        # Records that are whole, of other samples or with other features.
        size = int(lines[0].split()[1])
        if len({line.split()[1] for line in lines}) == 1:
            yield path, whole[size : 2 * size] + whole[:size] + whole[2 * size :]
        text = b"".join(lines)
        bad_indexes = (b"", b"x", b"".join(lines[:-1]), b"9" * 5000, text.replace(b"0 ", b"5 ", 1), text + b"-1 -1")
        yield from ((index, data) for data in bad_indexes)


@pytest.mark.parametrize("missing", ["image", "index", "label"])
def test_features_that_are_missing(store: Store, missing: str) -> None:
    shard = Shard(index=3, first=0, count=1)
    image = next(encode_pngs(np.zeros((1, 6, 5, 1), np.uint8)))
    features = [("image", Kind.BYTES, image), ("index", Kind.INTEGERS, b"\0"), ("label", Kind.INTEGERS, b"\1")]
    record = framed_example([feature for feature in features if feature[0] != missing])
    store.write(NAME, record)
    store.write(INDEX, b"0 %d\n" % len(record))
    with pytest.raises(DatasetError, match=f"{NAME} is malformed: a record has no {missing}"):
        FORMATS["tfrecord"].read(store, shard, LABELLED, None)


def test_an_index_beyond_the_file(store: Store) -> None:
    samples, labels = make_samples(LABELLED)
    write_shard(FORMATS["tfrecord"], store, LABELLED, samples, labels)
    lines = store.read(INDEX).splitlines(keepends=True)
    store.write(INDEX, b"".join(lines[:-1]) + lines[-1].split()[0] + b" 99999999999999\n")
    with pytest.raises(DatasetError, match="malformed: it ends before"):
        FORMATS["tfrecord"].read(store, SHARD, LABELLED, labels)
    np.testing.assert_array_equal(FORMATS["tfrecord"].read_rows(store, SHARD, LABELLED, labels, slice(2)), samples[:2])


def test_the_index_names_each_record_as_dali_does(store: Store) -> None:
    write_shard(FORMATS["tfrecord"], store, LABELLED, *make_samples(LABELLED), cuts=(2,))
    data, expected, at = (Path(store.url) / NAME).read_bytes(), [], 0
    while at < len(data):
        size = 8 + 4 + struct.unpack_from("<Q", data, at)[0] + 4
        expected.append(f"{at} {size}\n")
        at += size
    assert (Path(store.url) / INDEX).read_text() == "".join(expected)
    assert len(expected) == SHARD.count


def test_rows_are_read_without_the_rest(store: Store) -> None:
    shard = Shard(index=3, first=0, count=200)
    samples, labels = make_samples(LABELLED, count=shard.count)
    write_shard(FORMATS["tfrecord"], store, LABELLED, samples, labels, shard=shard)
    path, index = Path(store.url) / NAME, (Path(store.url) / INDEX).read_text().splitlines()
    start, stop = (int(index[row].split()[0]) for row in (10, 20))
    path.write_bytes(b"x" * start + path.read_bytes()[start:stop])
    rows = FORMATS["tfrecord"].read_rows(store, shard, LABELLED, labels, slice(10, 20))
    np.testing.assert_array_equal(rows, samples[10:20])


@given(st.dictionaries(st.text(max_size=9), st.binary(max_size=300), max_size=4))
def test_every_example_comes_back(features: dict[str, bytes]) -> None:
    record = framed_example([(name, Kind.BYTES, features[name]) for name in sorted(features)])
    if features:
        [found] = examples(record)
        assert found == {name: (Kind.BYTES, values) for name, values in features.items()}


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_come_back(value: int) -> None:
    assert decoded_integer(encoded_integer(value)) == value


@given(arrays(np.uint8, st.integers(1, 300)))
def test_bytes_come_back(values: np.ndarray) -> None:
    kind, encoded = encoded_values(values)
    sample = SampleType(shape=values.shape, dtype="uint8", class_names=None)
    np.testing.assert_array_equal(decoded_values(kind, encoded, sample), values)


@given(st.integers(0, 120), st.binary(min_size=0, max_size=8))
def test_damaged_records_are_a_value_error(position: int, junk: bytes) -> None:
    record = framed_example([("a", Kind.BYTES, b"z" * 60), ("b", Kind.INTEGERS, encoded_integer(300))])
    damaged = record[:position] + junk + record[position + len(junk) :]
    if damaged != record:
        with pytest.raises(ValueError, match=r"record|cut|message"):
            list(examples(damaged))
