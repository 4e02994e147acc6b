"""Closed-loop evaluation of chunk policies: success, smoothness, time, under delays and drops."""
