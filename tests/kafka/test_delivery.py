"""What goes in comes out: every record once, in its lane, on its partition, or in dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.kafka.outside import Outside, Record, headers_of, json_of
from tests.kafka.worker import Workers

SCORING = """
realtime = fg.Lane("realtime", target="50ms")
bulk = fg.Lane("bulk")
app = fg.App(APP, broker=BROKER, lanes=[realtime, bulk])
orders = app.feed(
    ORDERS,
    columns={"id": "int64", "account": "string"},
    lanes=fg.by_header("lane", {"fast": realtime, "slow": bulk}, default=bulk),
)
scores = app.feed(SCORES, key_by="account")

@app.agent(orders, sink=[scores])
async def score(batches):
    async for batch in batches:
        yield batch.to_polars().with_columns(score=pl.col("id") * 2)
"""

N = 20_000

LANE_HEADERS: list[tuple[list[tuple[str, bytes | None]], bytes]] = [
    ([("lane", b"fast")], b"realtime"),
    ([("lane", b"slow")], b"bulk"),
    ([], b"bulk"),
    ([("lane", b"no such lane")], b"bulk"),
    ([("lane", None)], b"bulk"),
    ([("lane", b"slow"), ("other", b"x"), ("lane", b"fast")], b"realtime"),  # the last counts
]


def trace_of(number: int, lane: bytes) -> bytes:
    """Return the trace of a record: that of all in the real-time lane, one of its own in bulk."""
    return b"00-%032x-%016x-01" % ((1, 1) if lane == b"realtime" else (number + 2, 7))


def test_every_record_goes_through_its_lane_to_the_partition_of_its_key_exactly_once(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, scores, twin = topic("orders", 4), topic("scores", 4), topic("twin", 4)
    cases = [LANE_HEADERS[number % len(LANE_HEADERS)] for number in range(N)]
    outside.produce(
        orders,
        (
            Record(
                {"id": number, "account": f"account-{number % 997}"},
                headers=[*headers, ("traceparent", trace_of(number, lane))],
            )
            for number, (headers, lane) in enumerate(cases)
        ),
    )

    worker = workers.start(SCORING, ORDERS=orders, SCORES=scores)
    worker.until(lambda: outside.is_done(worker.group, orders), what="not all is committed")

    assert all(outside.ends(orders).values()), "a partition of the test got no records"
    found = outside.read(scores)
    rows = [json_of(message) for message in found]
    assert sorted(row["id"] for row in rows) == list(range(N))
    assert all(row["score"] == 2 * row["id"] for row in rows)
    assert [message.key() for message in found] == [row["account"].encode() for row in rows]
    assert [headers_of(message)["fg-lane"] for message in found] == [
        cases[row["id"]][1] for row in rows
    ]
    for message, row in zip(found, rows, strict=True):
        lane, own = cases[row["id"]][1], trace_of(row["id"], cases[row["id"]][1])
        named = headers_of(message).get("traceparent")
        assert named == own or (named is None and lane == b"bulk"), "a trace of another record"
    java = {
        message.key(): message.partition()
        for message in outside.produce(twin, [Record({}, key) for key in keys(found)])
    }
    assert {(message.key(), message.partition()) for message in found} == set(java.items())

    lanes = worker.state["lanes"]
    of_lane = Counter(lane for _, lane in cases)
    assert lanes["realtime"]["settled"] == of_lane[b"realtime"]
    assert lanes["bulk"]["settled"] == of_lane[b"bulk"]


def keys(messages: list) -> set[bytes]:
    return {message.key() for message in messages}


COPYING = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64", "name": "string"})
copies = app.feed(COPIES)

@app.agent(events, sink=[copies])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars(meta=True).select("id", "name", offset="_offset")
"""

GOOD: list[tuple[bytes | None, dict[str, object]]] = [
    (b'{"id": 1, "name": "one"}', {"id": 1, "name": "one"}),
    (b'{"id": 2}', {"id": 2, "name": None}),
    (b'{"id": 3, "name": "three", "more": [1, {"x": 2}]}', {"id": 3, "name": "three"}),
    (b'{"name":\n"over\\ntwo", "id":\n4}', {"id": 4, "name": "over\ntwo"}),
    (b"{}", {"id": None, "name": None}),
    (None, {"id": None, "name": None}),  # a tombstone
]
BAD = [
    b"not json",
    b'{"id": 5',
    b'{"id": "five"}',
    b'{"id": 6}{"id": 7}',
    b'{"id": 8}\n{"id": 9}',
    b"\xff\xfe\x00",
    b'{"id": 99999999999999999999}',
]


