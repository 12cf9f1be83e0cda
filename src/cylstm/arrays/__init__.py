"""What callers hand in: arguments, how arrays lie, packed sequences."""
