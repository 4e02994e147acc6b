"""What runs at inference: interfaces, robots, checkpoints and the runtime. No ROS, no simulator."""
