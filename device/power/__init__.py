"""What a board draws: power meters behind one contract, and energy from their samples."""
