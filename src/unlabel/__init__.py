"""Pre-train vision backbones on your own unlabelled images, and measure what it brought."""
