"""A worker on a virtual clock: a simulated broker and provider around the real Engine."""
