"""The loop, its schedule, optimiser, checkpoints and monitors."""
