"""Foreground and segments of an image, one kind a file."""
