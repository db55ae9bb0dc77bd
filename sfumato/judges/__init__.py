"""Networks that look at images and judge them, and the distances made of them, by name."""
