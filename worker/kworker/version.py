"""The version of kworker, in the one place that nothing else hangs on."""

__version__ = "0.1.0"
