"""End-to-end throughput beside flowguard's peers: the same as `flowguard bench`.

python benchmarks/bench_end_to_end.py [--broker HOST:PORT] [--records 5000000] [--turns 3]

Prints records a second, CPU microseconds a record and peak memory of a blocking socket that only
receives (the limit), plain Faust, aiokafka, confluent-kafka, Quix Streams and flowguard, and how
many times as fast as each other they are. Without a broker it starts one.
"""

from __future__ import annotations

import sys

from brokers import kafka

from flowguard.cli import cli

if __name__ == "__main__":
    given = sys.argv[1:]
    if any(each.partition("=")[0] in ("--broker", "--help") for each in given):
        cli(["bench", *given], prog_name="flowguard")
    with kafka(None) as broker:
        cli(["bench", "--broker", broker, *given], prog_name="flowguard")
