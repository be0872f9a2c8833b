"""Nodes that score finished pictures."""

NODES = []
