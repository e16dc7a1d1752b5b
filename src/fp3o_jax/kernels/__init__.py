"""What a machine must be told to be fast. Imports nothing of this package."""
