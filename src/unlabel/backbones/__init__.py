"""timm models read as tokens, maps and vectors."""
