"""Example pipelines: each is one app, ready for `flowguard worker -A pipelines.NAME`."""
