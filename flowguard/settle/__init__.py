"""Settle: what is finished, what may be committed, when a failed batch is tried again."""
