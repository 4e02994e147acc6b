"""Open-loop replay of logged actions, and how far the simulator ends up from the log."""
