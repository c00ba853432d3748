"""Quality measured without labels."""
