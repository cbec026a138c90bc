"""The parts that models are made of; each file holds one kind, and its table of names."""
