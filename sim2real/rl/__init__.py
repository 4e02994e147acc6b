"""Reinforcement learning: proximal policy optimisation on vectorised environments."""
