"""What several methods are built from: heads, losses, tokenizers."""
