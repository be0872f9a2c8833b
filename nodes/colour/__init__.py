"""Nodes for tones and colours: of finished pictures, and of latents while they are sampled."""

NODES = []
