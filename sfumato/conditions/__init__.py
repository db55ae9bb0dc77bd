"""What the network is conditioned on: the words of prompts, and directions between embeddings."""
