"""Trains a grid of settings under several seeds, and puts all results into one table and two figures.

Run it in the tree's root, see `python -m tools.study --help`. In the order of the work: `plan.py` reads the study,
`work.py` trains its runs, `results.py` reads what they logged, `table.py` and `figures.py` show it.
"""
