"""Priority lanes: what they are, and which record belongs to which.

- A lane is a priority class. The order of `App(lanes=[…])` is the one order of
  priority of a worker, highest first.
- A rule is a pure function of the record, so every worker puts a record into the
  same lane, whatever else it is doing.
- Rules are applied inside the parser (`ext/wire.pyx`), before a record costs anything.
"""
