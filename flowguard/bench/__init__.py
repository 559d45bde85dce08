"""`flowguard bench`: what this machine reads end to end, beside what others read on it.

    fill one topic ─▶ turn 1: limit, faust, aiokafka, … ─▶ turn 2: … ─▶ medians

- One run, one topic: everyone reads the same records, so ratios hold although machines,
  and hours on the same machine, differ.
- A fresh process for every reading, and peers in rotation, so that whatever else the
  machine does hits all of them alike.
- The clock starts at the first records handed over, which themselves do not count, and
  stops before the end of the topic: joining a group and waiting for a tail are not measured.
- Each peer is tuned as its documentation advises; how, stands in its module.

A peer is a module in `peers/` with `setup(context) -> run` and `run(n) -> Reading`.
"""
