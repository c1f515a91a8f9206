"""Dead letters as something to work with: what is there, put back where it came from, or marked as dealt with.

`Letters` reads a dead-letter topic, `Settling` puts letters back or marks them resolved, `Resolver` writes both in one
transaction; the rest decides and does no input or output. What is resolved lives in a consumer group of the topic:
the first unresolved offset, and those resolved above it in its metadata, as a worker keeps its finished ones.
"""
