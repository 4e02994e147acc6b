"""Policy node and guard node."""
