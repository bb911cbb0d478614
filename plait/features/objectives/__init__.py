"""Objectives beside supervised fine-tuning: from preferences, and rewards of the user's own."""
