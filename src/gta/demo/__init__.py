"""`gta demo`: plain and guided fine-tuning side by side."""
