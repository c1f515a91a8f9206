"""The benchmark: kworker and its peers side by side, measured from outside; `make bench`, docs/benchmarks.md."""
