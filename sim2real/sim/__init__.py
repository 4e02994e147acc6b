"""The simulator: robot models, named dynamics gaps, a stepper and batched rollouts (MuJoCo)."""
