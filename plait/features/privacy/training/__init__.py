"""What private records plug into training."""
