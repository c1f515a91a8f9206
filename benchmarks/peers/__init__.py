"""An adapter a file; each has PEERS, see benchmarks/peer.py. Adding one is that file, and a line in roster.py."""
