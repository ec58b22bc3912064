"""Boxes, masks and the layout of maps: algebra without parameters."""
