"""Dispatch: cut a batch, decode it, hand it to an agent, and learn how it ended."""
