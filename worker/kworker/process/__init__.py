"""What kworker is as a process of its system: process 1 of a container, a service of systemd, one that may be stuck."""
