"""What a backbone is worth with labels: kNN, linear probe, fine-tuning."""
