"""What the network is told: the words of prompts, and directions between embeddings."""
