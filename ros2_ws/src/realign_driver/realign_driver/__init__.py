"""What the driver nodes of all robots share: commands in, sensors, task and health out."""
