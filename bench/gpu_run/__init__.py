"""`make gpu`: tests, benchmarks, time lines and a training on this GPU, in parts that can be resumed, and one report.

Needs no installation of rst. The files here but `timeline.py` and `results.py` import the standard library alone, so
that a missing package is said in one line. What measures, and the report, are processes of their own.
"""
