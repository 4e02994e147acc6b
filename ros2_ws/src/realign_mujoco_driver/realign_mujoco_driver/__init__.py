"""MuJoCo driver node."""
