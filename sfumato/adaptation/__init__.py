"""What is fitted to images: weights, low-rank matrices and embeddings, and where they are stored."""
