"""Planning: compile the step of a run for devices that are not here, and say what it needs."""
