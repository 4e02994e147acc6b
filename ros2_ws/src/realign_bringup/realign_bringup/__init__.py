"""Launch files and the Fast DDS profile; no code."""
