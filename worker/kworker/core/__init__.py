"""The pure core: decisions without threads, clocks, sockets or Kafka. Time is always an argument."""
