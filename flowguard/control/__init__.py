"""Decisions that keep the worker within its limits; no I/O, no clock."""
