"""What the product does, a file a verb."""