def test_values_that_cannot_be_decoded_become_dead_letters_and_the_others_go_on(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, copies = topic("events"), topic("copies")
    records: list[Record] = []
    expected: dict[int, dict[str, object]] = {}
    for number in range(600):
        value, row = GOOD[number % len(GOOD)]
        expected[len(records)] = row
        records.append(Record(value, b"good"))
        if number % 100 == 50 or number < len(BAD):  # alone among good ones, and in a row
            bad = BAD[number % len(BAD)]
            headers = [("trace", b"%d" % number), ("trace", b"again"), ("empty", None)]
            records.append(Record(bad, b"\x00bad", headers, timestamp=1_600_000_000_000 + number))
    outside.produce(events, records)

    worker = workers.start(COPYING, EVENTS=events, COPIES=copies)
    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    rows = {row.pop("offset"): row for row in outside.values(copies)}
    assert rows == expected
    assert outside.count(copies) == len(expected)

    bad_sent = [message for message in outside.read(events) if message.key() == b"\x00bad"]
    letters = sorted(
        outside.read(f"{worker.group}.dlq"),
        key=lambda message: int(headers_of(message)["fg-orig-offset"] or -1),
    )
    assert len(letters) == len(bad_sent)
    for letter, original in zip(letters, bad_sent, strict=True):
        assert (letter.key(), letter.value()) == (original.key(), original.value())
        kept = [each for each in letter.headers() if not each[0].startswith("fg-")]
        assert kept == original.headers()
        added = {
            name: (text or b"").decode()
            for name, text in letter.headers()
            if name.startswith("fg-")
        }
        assert added.pop("fg-error-reason")
        assert added == {
            "fg-error-type": "Undecodable",
            "fg-attempt": "1",
            "fg-orig-topic": events,
            "fg-orig-partition": "0",
            "fg-orig-offset": str(original.offset()),
            "fg-orig-timestamp": str(original.timestamp()[1]),
        }
    counts = worker.lane("default")
    assert (counts["settled"], counts["dead_letters"]) == (len(expected), len(bad_sent))


POISONED = """
fast, bulk = fg.Lane("fast", target="50ms"), fg.Lane("bulk")
app = fg.App(APP, broker=BROKER, lanes=[fast, bulk])
orders = app.feed(
    ORDERS, columns={"id": "int64"}, lanes=fg.by_header("lane", {"fast": fast}, default=bulk)
)
done = app.feed(DONE)

@app.agent(orders, sink=[done], batch=fg.BatchSize(max=50, by_partition=True),
           retries=fg.Retry(None, backoff="50ms..500ms"))
async def work(batches):
    async for batch in batches:
        frame = batch.to_polars(meta=True)
        if 7 in frame["id"] and not (HERE / "cured").exists():
            raise ValueError("seven is poison")
        yield frame.select("id", "_partition", lane=pl.lit(batch.lane.name))
"""


def test_a_record_on_which_the_agent_raises_holds_its_lane_of_its_partition_and_no_other(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, done = topic("orders", 3), topic("done", 3)
    fast = [("lane", b"fast")]
    poison_offset = outside.produce(
        orders, [Record({"id": number}, partition=0) for number in range(100)]
    )[7].offset()
    worker = workers.start(POISONED, ORDERS=orders, DONE=done)
    worker.until(lambda: worker.lane("bulk")["state"] == "stopped", what="it does not stop")
    assert "seven is poison" in worker.lane("bulk")["why"]
    assert f"{orders}[0]" in worker.lane("bulk")["why"]

    expected = Counter(range(7))
    for first, partition, lane in ((1000, 0, fast), (2000, 1, []), (3000, 2, [])):
        ids = range(first, first + 100)
        outside.produce(orders, [Record({"id": i}, None, lane, partition) for i in ids])
        expected.update(ids)
    ends = outside.ends(orders)
    worker.until(
        lambda: outside.committed(worker.group, orders) == ends | {0: poison_offset},
        what="the other partitions do not go on",
    )
    worker.until(lambda: worker.lane("fast")["settled"] == 100, what="the other lane waits, too")
    assert Counter(row["id"] for row in outside.values(done)) == expected

    (worker.directory / "cured").touch()
    worker.until(lambda: outside.is_done(worker.group, orders), what="the cure does not help")
    expected.update(range(7, 100))
    rows = [(message.partition(), json_of(message)) for message in outside.read(done)]
    assert Counter(row["id"] for _, row in rows) == expected
    for partition in range(3):
        for lane in ("fast", "bulk"):
            ids = [row["id"] for at, row in rows if at == partition and row["lane"] == lane]
            assert ids == sorted(ids), f"partition {partition}, lane {lane}: out of order"
    worker.until(lambda: worker.lane("bulk")["state"] == "ok", what="its state is still not ok")
    assert worker.stop() == 0


SENDING = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64"})
out = app.feed(OUT)
SIZES = [1000, 1, 40, 300, 2, 33, 5000, 3]  # by the row, as batches, encoded on a thread
sent = 0

@app.agent(events, sink=[out], batch=fg.BatchSize(max=10))
async def send(batches):
    global sent
    async for batch in batches:
        size = SIZES[batch.to_polars()["id"][0] // 10 % len(SIZES)]
        yield pl.DataFrame({"number": range(sent, sent + size), "text": "x" * 200})
        sent += size
"""


def test_outputs_are_written_in_the_order_in_which_they_were_sent_whatever_their_size(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, out = topic("events"), topic("out")
    outside.produce(events, [Record({"id": number}) for number in range(400)])
    worker = workers.start(SENDING, EVENTS=events, OUT=out)
    worker.until(lambda: outside.is_done(worker.group, events))
    numbers = [row["number"] for row in outside.values(out)]
    assert len(numbers) > 30_000
    assert numbers == sorted(numbers)
