"""What the delta action is compared with: system identification, delta dynamics, randomization."""
