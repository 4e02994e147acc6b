"""Launch files, what they share, and the Fast DDS profile."""
