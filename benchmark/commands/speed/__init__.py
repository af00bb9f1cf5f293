"""`chxbench speed`: latency, throughput and memory of methods."""
