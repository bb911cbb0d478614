"""What learning from preferences and rewards does with torch."""
