"""A worker process, an outside client, and Apache Kafka between them.

Nothing here looks into the worker: it is started as a user starts it, and judged by what is
in Kafka, by its state page, its log and its exit code.
"""
