"""Peers that only the benchmark knows, beside those of `flowguard bench`.

As there, each is a module with `setup(context) -> run` and `run(n) -> Reading`; it says at its
top how it is tuned. What they need is fetched on first use (`fetched.py`).
"""
