"""Training: objectives, optimizers, schedules, the training step and its state, and the loop."""
