"""Training: the step, its state, objectives, optimizers and schedules, and the loop around them."""
