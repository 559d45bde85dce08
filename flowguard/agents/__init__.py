"""The Faust side of one batch: agents, their streams, and the events in them.

    engine ─StartBatch─▶ dispatch ─Delivered─▶ FeedStream ─Batch─▶ the agent's function
                                       ▲                                 │ yield, send
                                       └── returned · failed ◀───────────┘

- An agent on a feed is a `faust.Agent`; only its stream and its error handling differ.
- Coming back for the next batch means *finished*. An exception, `return` or `break`
  means *failed*, and the function is entered again at once; Faust's supervisor never
  sees it.
- Whatever is sent while a batch is current holds that batch until it is acknowledged.
"""
