"""Hosts that run one command together, the device mesh, sharding, and preemption."""
