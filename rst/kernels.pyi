from kernels import *  # noqa: F403 - leads type checkers through the folder mapping of pyproject.toml
