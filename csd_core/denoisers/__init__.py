"""Families of diffusion models, each adapted to the one contract in base.py."""
