"""THE TRAINING: networks, batches and the one loop."""
