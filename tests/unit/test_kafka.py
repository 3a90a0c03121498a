"""Partitions and batches as this product uses them."""

from __future__ import annotations

import pytest

from tidelock.kafka import murmur2_partition


@pytest.mark.parametrize(
    ("key", "signed"),
    # Vectors of Kafka's own test of Utils.murmur2 (UtilsTest.testMurmur2).
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partitions_are_those_of_java_clients(key: bytes, signed: int) -> None:
    for n in (1, 3, 8, 50):
        assert murmur2_partition(key, n) == (signed & 0x7FFFFFFF) % n
