"""What a model's outputs lose to int8, and how they are repaired."""
