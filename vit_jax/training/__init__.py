"""Training: the step, its state, losses, optimizers and schedules, and the loop around them."""
