"""Episodes: aligned, evenly sampled states and actions cut from bags."""
