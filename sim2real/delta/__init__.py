"""Delta-action models: the correction to an action that makes the simulator move like the robot."""
