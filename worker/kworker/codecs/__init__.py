"""From a payload's bytes to arguments checked against a task's signature: limits first, then types."""
