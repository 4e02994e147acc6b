"""Generative chunk policies: diffusion, flow matching, streaming, autoregressive."""
