"""The benchmark suites, each beside a comparator in the same run: `python -m bench create`, `python -m bench requests`.

They use a running platform (`--home`) or start one of their own through `bin/up`, and speak to it through its surfaces.
Results: a table on stdout, and JSON and the table in `bench/results/`.
"""
