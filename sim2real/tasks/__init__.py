"""Tasks in the simulator: goals, data collection and closed-loop evaluation."""
