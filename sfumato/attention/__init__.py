"""What a branch takes from another inside the attention layers."""
