"""End-to-end throughput beside flowguard's peers: the same as `flowguard bench`.

python benchmarks/bench_end_to_end.py --broker HOST:PORT [--records 5000000] [--turns 3]

Prints records a second and CPU microseconds a record of a blocking socket that only receives
(the limit), plain Faust, aiokafka, confluent-kafka, Quix Streams and flowguard, and how many
times as fast as each other they are.
"""

from __future__ import annotations

import sys

from flowguard.cli import cli

if __name__ == "__main__":
    cli(["bench", *sys.argv[1:]], prog_name="flowguard")
