"""The commands of this part: train and convert."""
