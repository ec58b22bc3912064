"""Modules with parameters that turn features into predictions."""
