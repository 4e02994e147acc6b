"""What learns from bags: readers, episodes, the simulator, replay and delta-action models."""
