"""Few-shot learning: classifiers on embeddings, episodes to judge on, other libraries' episodes."""
