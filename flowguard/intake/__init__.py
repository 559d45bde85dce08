"""Intake: from the broker's bytes to columns.

    broker ─response─▶ FetchConnection ─frame─▶ Fetcher ─parse─▶ chunks ─▶ the engine
              ▲                                    │
              └────────── request ◀── MemoryBudget.reserve

- One request at a time on a connection; each broker has one connection for partitions
  that by rule hold only lanes with a target, and one for the rest.
- A partition is paused by leaving it out of the next request.
- Responses are received into one buffer a connection and parsed there; no record becomes
  a Python object.
- All of this runs on the consumer's thread. It shares two things with the event loop: the
  memory budget, and the calls that deliver what was fetched.
"""
