"""A policy in another process or on another machine: msgpack with NumPy over a websocket."""
